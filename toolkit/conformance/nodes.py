"""Node ids of a token tree: those of a path, those of a level."""

from __future__ import annotations

from toolkit.tree import TokenTree


def path_to(tree: TokenTree, node: int) -> list[int]:
    """A node's path [A]: the root, …, the node's parent, the node."""
    path: list[int] = []
    while node >= 0:
        path.append(node)
        node = tree.parents[node]
    return path[::-1]


def tokens_to(tree: TokenTree, node: int) -> list[int]:
    """The tokens [A] along a node's path."""
    return [tree.tokens[above] for above in path_to(tree, node)]


def level(tree: TokenTree, depth: int) -> list[int]:
    """The nodes of a depth."""
    return [node for node, its in enumerate(tree.depths) if its == depth]
