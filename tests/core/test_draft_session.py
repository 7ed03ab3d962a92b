"""DraftSession: logits after tree nodes, whatever was drafted and committed before."""

import re
import sys
import types
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toolkit import Candidates, DraftSession, Pipeline, Pool, TokenTree
from toolkit.conformance.models import noisy, tiny

PAGE = Path(__file__).parents[2] / "docs" / "plugins.md"
PROMPT = [1, 2, 3, 4]


@pytest.fixture(scope="module")
def start(hash_model, hash_session):
    """A started `DraftSession`, and the session that it draws on."""

    def started(seed=0, vocabulary=11, positions=1 << 30, prompt=PROMPT):
        session = hash_session(hash_model(seed), positions)
        return DraftSession.start(session, prompt, vocabulary), session

    return started


@given(
    seed=st.integers(0, 99),
    steps=st.lists(st.tuples(st.integers(1, 3), st.booleans()), min_size=1, max_size=5),
)
def test_logits_are_those_after_each_path(start, path_of, seed, steps):
    """Any nodes may be asked for, in any order and again."""
    (draft, session), text, root = start(seed), list(PROMPT), 5
    for levels, accepts in steps:
        tree, frontier = TokenTree.root(root), [0]
        for _ in range(levels):
            logits = draft.logits_after(tree, frontier)
            for row, node in zip(logits, frontier, strict=True):
                assert torch.equal(row, session.model.logits([*text, *path_of(tree, node)]))
            first = len(tree)
            tree = tree.grow(frontier, Candidates.top(logits, 2))
            frontier = list(range(first, len(tree)))
        nodes = list(range(first))[::-1]
        for row, node in zip(draft.logits_after(tree, nodes), nodes, strict=True):
            assert torch.equal(row, session.model.logits([*text, *path_of(tree, node)]))
        tokens = path_of(tree, first - 1) if accepts else (root,)
        draft.commit(list(tokens))
        text += tokens
        assert session.committed == text
        root = (root + 3) % 11


def test_tokens_that_were_not_drafted_are_forwarded_with_the_next_root(start):
    draft, session = start()
    draft.commit([5, 6, 7])
    assert session.committed == PROMPT
    logits = draft.logits_after(TokenTree.root(8), [0])
    assert torch.equal(logits[0], session.model.logits([*PROMPT, 5, 6, 7, 8]))
    draft.commit([8])
    assert session.committed == [*PROMPT, 5, 6, 7, 8]


def test_beyond_the_models_positions_there_are_none(start):
    draft, _ = start(positions=6)
    tree = TokenTree.root(5)
    tree = tree.grow([0], Candidates.top(draft.logits_after(tree, [0]), 2))
    assert draft.logits_after(tree, [1, 2]) is not None
    tree = tree.grow([1], Candidates([[3]], [[-1.0]]))
    assert draft.logits_after(tree, [3]) is None
    assert start(positions=4)[1].forwarded == []  # a prompt that does not fit


def test_logits_are_cut_to_the_targets_vocabulary_and_ids_to_the_models(start):
    draft, _ = start(vocabulary=7)
    assert draft.logits_after(TokenTree.root(5), [0]).shape == (1, 7)
    draft, session = start(vocabulary=20, prompt=[1, 2, 19])
    assert draft.logits_after(TokenTree.root(15), [0]).shape == (1, 11)
    assert session.forwarded[-1] == (1, 2, 10, 10)


def test_the_likeliest_tokens_come_first():
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, -1.0, 0.0]])
    top = Candidates.top(logits, 2)
    assert top.tokens == [[1, 2], [0, 2]]
    expected = logits.log_softmax(-1)
    assert top.logprobs[0] == pytest.approx(expected[0, [1, 2]].tolist())
    assert [len(row) for row in Candidates.top(logits, 9).tokens] == [3, 3]


def test_the_neural_drafter_of_the_documentation(monkeypatch):
    """It is as short as it says, drafts well and changes no token."""
    page = PAGE.read_text(encoding="utf-8")
    section = page.partition("\n## A neural drafter\n")[2].partition("\n## ")[0]
    code = re.search(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)[1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 30
    module = types.ModuleType("pair")
    monkeypatch.setitem(sys.modules, "pair", module)
    exec(compile(code, "pair.py", "exec"), vars(module))
    pool = Pool(modules={"a": noisy("llama", 0, 0.02), "b": noisy("llama", 0, 0.03)})
    pipeline = Pipeline(tiny("llama"), drafter=module.Pair("a", "b"), shaper="budget", pool=pool)
    ours = pipeline.generate(PROMPT, max_new_tokens=30)
    assert ours.token_ids == pipeline.autoregressive.generate(PROMPT, max_new_tokens=30).token_ids
    assert ours.metrics["accepted"] > 5
