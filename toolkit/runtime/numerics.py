"""Numerics levels: how exactly decoding by trees equals AR on this machine, for a model and dtype.

`bitwise`: logits and KV have the same bits as AR's; claimed only after whole passes were compared bit
by bit. `fp32`: tokens are the same, as tested. `tie`: tokens are the same up to numerical ties, in
lower precision, as TF32 is, with stock kernels.
"""

from __future__ import annotations

import random
from weakref import WeakKeyDictionary

import torch
from attrs import frozen

from toolkit.errors import NoMemoryError
from toolkit.runtime.compute.executors.fastest import module_key
from toolkit.runtime.kernels import native, structs
from toolkit.runtime.machine.gpu_numerics import gpu_numerics, multiplies_in_tf32
from toolkit.runtime.machine.remembered import remembered
from toolkit.runtime.models.load import LoadedModel
from toolkit.runtime.session import ModelSession

PROMPT = 19  # tokens before the first passes that are compared
SIZES = (1, 2, 3, 5, 8, 12, 16, 17, 24, 32, 33, 48, 64)  # of trees after it
CONTEXTS = (127, 511, 2047)  # longer contexts, each just before a block of the kernels ends
FEW = (3, 33)  # sizes of trees after each of them
PROBED = 2048  # tokens of context that are always compared, if the model has so many positions
ACCEPTED = 3  # tokens that each tree commits at most
DEEPEST = 64  # depth that no random tree exceeds


@frozen
class Level:
    """A level's name, and the reason for it or against a higher one."""

    name: str
    why: str


_levels: WeakKeyDictionary[LoadedModel, dict[tuple[int | str, ...], Level]] = (
    WeakKeyDictionary()
)  # by longest context, and a GPU's settings


def find_level(model: LoadedModel, length: int = PROBED, *, captured: bool = True) -> Level:
    """The level of a loaded model on this machine, for requests of up to `length` tokens.

    It is found once for a model's architecture, sizes and dtype, then remembered on disk. On a GPU,
    `captured` says whether graphs ran all of a request's passes after the prompt, none under masks.
    """
    longest, known = longest_probed(model, length), _levels.setdefault(model, {})
    key = longest, *(gpu_numerics() if model.device.type == "cuda" else ())
    if key not in known:
        known[key] = _compare(model, longest)
    if captured or model.executor.slabs is None or known[key].name != "bitwise":
        return known[key]
    return _without_bits(model, "some passes hid rows or ran layer by layer")


def _compare(model: LoadedModel, longest: int) -> Level:
    reason = _reason_against_bitwise(model)
    if reason is None:
        about = "level", str(longest), model.executor.why, model.executor.linears
        try:
            reason = remembered(
                (*about, *module_key(model.module)),
                lambda: {"differs": _find_once(model, longest)},
                "Comparing the bits of trees with AR's (once)",
            )["differs"]
        except (NoMemoryError, torch.OutOfMemoryError):  # a request that has finished keeps its result
            reason = f"{model.device} has too little memory left to compare trees with AR"
    if reason is None:
        return Level(
            "bitwise",
            f"trees of {SIZES[0]} to {SIZES[-1]} nodes gave AR's bits, after up to {longest} tokens",
        )
    return _without_bits(model, reason)


def _without_bits(model: LoadedModel, reason: str) -> Level:
    rounding = rounding_of(model)
    if rounding != model.dtype:
        reason = f"{reason}; fp32 is multiplied in TF32"
    exact = rounding in (torch.float32, torch.float64)
    return Level("fp32" if exact else "tie", f"not bitwise: {reason}")


def rounding_of(model: LoadedModel) -> torch.dtype:
    """The dtype that rounds as a model's products are rounded: its own, or where fp32 is multiplied in
    TF32 float16, which has as many bits."""
    tf32 = model.dtype == torch.float32 and model.device.type == "cuda" and multiplies_in_tf32()
    return torch.float16 if tf32 else model.dtype


def longest_probed(model: LoadedModel, length: int = PROBED) -> int:
    """The longest context at which trees are compared for requests of up to `length` tokens: `PROBED`,
    or the next power of two, but at most the model's positions."""
    return min(max(PROBED, 1 << (length - 1).bit_length()), model.positions)


def _reason_against_bitwise(model: LoadedModel) -> str | None:
    """A reason against `bitwise` that needs no comparison."""
    if model.executor.slabs is not None:
        pass  # what is captured runs kernels of ours
    elif model.device.type != "cpu":
        return "its passes are not captured as graphs"
    elif model.dtype not in structs.DTYPES:
        return f"no kernels of ours for {str(model.dtype).removeprefix('torch.')}"
    elif native.library() is None:
        return native.why_not() or "compiled kernels are switched off"
    if not model.executor.batch_invariant:
        return (
            "a linear's bits depend on how many rows it is given"
            if model.executor.name == "functional"
            else "only the functional executor's linears are known to keep a row's bits"
        )
    return None


def _find_once(model: LoadedModel, longest: int) -> str | None:
    """As `find_difference`; slabs for long contexts are freed again."""
    found = find_difference(model, longest)
    if model.executor.slabs is not None:
        model.executor.slabs.forget()
    return found


def find_difference(model: LoadedModel, longest: int = PROBED) -> str | None:
    """The first difference in bits between trees and AR; None when there is none.

    Trees of many sizes are compared, after contexts of up to `longest` tokens.
    """
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
            reason = _compare_tree(ar, trees, min(size, model.positions - trees.length), rng)
            if reason is not None:
                return reason
    for (_, *ours), (_, *theirs) in zip(trees.cache.committed(), ar.cache.committed(), strict=True):
        if not all(map(_same_bits, ours, theirs)):
            return "keys or values after trees differ from AR's"
    return None


def _compare_tree(
    ar: ModelSession, trees: ModelSession, size: int, rng: random.Random
) -> str | None:
    """Commit a path in both sessions, token by token and in a tree of `size` nodes; say how logits
    differ."""
    if size < 1:
        return None
    path, logits = _tokens(min(ACCEPTED, size), trees.vocabulary, rng), []
    for token in path:
        logits.append(ar.forward([token], [-1]))
        ar.commit([0])
    tokens, parents, rows = _among_others(path, size, trees.vocabulary, rng)
    got, before = trees.forward(tokens, parents)[rows], trees.length
    trees.commit(rows)
    if _same_bits(got, torch.cat(logits)):
        return None
    return f"logits of a tree of {size} nodes after {before} tokens differ from AR's"


def _same_bits(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether two tensors have the same bits: unlike as numbers, 0 and −0 differ, and NaN is NaN."""
    return torch.equal(ours.contiguous().view(torch.uint8), theirs.contiguous().view(torch.uint8))


def _fill(session: ModelSession, count: int, seed: int) -> None:
    """Commit `count` rows of noise, the same for the same seed: a long context without the passes that
    would write it."""
    device = session.model.device
    rng = torch.Generator(device).manual_seed(seed)
    for layer in session.cache.initialized:
        shapes = [(*part.shape[:2], count, part.shape[3]) for part in (layer.keys, layer.values)]
        noise = (torch.randn(shape, generator=rng, device=device) for shape in shapes)
        layer.store(*(part.to(layer.keys) for part in noise))
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
