"""Compares an executor's logits with those of the module that it stands for."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor
from transformers import PreTrainedModel

from toolkit.runtime.compute.attention import HostRows, Pass
from toolkit.runtime.compute.cudnn import without_cudnn
from toolkit.runtime.compute.executors.captured import Captured
from toolkit.runtime.compute.executors.functional_executor import FunctionalExecutor
from toolkit.runtime.compute.executors.module_executor import ModuleExecutor
from toolkit.runtime.kv.cache import TreeCache
from toolkit.runtime.kv.policies import AllVisible, eviction_of
from toolkit.runtime.kv.rotary import Rotary

ROWS = 8  # tokens whose logits are compared
TOLERANCES = {torch.float64: 1e-6, torch.float32: 5e-3, torch.float16: 0.05, torch.bfloat16: 0.2}
"""Greatest distance of logits, as a share of their size: well above what the order of a sum changes."""


def probe(
    executor: FunctionalExecutor | ModuleExecutor,
    module: PreTrainedModel,
    windows: tuple[int | None, ...],
    last: int | None = None,
) -> Tensor:
    """Logits [N, V] that an executor of a module gives for a chain of `ROWS` tokens.

    Their ids go up to `last`, by default to the end of the vocabulary.
    """
    last = module.config.vocab_size - 1 if last is None else last
    now = chain_pass(module, windows, torch.linspace(0, last, ROWS).long().tolist())
    with nullcontext() if module.device.type == "cpu" else without_cudnn:
        return executor.forward(now)


def chain_pass(module: PreTrainedModel, windows: tuple[int | None, ...], tokens: list[int]) -> Pass:
    """A pass of N tokens, each after the one before, through a module with an empty cache."""
    count = len(tokens)
    cache = TreeCache(len(windows), windows)
    cache.extend(count)
    eviction = eviction_of(AllVisible(), cache, Rotary(()))
    return Pass(eviction, HostRows.chain(tokens), deepest=count - 1, device=module.device)


def find_difference(
    executor: FunctionalExecutor,
    expected: Tensor,
    module: PreTrainedModel,
    windows: tuple[int | None, ...],
) -> str | None:
    """How an executor's logits differ from the module's, `expected`, if by more than rounding."""
    if expected.is_meta:
        return None
    return _differ(probe(executor, module, windows), expected, module.dtype)


@torch.no_grad()
def find_difference_of_graphs(
    captured: Captured, expected: Tensor, module: PreTrainedModel, windows: tuple[int | None, ...]
) -> str | None:
    """As `find_difference`, of a captured pass, which has kernels of its own, or why capturing failed;
    None where there is no memory for it, or where a layer's window hides some of the tokens."""
    if expected.is_meta or any(window is not None and window < ROWS for window in windows):
        return None
    tokens = torch.linspace(0, module.config.vocab_size - 1, ROWS).long().tolist()
    try:
        graph = captured.chain_graph(tokens)
    except torch.OutOfMemoryError:  # which the first request will say
        return None
    if graph is None:
        return captured.failure
    graph.replay()
    return _differ(graph.logits[:ROWS], expected, module.dtype)


def _differ(logits: Tensor, expected: Tensor, dtype: torch.dtype) -> str | None:
    logits, wide = logits.double(), expected.double()
    distance, allowed = float((logits - wide).norm() / wide.norm()), TOLERANCES[dtype]
    if distance <= allowed:
        return None
    return f"its logits differ from the module's by {distance:.2g} of their size, over {allowed:g}"
