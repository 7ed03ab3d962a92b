"""Tape: records and replays operations on the CPU, as CUDA graphs do on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Taping(TorchDispatchMode):
    """Writes down every operation, with the very tensors that it got and gave."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = operation(*args, **(kwargs or {}))
        self.operations.append((operation, args, kwargs or {}, result))
        return result


@define(eq=False)
class Tape:
    """Records as `CudaGraphs` does. A replay runs the same operations on the same tensors: what Python
    has read or decided is what it was when the tape was recorded."""

    def record(self, run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """As `Recorder.record`."""
        run()  # a capture warms up, too
        with Taping() as taping:
            result = run()

        def replay() -> None:
            for operation, args, kwargs, given in taping.operations:
                made = tree_leaves(operation(*args, **kwargs))
                for old, new in zip(tree_leaves(given), made, strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)

        return replay, result

    def both(
        self, first: Callable[[], Tensor], second: Callable[[], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """As `Recorder.both`; the second first, which must not matter."""
        other = second()
        return first(), other
