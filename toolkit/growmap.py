"""GrowMap: a static tree, from a name, a file, or the acceptance that was measured."""

from __future__ import annotations

import heapq
import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from attrs import field, frozen

from toolkit.errors import SpecError

NAMES = "4x2x1 (children per level), 8-chain, 4x8-tree (4 chains of 8), 2^3 (2 children, 3 levels)"
FILES = "a .pt file of Sequoia or Dynasurge, or a .json file of Medusa's rank paths"
LARGEST = 4096  # nodes: a larger map is a mistake


def _tuple(parents: Sequence[int]) -> tuple[int, ...]:
    return tuple(parents)


@frozen
class GrowMap:
    """The shape of a tree: `parents[N]`, −1 at the root, level by level, siblings in draw order.

    Raises `SpecError` for parents that are none of this.
    """

    parents: tuple[int, ...] = field(converter=_tuple)

    def __attrs_post_init__(self) -> None:
        above = self.parents[1:]
        if self.parents[:1] != (-1,) or any(not 0 <= p < i for i, p in enumerate(above, 1)):
            raise SpecError("a growmap starts with its root, and parents come before children")
        if any(later < earlier for earlier, later in pairwise(above)):
            raise SpecError("the nodes of a growmap come level by level, children in a row")
        if len(self.parents) > LARGEST:
            raise SpecError(f"a growmap of {len(self.parents)} nodes: expected at most {LARGEST}")

    def __len__(self) -> int:
        return len(self.parents)

    @property
    def children(self) -> list[list[int]]:
        """The children of each node, in draw order."""
        found: list[list[int]] = [[] for _ in self.parents]
        for node, parent in enumerate(self.parents[1:], 1):
            found[parent].append(node)
        return found

    @property
    def depths(self) -> list[int]:
        """The depth of each node, 0 at the root."""
        depths = [0]
        for parent in self.parents[1:]:
            depths.append(depths[parent] + 1)
        return depths

    @classmethod
    def parse(cls, text: str) -> GrowMap:
        """Read a name or a file. Raises `SpecError`."""
        if match := re.fullmatch(r"([1-9]\d*)-chain", text):
            return cls.of_counts([1] * _small(match[1]))
        if match := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)-tree", text):
            return cls.of_counts([_small(match[1]), *[1] * (_small(match[2]) - 1)])
        if match := re.fullmatch(r"([1-9]\d*)\^([1-9]\d*)", text):
            return cls.of_counts([_small(match[1])] * _small(match[2]))
        if re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", text):
            return cls.of_counts([_small(part) for part in text.split("x")])
        if Path(text).suffix in (".pt", ".json"):
            return cls.read(Path(text))
        raise SpecError(f"{text!r} is no growmap: expected {NAMES}, {FILES}")

    @classmethod
    def of_counts(cls, counts: Sequence[int]) -> GrowMap:
        """Every node of a level has the same number of children: `counts`, level by level."""
        parents, level = [-1], [0]
        for count in counts:
            if len(parents) + len(level) * count > LARGEST:
                raise SpecError(f"a growmap of more than {LARGEST} nodes: name a smaller one")
            first = len(parents)
            parents += [node for node in level for _ in range(count)]
            level = list(range(first, len(parents)))
        return cls(parents)

    @classmethod
    def of_children(cls, children: Sequence[Sequence[int]]) -> GrowMap:
        """From the children of each node, node 0 the root; nodes are renumbered level by level.

        Raises `SpecError` for a node that has two parents, no way from the root, or does not exist.
        """
        order, parents = [0], [-1]
        for place, node in enumerate(order):  # it grows
            for child in children[node]:
                if not 0 < child < len(children) or child in order:
                    raise SpecError(f"node {child} has two parents, is the root, or does not exist")
                order.append(child)
                parents.append(place)
        if len(order) < len(children):
            raise SpecError(f"{len(children) - len(order)} nodes cannot be reached from the root")
        return cls(parents)

    @classmethod
    def best(cls, acceptance: Sequence[float], nodes: int, depth: int = LARGEST) -> GrowMap:
        """The map of `nodes` nodes, root included, with the greatest expected number of tokens.

        `acceptance[r]` is the probability that draw r of a node is the one that is accepted; it must
        not rise. A node's value is the product along its path. The likeliest are taken first, which
        gives the optimum that Sequoia computes by dynamic programming (Chen et al. 2024).
        """
        heap = [(-acceptance[0], 1, 0, 0)] if depth else []  # value, level, parent, draw
        children: list[list[int]] = [[]]
        while heap and len(children) < nodes:
            value, level, parent, draw = heapq.heappop(heap)
            node = len(children)
            children[parent].append(node)
            children.append([])
            if draw + 1 < len(acceptance) and acceptance[draw]:
                sibling = value / acceptance[draw] * acceptance[draw + 1]
                heapq.heappush(heap, (sibling, level, parent, draw + 1))
            if level < depth:
                heapq.heappush(heap, (value * acceptance[0], level + 1, node, 0))
        return cls.of_children(children)

    def values(self, acceptance: Sequence[float]) -> list[float]:
        """The probability of each node that it is accepted, by an acceptance vector."""
        values, seen = [1.0], [0] * len(self)
        for parent in self.parents[1:]:
            draw, seen[parent] = seen[parent], seen[parent] + 1
            share = acceptance[draw] if draw < len(acceptance) else 0.0
            values.append(values[parent] * share)
        return values

    def expected_tokens(self, acceptance: Sequence[float]) -> float:
        """Tokens of a step, the bonus included, by an acceptance vector."""
        return sum(self.values(acceptance))

    @staticmethod
    def smooth(acceptance: Sequence[float]) -> list[float]:
        """The nearest vector that does not rise, by least squares (pool adjacent violators)."""
        blocks: list[tuple[float, int]] = []  # mean, length
        for value in acceptance:
            mean, length = float(value), 1
            while blocks and blocks[-1][0] < mean:
                before, count = blocks.pop()
                mean = (mean * length + before * count) / (length + count)
                length += count
            blocks.append((mean, length))
        return [mean for mean, length in blocks for _ in range(length)]

    @classmethod
    def read(cls, file: Path) -> GrowMap:
        """Read a file, by its suffix. Raises `SpecError`; no code in the file is run."""
        try:
            if file.suffix == ".pt":
                import torch

                held = torch.load(file, map_location="cpu", weights_only=True)
                return cls._of_keys(held)
            return cls._of_paths(json.loads(file.read_text("utf-8")))
        except SpecError as error:
            raise SpecError(f"growmap {file}: {error}") from error
        except Exception as error:
            said = str(error).partition("\n")[0] or type(error).__name__
            raise SpecError(f"growmap {file} cannot be read ({said}): expected {FILES}") from error

    def write(self, file: Path) -> None:
        """Write a file of Sequoia's keys (.pt) or of Medusa's rank paths (.json)."""
        if file.suffix == ".pt":
            import torch

            torch.save(self.keys, file)
        elif file.suffix == ".json":
            file.write_text(json.dumps(self.paths) + "\n", "utf-8")
        else:
            raise SpecError(f"{file} is no name of a growmap: it must end in .pt or .json")

    @property
    def paths(self) -> list[list[int]]:
        """The ranks from the root down to each node but the root, as Medusa lists them."""
        paths: list[list[int]] = [[]]
        for node, parent in enumerate(self.parents[1:], 1):
            paths.append([*paths[parent], self.children[parent].index(node)])
        return paths[1:]

    @classmethod
    def _of_paths(cls, paths: Any) -> GrowMap:
        if not isinstance(paths, list) or not all(isinstance(path, list) for path in paths):
            raise SpecError("expected a list of rank paths, as [[0], [1], [0, 0]]")
        ids = {(): 0} | {tuple(path): i for i, path in enumerate(sorted(paths, key=len), 1)}
        children: list[list[int]] = [[] for _ in range(len(paths) + 1)]
        for path in sorted(ids, key=lambda path: (len(path), path)):
            if path:
                siblings = children[ids[path[:-1]]] if path[:-1] in ids else None
                if siblings is None or path[-1] != len(siblings):
                    raise SpecError(f"path {[*path]} is there, but not its parent or a lower rank")
                siblings.append(ids[path])
        return cls.of_children(children)

    @property
    def keys(self) -> dict[str, Any]:
        """What Sequoia's files hold: roots, branches, Successors, mask, depth and size."""
        import torch

        depths, children = self.depths, self.children
        levels = [[n for n, at in enumerate(depths) if at == d] for d in range(max(depths) + 1)]
        mask = torch.eye(len(self), dtype=torch.long)
        for node, parent in enumerate(self.parents[1:], 1):
            mask[node] += mask[parent]
        return {
            "roots": levels,
            "branches": [[len(children[node]) for node in level] for level in levels],
            "Successors": children,
            "mask": mask,
            "depth": torch.tensor(depths),
            "size": len(self),
        }

    @classmethod
    def _of_keys(cls, held: Any) -> GrowMap:
        import torch

        if not isinstance(held, dict) or "Successors" not in held:
            raise SpecError("it holds no Successors, the children of each node")
        found = cls.of_children([[int(child) for child in row] for row in held["Successors"]])
        for key, value in found.keys.items():
            given = held.get(key, value)
            same = torch.equal(torch.as_tensor(given), value) if key in ("mask", "depth") else (
                given == value
            )  # fmt: skip
            if not same:
                raise SpecError(f"its key {key!r} does not agree with its Successors")
        return found


def _small(digits: str) -> int:
    if len(digits) > 4:
        raise SpecError(f"{digits} is too large for a growmap of at most {LARGEST} nodes")
    return int(digits)
