"""Where the nodes of a tree go: a column for each depth, and rows so that nothing overlaps."""

from __future__ import annotations

from collections.abc import Sequence


def place_nodes(parents: Sequence[int]) -> list[float]:
    """Rows [N] of a tree's nodes, the topmost 0, for `parents[N]` (−1 at the root, parents first).

    Nodes of one depth are at least one row apart, siblings keep their order, and a parent is in the
    middle of its children (Reingold & Tilford 1981).
    """
    children: list[list[int]] = [[] for _ in parents]
    for node, parent in enumerate(parents[1:], 1):
        children[parent].append(node)
    shifts = [0.0] * len(parents)  # from the parent's row
    tops: list[list[float]] = [[] for _ in parents]  # of the subtree, by depth, from its root's row
    bottoms: list[list[float]] = [[] for _ in parents]
    for node in reversed(range(len(parents))):
        top, bottom, places = list[float](), list[float](), list[float]()
        for child in children[node]:
            pairs = zip(bottom, tops[child], strict=False)
            places.append(max((low - high + 1 for low, high in pairs), default=0.0))
            top += [places[-1] + row for row in tops[child][len(top) :]]
            deeper = bottom[len(bottoms[child]) :]
            bottom = [places[-1] + row for row in bottoms[child]] + deeper
        middle = (places[0] + places[-1]) / 2 if places else 0.0
        for child, place in zip(children[node], places, strict=True):
            shifts[child] = place - middle
        tops[node] = [0.0, *(row - middle for row in top)]
        bottoms[node] = [0.0, *(row - middle for row in bottom)]
    rows = [-min(tops[0])]
    for node, parent in enumerate(parents[1:], 1):
        rows.append(rows[parent] + shifts[node])
    return rows
