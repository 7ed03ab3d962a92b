"""For which rows graphs hold PyTorch's attention instead of ours: where it is faster and costs no bits.

PyTorch's attends to the whole slab under a mask, in the order of its rows, in which a node's path lies
elsewhere than AR's rows do. Where linears keep bits, it may take the place of ours only if it keeps
them as well, and then for all rows, since two kernels never have the same bits. Where linears do not,
each bucket of rows has the faster one.
"""

from __future__ import annotations

import random
from functools import partial
from itertools import product
from math import inf
from typing import Any

import torch
from attrs import evolve
from torch import Tensor
from torch.nn.functional import pad

from toolkit.runtime.compute.attention import masked_attention
from toolkit.runtime.compute.cudnn import without_cudnn
from toolkit.runtime.compute.executors.captured import ROWS, Captured
from toolkit.runtime.compute.executors.fastest import seconds_of, take_turns
from toolkit.runtime.kv.slab import SMALLEST
from toolkit.runtime.machine.disk import say_once
from toolkit.runtime.machine.remembered import remembered
from toolkit.tree import ancestor_mask, lineage

CACHED = SMALLEST // 2
"""Rows in the cache while passes are timed: half of the slab. Ours reads these alone, PyTorch's the
whole slab. A slab that has doubled is at least half full, the smallest one is so on average. The choice
is for slabs of all sizes: a pass's bits must not depend on how large its slab is."""
CONTEXTS = (20, 700)  # rows in the cache before the trees whose bits are compared


def find_stock_rows(
    captured: Captured, about: tuple[str, ...], *, keep_bits: bool
) -> frozenset[int]:
    """The buckets of rows whose graphs hold PyTorch's attention, where linears `keep_bits` or not.

    Found once for `about`, which identifies the model, and then remembered on disk. None in float16, in
    which a rejected draft may overflow: PyTorch's attention multiplies hidden rows by 0, and ours does
    not read them.
    """
    if not captured.attends or captured.slabs.dtype is torch.float16:
        return frozenset()
    find = partial(_find, captured, keep_bits=keep_bits)
    try:
        found = remembered(("attention", str(keep_bits), *about), find, "Timing attention (once)")
    except torch.OutOfMemoryError:  # which the first request will say
        return frozenset()
    except RuntimeError as error:  # ours runs as well
        why = str(error).partition("\n")[0]
        say_once("attention", f"PyTorch's attention was not compared with ours: {why}")
        return frozenset()
    return frozenset(found["stock_rows"])


@torch.no_grad()
def _find(captured: Captured, *, keep_bits: bool) -> dict[str, Any]:
    if keep_bits and not keeps_bits(captured):
        return {"stock_rows": []}
    gains = _time(captured)
    if keep_bits:
        return {"stock_rows": list(gains) if sum(gains.values()) > 0 else []}
    return {"stock_rows": [rows for rows, gain in gains.items() if gain > 0]}


def _time(captured: Captured) -> dict[int, float]:
    """The seconds that a pass gains by PyTorch's attention, by the buckets of rows that passes use."""
    buckets = sorted({captured.bucket(count) for count in ROWS})
    timed = {}
    for rows, stock in product(buckets, (False, True)):
        trial = evolve(captured, stock_rows=frozenset([rows] if stock else []))
        timed[rows, stock] = partial(_seconds, trial, [0] * rows)
    took = take_turns(timed)
    captured.slabs.forget()
    return {rows: took[rows, False] - took[rows, True] for rows in buckets}


def _seconds(trial: Captured, tokens: list[int]) -> float:
    """The seconds of a captured pass; infinite where capturing fails."""
    graph = trial.chain_graph(tokens, CACHED)  # captured anew if a lack of memory has freed it
    return inf if graph is None else seconds_of(graph.replay, trial.slabs.device)


def keeps_bits(captured: Captured) -> bool:
    """Whether PyTorch's attention gives the nodes of trees the bits that AR gives them: alone, where
    their paths are cached, in a slab that may be smaller."""
    layers = (layer.attention for layer in captured.decoder.layers)
    layer = next(layer for layer in layers if layer.config.by_scores_alone)
    heads = (layer.heads, layer.kv_heads, layer.kv_heads)
    rng, draw = random.Random(0), torch.Generator().manual_seed(0)  # noqa: S311 no secrets

    def attend(room: int, query: Tensor, held: Tensor, seen: Tensor) -> Tensor:
        """Rows `held[C]` of keys and values come first in a slab of `room` rows."""
        keys, values = (pad(part[:, held], (0, 0, 0, room - len(held))) for part in (key, value))
        mask = pad(seen, (0, room - len(held))).to(query.device)
        with without_cudnn:  # as passes
            return masked_attention(query, keys, values, mask, layer.config)

    for rows, context in product(ROWS, CONTEXTS):
        shapes = ((each, context + rows, layer.width) for each in heads)
        noise = (torch.randn(shape, generator=draw) for shape in shapes)
        query, key, value = (part.to(captured.slabs.device, captured.slabs.dtype) for part in noise)
        own = ancestor_mask(lineage([-1, *(rng.randrange(node) for node in range(1, rows))]))
        seen = torch.cat([torch.ones(rows, context, dtype=torch.bool), own], 1)
        queries = query.transpose(0, 1)[context:]
        tree = attend(2 * SMALLEST, queries, torch.arange(context + rows), seen)
        for node in {0, rows // 2, rows - 1}:
            path = seen[node].nonzero()[:, 0]
            everything = torch.ones(1, len(path), dtype=torch.bool)
            if not attend(SMALLEST, queries[node : node + 1], path, everything)[0].equal(tree[node]):
                return False
    return True
