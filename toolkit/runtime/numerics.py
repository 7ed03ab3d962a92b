"""Levels of exactness: how equality with AR is meant on this machine, for this model and dtype.

`bitwise`: logits and KV have the bits that AR's have. `fp32`: tokens are the same, as tested. `tie`: in
lower precision with stock kernels, up to numerical ties. The first is claimed only after whole passes
were compared with AR's, bit by bit.
"""

from __future__ import annotations

import random
from weakref import WeakKeyDictionary

import torch
from attrs import frozen

from toolkit.runtime.compute.linears.fastest import module_key
from toolkit.runtime.kernels import native, structs
from toolkit.runtime.machine.remembered import remembered
from toolkit.runtime.models.load import LoadedModel
from toolkit.runtime.session import ModelSession

PROMPT = 19  # tokens before the first passes that are compared
SIZES = (1, 2, 3, 5, 8, 12, 16, 17, 24, 32, 33, 48, 64)  # of trees after it
CONTEXTS = (127, 511, 2047)  # longer contexts, each just before an edge of the kernels' blocks
FEW = (3, 33)  # sizes of trees after each of them
PROBED = 2048  # tokens of context that every claim holds for, if the model can address so many
ACCEPTED = 3  # tokens that each tree commits at most
DEEPEST = 64  # no random tree is deeper


@frozen
class Level:
    """A level's name, and what speaks for it or against a higher one."""

    name: str
    why: str


_levels: WeakKeyDictionary[LoadedModel, dict[int, Level]] = (
    WeakKeyDictionary()
)  # by longest context


def level_of(model: LoadedModel, length: int = PROBED) -> Level:
    """The level that a loaded model reaches here, for requests of up to `length` tokens.

    Compared once on each machine for a model's architecture, sizes and dtype, then remembered.
    """
    longest = longest_probed(model, length)
    known = _levels.setdefault(model, {})
    if longest not in known:
        known[longest] = _found(model, longest)
    return known[longest]


def _found(model: LoadedModel, longest: int) -> Level:
    reason = _against(model)
    if reason is None:
        about = "level", str(longest), model.executor.name, model.executor.linears
        reason = remembered(
            (*about, *module_key(model.module)),
            lambda: {"differs": differs(model, longest)},
            "Comparing the bits of trees with AR's (once)",
        )["differs"]
    if reason is None:
        return Level(
            "bitwise",
            f"trees of {SIZES[0]} to {SIZES[-1]} nodes gave AR's bits, after up to {longest} tokens",
        )
    exact = model.dtype in (torch.float32, torch.float64)
    return Level("fp32" if exact else "tie", f"not bitwise: {reason}")


def longest_probed(model: LoadedModel, length: int = PROBED) -> int:
    """The longest context at which trees are compared for requests of up to `length` tokens: that of
    `PROBED` ones, then the powers of two, as far as the model goes."""
    return min(max(PROBED, 1 << (length - 1).bit_length()), model.positions)


def _against(model: LoadedModel) -> str | None:
    """What rules `bitwise` out without a comparison."""
    if model.device.type != "cpu":
        return "no kernels of ours on this device"
    if model.dtype not in structs.DTYPES:
        return f"no kernels of ours for {str(model.dtype).removeprefix('torch.')}"
    if native.library() is None:
        return native.why_not() or "compiled kernels are switched off"
    if not model.executor.batch_invariant:
        return (
            "a linear's bits depend on how many rows it is given"
            if model.executor.name == "functional"
            else "only the functional executor's linears are known to keep a row's bits"
        )
    return None


def differs(model: LoadedModel, longest: int = PROBED) -> str | None:
    """Where a tree's bits are not AR's, over trees of many sizes after contexts of up to `longest`
    tokens; None where they all are."""
    rng = random.Random(0)  # noqa: S311 no secrets
    ar, trees = (ModelSession(model) for _ in range(2))
    room = min(longest, model.positions - DEEPEST)  # for committed tokens
    prompt = _tokens(max(1, min(PROMPT, room)), model.vocabulary, rng)
    for session in (ar, trees):
        session.prefill(prompt)
    for context, sizes in [(PROMPT, SIZES), *((c, FEW) for c in (*CONTEXTS, longest))]:
        gap = min(context, room) - trees.length
        for session in (ar, trees) if gap > 0 else ():
            _fill(session, gap, seed=context)
        for size in sizes:
            reason = _differ(ar, trees, min(size, model.positions - trees.length), rng)
            if reason is not None:
                return reason
    for (_, *ours), (_, *theirs) in zip(trees.cache.committed(), ar.cache.committed(), strict=True):
        if not all(map(torch.equal, ours, theirs)):
            return "keys or values after trees differ from AR's"
    return None


def _differ(ar: ModelSession, trees: ModelSession, size: int, rng: random.Random) -> str | None:
    """Commit a path in both sessions, of a tree of `size` nodes and token by token: how they differ."""
    if size < 1:
        return None
    path, logits = _tokens(min(ACCEPTED, size), trees.vocabulary, rng), []
    for token in path:
        logits.append(ar.forward([token], [-1]))
        ar.commit([0])
    tokens, parents, rows = _among_others(path, size, trees.vocabulary, rng)
    got, before = trees.forward(tokens, parents)[rows], trees.length
    trees.commit(rows)
    if torch.equal(got, torch.cat(logits)):
        return None
    return f"logits of a tree of {size} nodes after {before} tokens differ from AR's"


def _fill(session: ModelSession, count: int, seed: int) -> None:
    """Commit `count` rows of noise, the same for the same seed: a long context without the passes that
    would write it."""
    rng = torch.Generator().manual_seed(seed)
    for layer in session.cache.initialized:
        shapes = [(*part.shape[:2], count, part.shape[3]) for part in (layer.keys, layer.values)]
        layer.store(*(torch.randn(shape, generator=rng).to(layer.keys) for shape in shapes))
    session.cache.append(count)
    session.eviction.after_commit()


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
