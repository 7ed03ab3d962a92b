"""Find nodes of a token tree: those on a path, and those at a depth."""

from __future__ import annotations

from toolkit.tree import TokenTree


def path_to(tree: TokenTree, node: int) -> list[int]:
    """The node ids [A] from the root to a node."""
    path: list[int] = []
    while node >= 0:
        path.append(node)
        node = tree.parents[node]
    return path[::-1]


def tokens_to(tree: TokenTree, node: int) -> list[int]:
    """The tokens [A] from the root to a node."""
    return [tree.tokens[above] for above in path_to(tree, node)]


def nodes_at(tree: TokenTree, depth: int) -> list[int]:
    """The nodes at a depth, in ascending order."""
    return [node for node, its in enumerate(tree.depths) if its == depth]
