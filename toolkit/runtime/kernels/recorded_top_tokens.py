"""The kernels that find the likeliest tokens, recorded as a graph for logits of a shape that recurs."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import torch
from attrs import define, field
from torch import Tensor

from toolkit.runtime.kernels.graphs import Recorded, Recorder, recorder_for
from toolkit.runtime.kernels.triton.jit import power_of_two
from toolkit.runtime.kernels.triton.top_tokens import packed_top_tokens
from toolkit.transfer import fetch

OFTEN = 4  # calls, from which on a recording pays
MOST_ROWS = 64
MOST = 48  # recordings that are kept: each holds logits


@define(eq=False)
class RecordedTopTokens:
    """Finds the likeliest tokens on a GPU, as `toolkit.likeliest.Kernel`."""

    _calls: Counter[Any] = field(init=False, factory=Counter)
    _recorded: dict[Any, Recorded | None] = field(init=False, factory=dict)
    _recorders: dict[torch.device, Recorder | None] = field(init=False, factory=dict)

    def __call__(
        self, logits: Tensor, k: int, noise: Tensor | None = None, scale: float = 0.0
    ) -> memoryview:
        if noise is not None:
            logits = logits.add(noise[..., : logits.shape[1]], alpha=scale)
        (found,) = fetch(self.find(logits, k))
        return found.view(-1).numpy().data.cast("B")

    @torch.inference_mode(False)  # recordings outlive a caller's inference mode
    @torch.no_grad()
    def find(self, logits: Tensor, k: int) -> Tensor:
        """As `packed_top_tokens`; the next call may overwrite the result."""
        rows, vocabulary = power_of_two(len(logits)), logits.shape[1]
        key = rows, vocabulary, k, logits.dtype, logits.device
        self._calls[key] += 1
        if rows > MOST_ROWS or self._calls[key] < OFTEN:
            return packed_top_tokens(logits, k)
        if key not in self._recorded:
            if len(self._recorded) >= MOST:
                del self._recorded[next(iter(self._recorded))]  # the oldest
            self._recorded[key] = self._record(logits.new_zeros(rows, vocabulary), k)
        recorded = self._recorded[key]
        return packed_top_tokens(logits, k) if recorded is None else recorded(logits)[: len(logits)]

    def _record(self, like: Tensor, k: int) -> Recorded | None:
        """The kernels for logits like these; None where nothing records, or that fails."""
        if like.device not in self._recorders:  # one for each device: its recordings share memory
            self._recorders[like.device] = recorder_for(like.device)
        recorder = self._recorders[like.device]
        if recorder is None:
            return None
        try:
            return Recorded.of(recorder, partial(packed_top_tokens, k=k), like)
        except RuntimeError:
            return None
