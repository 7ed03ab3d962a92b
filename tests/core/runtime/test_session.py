"""A session's logits are those of the model itself, called without cache, on each path alone."""

import copy
from itertools import pairwise
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.conformance.models import FAMILIES, VOCABULARY, WINDOW, tiny
from toolkit.errors import ModelError
from toolkit.runtime.models.load import prepare
from toolkit.runtime.session import ModelSession

EXACT = {"rtol": 0, "atol": 1e-9}
PROMPT = [5, 60, 7, 33, 81, 2, 40, 40, 19, 77, 23]
ROWS = st.lists(
    st.tuples(st.integers(0, 99), st.integers(0, VOCABULARY - 1)), min_size=1, max_size=8
)
each_family = pytest.mark.parametrize("family", sorted(FAMILIES))


@pytest.fixture(scope="module")
def models():
    """family → (ready for trees, as transformers runs it)."""
    made = {}

    def both(family):
        if family not in made:
            stock = copy.deepcopy(tiny(family))
            stock.set_attn_implementation("eager")
            made[family] = prepare(family, copy.deepcopy(stock)), stock
        return made[family]

    return both


@pytest.fixture(scope="module")
def open_session(models, make):
    return lambda family, kv="full": ModelSession(models(family)[0], make("kv", kv))


@torch.no_grad()
def alone(model, tokens):
    """Logits after the last of `tokens`, by a forward without cache, float64 in its softmax too."""
    exact = torch.softmax
    with mock.patch("torch.nn.functional.softmax", lambda x, dim, **_: exact(x, dim)):
        return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1]


def planted(rows):
    """(tokens, parents, paths) of a scratch forest; a parent is −1 or an earlier row."""
    tokens, parents, paths = [], [], []
    for index, (above, token) in enumerate(rows):
        parent = above % (index + 1) - 1
        tokens.append(token)
        parents.append(parent)
        paths.append([*(paths[parent] if parent >= 0 else []), token])
    return tokens, parents, paths


@each_family
@settings(max_examples=6)
@given(rows=ROWS, length=st.integers(1, len(PROMPT)))
def test_every_node_equals_its_path_alone(open_session, models, family, rows, length):
    session, (tokens, parents, paths) = open_session(family), planted(rows)
    first = session.prefill(PROMPT[:length])
    logits = session.forward(tokens, parents)
    stock = models(family)[1]
    torch.testing.assert_close(first, alone(stock, PROMPT[:length]), **EXACT)
    for row, path in zip(logits, paths, strict=True):
        torch.testing.assert_close(row, alone(stock, PROMPT[:length] + path), **EXACT)


@each_family
def test_a_path_longer_than_a_window(open_session, models, family):
    session, path = open_session(family), [(3 * i) % 90 for i in range(2 * WINDOW)]
    session.prefill(PROMPT)
    logits = session.forward(path, list(range(-1, len(path) - 1)))
    torch.testing.assert_close(logits[-1], alone(models(family)[1], PROMPT + path), **EXACT)


@each_family
@settings(max_examples=4)
@given(rows=ROWS, cuts=st.sets(st.integers(1, 7)))
def test_levels_equal_one_forward(open_session, family, rows, cuts):
    tokens, parents, _ = planted(rows)
    whole, parts = open_session(family), open_session(family)
    for session in (whole, parts):
        session.prefill(PROMPT)
    together = whole.forward(tokens, parents)
    edges = [0, *sorted(cut for cut in cuts if cut < len(tokens)), len(tokens)]
    apart = torch.cat([
        parts.forward(tokens[a:b], parents[a:b]) for a, b in pairwise(edges)
    ])
    assert parts.scratch == len(tokens)
    torch.testing.assert_close(together, apart, **EXACT)


@each_family
@settings(max_examples=4)
@given(rows=ROWS, data=st.data())
def test_after_a_commit_only_the_path_remains(open_session, models, family, rows, data):
    session, (tokens, parents, paths) = open_session(family), planted(rows)
    session.prefill(PROMPT)
    session.forward(tokens, parents)
    node, path = data.draw(st.integers(0, len(tokens) - 1)), []
    while node >= 0:
        path.insert(0, node)
        node = parents[node]
    session.commit(path)
    text = PROMPT + paths[path[-1]]
    assert (session.length, session.scratch) == (len(text), 0)
    logits = session.forward(tokens, parents)
    for row, below in zip(logits, paths, strict=True):
        torch.testing.assert_close(row, alone(models(family)[1], text + below), **EXACT)


@each_family
def test_committed_keys_and_values_are_those_of_a_prefill(open_session, family):
    drafted, fresh = open_session(family), open_session(family)
    drafted.prefill(PROMPT[:4])
    drafted.forward([1, *PROMPT[4:6], 9, PROMPT[6]], [-1, -1, 1, 1, 2])
    drafted.commit([1, 2, 4])
    fresh.prefill(PROMPT[:7])
    for ours, theirs in zip(drafted.cache.committed(), fresh.cache.committed(), strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)


@each_family
@pytest.mark.parametrize("chunk", [1, 3, 4, 11])
def test_a_prefill_in_chunks_equals_one(open_session, models, monkeypatch, family, chunk):
    monkeypatch.setattr("toolkit.runtime.kv.eviction.CHUNK", chunk)
    session = open_session(family)
    logits = session.prefill(PROMPT)
    assert session.length == len(PROMPT)
    torch.testing.assert_close(logits, alone(models(family)[1], PROMPT), **EXACT)


def test_a_long_prompt_is_forwarded_in_chunks(open_session, monkeypatch):
    monkeypatch.setattr("toolkit.runtime.kv.eviction.CHUNK", 4)
    session, sizes = open_session("llama"), []
    whole = ModelSession.forward
    monkeypatch.setattr(
        ModelSession, "forward",
        lambda self, t, p, keep: sizes.append(len(t)) or whole(self, t, p, keep),
    )
    session.prefill(PROMPT)
    assert sizes == [4, 4, 3]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_a_window_policy_rules_over_prefix_and_path(open_session, family):
    """Tree logits equal those of the same tokens one after another, and not those of `full`."""
    rows = [(0, 11), (1, 12), (2, 13), (0, 50), (4, 51)]
    tokens, parents, paths = planted(rows)
    tree = open_session(family, "window:budget=4")
    tree.prefill(PROMPT)
    logits = tree.forward(tokens, parents)
    for row, path in zip(logits, paths, strict=True):
        line = open_session(family, "window:budget=4")
        for token in PROMPT + path:
            last = line.prefill([token])
        torch.testing.assert_close(row, last, **EXACT)
    full = open_session(family)
    full.prefill(PROMPT)
    assert not torch.allclose(logits, full.forward(tokens, parents), atol=1e-3)


@pytest.mark.parametrize(("family", "positions"), [("llama", 256), ("gpt2", 256)])
def test_what_a_session_says_of_its_model(open_session, family, positions):
    session = open_session(family)
    assert (session.vocabulary, session.positions) == (VOCABULARY, positions)
    assert (session.length, session.scratch) == (0, 0)


def test_a_device_without_memory_says_what_to_lower(monkeypatch, open_session):
    session = open_session("llama")
    session.prefill(PROMPT)

    def full(*_):
        raise torch.OutOfMemoryError("tried to allocate 20 GiB")

    monkeypatch.setattr(type(session.model.executor), "forward", full)
    with pytest.raises(ModelError, match=r"cpu has no memory left for a pass of 2 tokens after 11 .*"):
        session.forward([1, 2], [-1, 0])
