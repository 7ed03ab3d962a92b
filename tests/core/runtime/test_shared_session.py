"""A shared session holds some of the target's rows and no weights or drafts of its own."""

import pytest
import torch

from toolkit import Pool
from toolkit.conformance.models import WINDOW, tiny
from toolkit.runtime.kv.policies import eviction_of
from toolkit.runtime.session import ModelSession
from toolkit.runtime.shared_session import SharedSession

EXACT = {"rtol": 0, "atol": 1e-9}
TEXT = [(7 * i * i) % 90 + 1 for i in range(80)]
PROMPT = 20


@pytest.fixture
def pair(make):
    """A target that has read a prompt, and a session that shares its K/V."""

    def opened(spec, kv="full", family="llama"):
        model = Pool(modules={"it": tiny(family)}).load("it")
        target = ModelSession(model, make("kv", kv))
        target.prefill(TEXT[:PROMPT])
        return target, SharedSession(model, make("kv", spec), target=target)

    return opened


def draft(session, tokens):
    """Forward a chain as scratch rows."""
    rows = range(session.scratch, session.scratch + len(tokens))
    return session.forward(tokens, [row - 1 for row in rows])


def step(target, shared, count):
    """The target commits `count` tokens; the session drafts something else and follows."""
    draft(shared, [91, 92, 93])
    draft(target, TEXT[target.length : target.length + count])
    target.commit(list(range(count)))
    shared.commit([0, 1, 2])


def rows_of(session):
    """layer → head → position → key and value."""
    return [
        [
            {int(p): (keys[head, i], values[head, i]) for i, p in enumerate(row) if p >= 0}
            for head, row in enumerate(positions.expand(keys.shape[0], -1))
        ]
        for positions, keys, values in session.cache.committed()
    ]


def holds_the_targets(shared, target):
    for mine, theirs in zip(rows_of(shared), rows_of(target), strict=True):
        for row, other in zip(mine, theirs, strict=True):
            assert row.keys() <= other.keys()
            for position, (key, value) in row.items():
                assert torch.equal(key, other[position][0])
                assert torch.equal(value, other[position][1])


SPECS = [
    "full", "window:6", "streaming:budget=8,sinks=2,epoch=4", "knorm:budget=7,epoch=4",
    "keydiff:budget=7,recent=2,epoch=4", "lagkv:budget=9,lag=2,epoch=4",
]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("spec", SPECS)
def test_it_holds_the_targets_rows_and_no_others(pair, spec, family):
    target, shared = pair(spec, family=family)
    holds_the_targets(shared, target)
    for count in (1, 3, 4, 2, 4, 4, 1, 3, 4):
        step(target, shared, count)
        assert (shared.length, shared.scratch) == (target.length, 0)
        if family != "gemma2":  # there the target frees what left a window
            holds_the_targets(shared, target)
    assert all(shared.length - 1 in row for layer in rows_of(shared) for row in layer)
    assert spec == "full" or shared.cache.evicted > 0
    counts = {table.count for table in shared.cache.tables}
    assert spec == "full" or max(counts) < 9 + 2 * shared.policy.epoch + 4


@pytest.mark.parametrize("spec", SPECS[1:])
def test_its_clock_is_that_of_a_session_of_its_own(pair, make, spec):
    """The first layer's keys do not depend on what was seen: there both hold the same positions."""
    target, shared = pair(spec)
    alone = ModelSession(target.model, make("kv", spec))
    alone.prefill(TEXT[:PROMPT])
    for count in (2, 3, 4, 1, 4, 4):
        draft(alone, TEXT[alone.length : alone.length + count])
        alone.commit(list(range(count)))
        step(target, shared, count)
        ours, theirs = rows_of(shared)[0], rows_of(alone)[0]
        assert [row.keys() for row in ours] == [row.keys() for row in theirs]


def test_a_policy_that_scores_chooses_among_the_targets_keys(pair):
    target, shared = pair("knorm:budget=5,epoch=4")
    for mine, theirs in zip(rows_of(shared), rows_of(target), strict=True):
        for row, other in zip(mine, theirs, strict=True):
            by_norm = sorted(other, key=lambda p: float(other[p][0].norm().bfloat16()))
            assert row.keys() == set(by_norm[:5])


def test_under_full_it_is_the_target(pair):
    target, shared = pair("full")
    for count in (1, 4, 3):
        tokens = TEXT[target.length : target.length + 3]
        ours, theirs = draft(shared, tokens), draft(target, tokens)
        torch.testing.assert_close(ours, theirs, **EXACT)
        shared.commit([])
        target.commit([])
        step(target, shared, count)


@pytest.mark.parametrize("spec", ["window:6", "streaming:budget=8,sinks=2,epoch=4"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_it_answers_as_the_target_under_a_mask(pair, make, spec, family):
    """The target's rows, all of them, and the policy's mask over what is drafted."""
    target, shared = pair(spec, family=family)
    for count in (3, 4, 2, 4, 4):
        tokens = TEXT[target.length : target.length + 4]
        ours = draft(shared, tokens)
        whole = target.eviction
        target.eviction = eviction_of(make("kv", spec), target.cache, target.model.rotary)
        masked = draft(target, tokens)
        target.eviction = whole
        torch.testing.assert_close(ours, masked, **EXACT)
        target.commit([])
        if family == "llama":
            assert not torch.allclose(ours, draft(target, tokens))  # the mask matters
            target.commit([])
        step(target, shared, count)


@pytest.mark.parametrize(
    "kv",
    [
        "h2o:budget=12,recent=4,sinks=1,epoch=4", "headaware:budget=12,recent=2,epoch=4",
        "streaming:budget=12,sinks=2,epoch=4",
    ],
)
@pytest.mark.parametrize("spec", SPECS)
def test_a_target_that_evicts_is_shared_too(pair, spec, kv):
    target, shared = pair(spec, kv)
    held = rows_of(target)
    for mine, theirs in zip(rows_of(shared), held, strict=True):
        assert all(row.keys() <= other.keys() for row, other in zip(mine, theirs, strict=True))
    for count in (1, 3, 4, 4, 2, 4):
        newest = set(range(target.length, target.length + count))
        step(target, shared, count)
        for mine, theirs in zip(rows_of(shared), rows_of(target), strict=True):
            for row, other in zip(mine, theirs, strict=True):
                assert newest <= row.keys()
                for position in row.keys() & other.keys():
                    assert torch.equal(row[position][0], other[position][0])
    assert torch.isfinite(draft(shared, [3, 4])).all()


@pytest.mark.parametrize("spec", SPECS)
def test_the_target_is_left_alone(pair, spec):
    target, shared = pair(spec)
    single, _ = pair("full")
    for layer in shared.cache.layers:
        layer.keys.fill_(1e4)  # no memory is shared
        layer.values.fill_(1e4)
    for count in (3, 4, 4):
        step(target, shared, count)
        tokens = TEXT[single.length : single.length + count]
        draft(single, tokens)
        single.commit(list(range(count)))
    for ours, theirs in zip(target.cache.committed(), single.cache.committed(), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, **EXACT)


def test_nothing_drafted_is_kept_whatever_is_asked(pair):
    target, shared = pair("full")
    draft(shared, [91, 92])
    shared.commit([0, 1])
    assert shared.length == target.length == PROMPT
    assert shared.scratch == 0


def test_sliding_layers_keep_to_their_window(pair):
    _, shared = pair("knorm:budget=5,epoch=4", family="gemma2")
    sliding, scored = rows_of(shared)
    assert [sorted(row) for row in sliding] == [list(range(PROMPT - WINDOW + 1, PROMPT))] * 2
    assert {len(row) for row in scored} == {5}


def test_it_reads_no_prompt(pair):
    _, shared = pair("full")
    with pytest.raises(NotImplementedError, match="commit on the target"):
        shared.prefill([1, 2])


@pytest.mark.parametrize("sinks", [1, 2])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize(
    "kv", ["full", "lagkv:budget=7,lag=2,sinks=3,epoch=3", "knorm:budget=7,epoch=3"]
)
def test_sinks_move_up_to_the_window_whichever_rows_a_head_holds(pair, kv, family, sinks):
    """All by one gap from where the target has them; other keys are the target's."""
    policy = f"streaming:budget={sinks + 5},sinks={sinks},positions=cache,epoch=3"
    target, shared = pair(policy, kv, family)
    rotary, moved = shared.eviction.rotary, set()
    for _ in range(6):
        step(target, shared, 2)
        layers = zip(shared.cache.layers, rows_of(shared), rows_of(target), strict=True)
        for layer, mine, theirs in layers:
            first = [
                (key, theirs[head][position][0])
                for head, row in enumerate(mine)
                for position, (key, _) in row.items()
                if position < sinks and position in theirs[head]
            ]
            for head, row in enumerate(mine):
                for position, (key, value) in row.items():
                    if position in theirs[head]:
                        assert torch.equal(value, theirs[head][position][1])
                        assert position < sinks or torch.equal(key, theirs[head][position][0])
            if first and layer.table.window is None:
                now, written = (torch.stack(part)[None] for part in zip(*first, strict=True))
                gaps = [
                    gap
                    for gap in range(80)
                    if torch.allclose(
                        rotary.rotate(layer.index, written, torch.full((len(first),), gap)), now
                    )
                ]
                assert gaps
                moved.add(gaps[0])
                if kv == "full":  # then the first head holds the whole window
                    now = torch.tensor([[PROMPT + (target.length - PROMPT) // 3 * 3]])
                    held = torch.tensor([[position for position in mine[0] if position >= sinks]])
                    window = held[shared.policy.visible(now, held).view_as(held)]
                    assert gaps[0] == min(window) - sinks
    assert kv != "full" or max(moved) > 5
