"""Levels of exactness: how equality with AR is meant on this machine, for this model and dtype.

`bitwise`: logits and KV have the bits that AR's have. `fp32`: tokens are the same, as tested. `tie`: in
lower precision with stock kernels, up to numerical ties. The first is claimed only after whole passes
were compared with AR's, bit by bit.
"""

from __future__ import annotations

import random

import attrs
import torch
from attrs import frozen
from torch import Tensor

from toolkit.interfaces import KVPolicy
from toolkit.runtime.executors.choice import known_as
from toolkit.runtime.kernels import native, structs
from toolkit.runtime.machine import remembered
from toolkit.runtime.models import LoadedModel
from toolkit.runtime.session import ModelSession

PROMPT = 19  # tokens before the passes that are compared
SIZES = (1, 2, 3, 5, 8, 12, 16, 17, 24, 32, 33, 48, 64)  # of trees
ACCEPTED = 3  # tokens that each tree commits at most


@frozen
class Level:
    """A level's name, and what speaks for it or against a higher one."""

    name: str
    why: str


@attrs.define
class Everything(KVPolicy):
    """No policy."""

    def visible(self, query_pos: Tensor, key_pos: Tensor) -> Tensor:
        return (query_pos >= 0) & (key_pos >= 0)


def level_of(model: LoadedModel) -> Level:
    """The level that a loaded model reaches here."""
    reason = _against(model)
    if reason is None:
        about = "level", model.executor.name, model.executor.linears, *known_as(model.module)
        what = "Comparing bits with AR's (once)"
        reason = remembered(about, lambda: {"differs": differs(model)}, what)["differs"]
    if reason is None:
        return Level("bitwise", f"trees of {SIZES[0]} to {SIZES[-1]} nodes gave AR's bits")
    exact = model.dtype in (torch.float32, torch.float64)
    return Level("fp32" if exact else "tie", f"not bitwise: {reason}")


def _against(model: LoadedModel) -> str | None:
    """What rules `bitwise` out without a comparison."""
    if model.device.type != "cpu":
        return "no kernels of ours on this device"
    if model.dtype not in structs.DTYPES:
        return f"no kernels of ours for {str(model.dtype).removeprefix('torch.')}"
    if native.library() is None:
        return native.why_not() or "compiled kernels are switched off"
    if not model.executor.steady:
        return (
            "a linear's bits depend on how many rows it is given"
            if model.executor.name == "functional"
            else "only the functional executor's linears are known to keep a row's bits"
        )
    return None


def differs(model: LoadedModel) -> str | None:
    """Where a tree's bits are not AR's, over trees of many sizes; None where they all are."""
    rng = random.Random(0)  # noqa: S311 no secrets
    room = min(PROMPT + ACCEPTED * len(SIZES) + 1, model.positions)
    text = _tokens(room, model.vocabulary, rng)
    prompt = min(PROMPT, room // 2)
    ar, trees = (ModelSession(model, Everything()) for _ in range(2))
    ar.prefill(text[:prompt])
    trees.prefill(text[:prompt])
    for size in SIZES:
        path = text[trees.length : trees.length + min(ACCEPTED, size)]
        if not path:
            break
        logits = []
        for token in path:
            logits.append(ar.forward([token], [-1]))
            ar.commit([0])
        tokens, parents, rows = _among_others(path, size, model.vocabulary, rng)
        got = trees.forward(tokens, parents)[rows]
        trees.commit(rows)
        if not torch.equal(got, torch.cat(logits)):
            return f"logits of a tree of {size} nodes differ from AR's"
    for (_, *ours), (_, *theirs) in zip(trees.cache.committed(), ar.cache.committed(), strict=True):
        if not all(map(torch.equal, ours, theirs)):
            return "keys or values after trees differ from AR's"
    return None


def _among_others(
    path: list[int], size: int, vocabulary: int, rng: random.Random
) -> tuple[list[int], list[int], list[int]]:
    """Tokens and parents [size] of a tree that has `path` among random nodes, and the path's rows."""
    rows = [0, *sorted(rng.sample(range(1, size), len(path) - 1))]
    tokens = _tokens(size, vocabulary, rng)
    parents = [-1, *(rng.randrange(node) for node in range(1, size))]
    for token, row, parent in zip(path, rows, [-1, *rows], strict=False):
        tokens[row], parents[row] = token, parent
    return tokens, parents, rows


def _tokens(count: int, vocabulary: int, rng: random.Random) -> list[int]:
    return [rng.randrange(vocabulary) for _ in range(count)]
