"""Totals of a recorded request: acceptance by depth and draft order, calibration, waste, times."""

from __future__ import annotations

from collections import Counter, defaultdict
from math import exp

from attrs import frozen

from toolkit.nodes import Node
from toolkit.show.recording import TIMES, RecordedStep

BINS = 10  # of path probability


@frozen
class Share:
    """How often something was accepted, of how many times it was tested."""

    accepted: int
    tested: int


@frozen
class Bin:
    """Nodes whose path probability under the drafter is about the same."""

    expected: float  # mean path probability
    accepted: int
    nodes: int


@frozen
class Totals:
    """Figures of all steps of one request."""

    steps: int
    drafted: int  # nodes, roots and bonuses apart
    accepted: int
    unreached: int  # drafted nodes whose parent was not accepted: wasted
    by_depth: list[Share]  # steps whose path could go on at depth 1, 2, …
    by_place: list[Share]  # tested nodes that were drafted first, second, … among their siblings
    mass_by_depth: list[float]
    """Target probability of the drafted children of a path's node, mean over steps, by depth."""
    calibration: list[Bin]
    times: dict[str, float]  # milliseconds by part, all steps


def total(steps: list[RecordedStep]) -> Totals:
    """Add up the steps of one request."""
    by_depth: dict[int, list[bool]] = defaultdict(list)
    by_place: dict[int, list[bool]] = defaultdict(list)
    masses: dict[int, list[float]] = defaultdict(list)
    bins: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    fates: Counter[str] = Counter()
    for step in steps:
        drafted = [node for node in step.nodes if _is_drafted(node)]
        fates.update(node.fate for node in drafted)
        for siblings in _tested(drafted):
            depth = siblings[0].depth
            by_depth[depth].append(any(_is_taken(node) for node in siblings))
            masses[depth].append(sum(exp(node.target_logprob or 0.0) for node in siblings))
            for node in siblings:
                if node.fate != "passed":
                    by_place[node.place].append(_is_taken(node))
        chances = path_probabilities(step.nodes)
        for node in drafted:
            chance = chances[node.node]
            bins[min(int(chance * BINS), BINS - 1)].append((chance, _is_taken(node)))
    return Totals(
        steps=len(steps),
        drafted=fates.total(),
        accepted=sum(node.fate == "accepted" for step in steps for node in step.nodes),
        unreached=fates["unreached"],
        by_depth=[_share(by_depth[depth]) for depth in sorted(by_depth)],
        by_place=[_share(by_place[place]) for place in sorted(by_place)],
        mass_by_depth=[sum(masses[depth]) / len(masses[depth]) for depth in sorted(masses)],
        calibration=[
            Bin(sum(c for c, _ in bins[k]) / len(bins[k]), sum(t for _, t in bins[k]), len(bins[k]))
            for k in sorted(bins)
        ],
        times={
            name: sum(step.times[name] for step in steps)
            for name in TIMES
            if all(name in step.times for step in steps)
        },
    )


def path_probabilities(nodes: list[Node]) -> dict[int, float]:
    """The drafter's probability of the path to each node; of a bonus that was not drafted, its
    parent's."""
    chances = {0: 1.0}
    for node in nodes[1:]:
        chances[node.node] = chances[node.parent] * exp(node.draft_logprob or 0.0)
    return chances


def find_likeliest_path(nodes: list[Node]) -> list[Node]:
    """The drafted nodes from the root's child to the leaf whose path the drafter finds likeliest."""
    chances, parents = (
        path_probabilities(nodes),
        {node.parent for node in nodes if _is_drafted(node)},
    )
    leaves = [node for node in nodes if _is_drafted(node) and node.node not in parents]
    path: list[Node] = []
    at = max(leaves, key=lambda node: chances[node.node], default=None)
    while at is not None and at.node:
        path.append(at)
        at = nodes[at.parent]
    return path[::-1]


def _is_drafted(node: Node) -> bool:
    return node.draft_logprob is not None


def _is_taken(node: Node) -> bool:
    return node.fate in ("accepted", "bonus")


def _tested(drafted: list[Node]) -> list[list[Node]]:
    """Drafted nodes whose parent was accepted, siblings together."""
    groups: dict[int, list[Node]] = defaultdict(list)
    path = {0, *(node.node for node in drafted if node.fate == "accepted")}
    for node in drafted:
        if node.parent in path:
            groups[node.parent].append(node)
    return list(groups.values())


def _share(outcomes: list[bool]) -> Share:
    return Share(sum(outcomes), len(outcomes))
