"""Recordings without a model: random trees, judged greedily by random logits."""

import pytest
import torch

from toolkit.nodes import list_nodes
from toolkit.show.recording import RecordedRequest, RecordedStep
from toolkit.target_scores import TargetScores
from toolkit.tree import Candidates, TokenTree, Verdict

SCRIPT = "</script><script>boom()</script>"
PIECES = [" the", "\n", SCRIPT, "⟨e2 96⟩", "日本語の長い言葉です", "\u202e", '"&\\']
PIECES += [f" w{i}" for i in range(7, 97)]


def judged(tree, seed):
    """A step's nodes: greedy verification by random logits that favour the tree's own tokens."""
    logits = torch.randn(len(tree), 97, generator=torch.Generator().manual_seed(seed)).double()
    for node, parent in enumerate(tree.parents[1:], 1):
        logits[parent, tree.tokens[node]] += 3
    path = [0]
    while True:
        wanted = int(logits[path[-1]].argmax())
        below = [n for n, p in enumerate(tree.parents) if p == path[-1] and tree.tokens[n] == wanted]
        if not below:
            break
        path.append(below[0])
    verdict = Verdict(path, wanted)
    return [*list_nodes(tree, verdict, TargetScores.of(tree, verdict, logits), PIECES.__getitem__)]


def wide(nodes, seed):
    """A tree of `nodes` nodes that branches and goes deep."""
    dice = torch.Generator().manual_seed(seed)
    tree = TokenTree.root(0)
    while len(tree) < nodes:
        parent = int(len(tree) * float(torch.rand((), generator=dice)) ** 0.5)
        token = int(torch.randint(12, (), generator=dice))
        tree = tree.grow([min(parent, len(tree) - 1)], Candidates([[token]], [[-1.5]]))
    return tree


def request(number, steps, nodes):
    times = {"length": 9, "draft_ms": 1.0, "shape_ms": 0.25, "verify_ms": 2.5, "commit_ms": 0.125}
    return RecordedRequest(
        number, f"request {number}", {"target": "<b>t</b>", "drafter": "model"},
        [RecordedStep(k, judged(wide(nodes, k), k), times) for k in range(steps)],
    )  # fmt: skip


@pytest.fixture(scope="session")
def recording():
    return [request(0, 6, 20), request(3, 3, 9)]


@pytest.fixture(scope="session")
def deep():
    """A request of one step, whose tree is a chain of 24 drafted nodes."""
    tree = TokenTree.root(0)
    for node in range(24):
        tree = tree.grow([node], Candidates([[8 + node]], [[-0.5]]))
    return RecordedRequest(0, "request 0", {}, [RecordedStep(0, judged(tree, 1), {})])
