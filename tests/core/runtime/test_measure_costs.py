"""What passes and levels cost is measured by decoding."""

import pytest

from toolkit import Pipeline, Pool
from toolkit.conformance.models import noisy, tiny
from toolkit.runtime import measure_costs
from toolkit.runtime.measure_costs import ROWS, WIDTHS, Times, TimingVerifier

pytestmark = pytest.mark.usefixtures("own_cache")


def pipeline(drafter="model:small", family="llama"):
    return Pipeline(
        tiny(family), drafter=drafter, pool=Pool(modules={"small": noisy(family)})
    )


@pytest.mark.parametrize(
    "drafter", ["model:small", "ngram", "none", "self:kv=[window:budget=8]"]
)
def test_every_kind_of_drafter_is_measured(drafter):
    costs = pipeline(drafter).costs()
    assert (costs.contexts, costs.rows, costs.widths) == ((64, 128), ROWS, WIDTHS)
    for times, sizes in ((costs.target, ROWS), (costs.draft, WIDTHS)):
        for row in times:
            assert len(row) == len(sizes)
            assert list(row) == sorted(row)  # a small pass never counts as dearer
            assert min(row) > 0


@pytest.mark.parametrize("kv", [
    "window:budget=8", "h2o:budget=8,sinks=1,recent=2,epoch=2",
    "streaming:budget=16,sinks=2,positions=cache,epoch=4",
])
def test_a_target_under_a_kv_policy_is_measured(kv):
    """What no request would draft, because no pass may commit it, does not count as cheap."""
    pool = Pool(modules={"small": noisy("llama")})
    costs, full = (
        Pipeline(tiny("llama"), drafter="model:small", kv=policy, pool=pool).costs()
        for policy in (kv, "full")
    )
    assert costs.rows == ROWS
    assert min(costs.draft[0]) > 0.1 * min(full.draft[0])


def test_a_model_of_few_positions_is_measured_within_them(monkeypatch):
    monkeypatch.setattr(measure_costs, "CONTEXTS", (64, 100_000))
    assert pipeline().costs().contexts == (64, 128)


def test_noise_is_how_far_times_lie_above_the_least():
    timed = Times()
    for size, times in ((1, [2.0, 2.0, 4.0]), (2, [1.0, 3.0, 9.0]), (4, [5.0, 5.0, 5.0])):
        timed.taken["pass", size].extend(times)
    assert timed.noise == 1.0
    timed.taken["pass", 4].extend([10.0] * 4)
    assert timed.noise == 2.0


def test_a_small_pass_that_took_longer_than_a_large_one_is_noise():
    """As on a machine that is busy all the time, where a size's times are all alike."""
    times = Times()
    for size, ms in zip(ROWS, (9.0, 2.0, 2.0, 3.0, 3.0, 3.0, 3.0), strict=True):
        times.taken["pass", size].extend([ms] * 3)
    assert times.noise == 4.5


def test_a_large_target_gets_one_round(monkeypatch):
    """At most 20 passes for both contexts, prefills included."""
    passes = []
    monkeypatch.setattr(measure_costs, "SMALL", 0)
    it = pipeline("ngram")
    it.load()
    cls = type(it.pool.load(it.target).executor)
    forward = cls.forward
    monkeypatch.setattr(cls, "forward", lambda self, *a: passes.append(1) or forward(self, *a))
    it.costs()
    assert len(passes) <= 20


def test_curves_are_medians_that_never_fall():
    times = Times()
    for size in ROWS:
        times.taken["pass", size].extend([9.0 + size, 1.0 + size, 2.0 + size])
    times.taken["pass", 4][:] = [50.0]
    assert times.passes == (3.0, 4.0, 10.0, 10.0, 18.0, 34.0, 66.0)


def watched(monkeypatch, cls, name, seen):
    """Note the arguments of every call of a method, but for a prompt's, which keep one row."""
    method = getattr(cls, name)

    def noting(self, *arguments, **named):
        if "keep" not in named:
            seen(self, *arguments)
        return method(self, *arguments, **named)

    monkeypatch.setattr(cls, name, noting)


@pytest.mark.parametrize("drafter", ["model:small", "ngram", "none"])
def test_passes_have_the_sizes_that_are_said(monkeypatch, drafter):
    """And one row is timed as AR's are: nothing was drafted before it."""
    it = pipeline(drafter)
    it.load()
    target, runtime, drafts = it.begin()
    calls = []
    watched(monkeypatch, type(target), "forward",
            lambda self, tokens, _: calls.append(len(tokens)) if self is target else None)
    watched(monkeypatch, type(drafts), "expand", lambda *_: calls.append("level"))
    measure_costs._timed(lambda: (target, runtime, drafts), 8, TimingVerifier(moves=True))
    sizes = [size for rows in ROWS for size, _ in measure_costs._steps(rows)]
    assert calls == [call for size in sizes for call in (["level"] * 3 * (size > 1) + [size])]


def test_what_it_commits_has_moved(monkeypatch):
    """An accepted node that does not lie where it will: its rows are moved, as in a request."""
    it = pipeline()
    it.load()
    target, runtime, drafts = it.begin()
    commits = []
    watched(monkeypatch, type(target), "commit",
            lambda self, rows: commits.append(rows) if self is target else None)
    measure_costs._timed(lambda: (target, runtime, drafts), 8, TimingVerifier(moves=True))
    assert commits.count([0, 2]) == sum(len(measure_costs._steps(rows)) for rows in ROWS[2:])
    assert commits[0] == list(range(8))  # the prompt's
    assert target.length == sum(map(len, commits))


def test_steps_that_settle_do_not_count():
    """Times of a size are of steps among their like, and levels no wider than the tree is large."""
    it = pipeline()
    it.load()
    times = measure_costs._timed(it.begin, 8, TimingVerifier(moves=True))
    counted = {size: sum(counts for _, counts in measure_costs._steps(size)) for size in ROWS}
    assert {size: len(times.taken["pass", size]) for size in ROWS} == counted
    assert counted == {1: 3, 2: 3, 4: 3, 8: 3, 16: 3, 32: 1, 64: 1}
    widths = [size for what, size in times.taken if what == "level"]
    assert sorted(widths) == list(WIDTHS)
    assert sum(len(each) for (what, _), each in times.taken.items() if what == "level") == 3 * 14


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_learned_positions_are_not_overrun(family):
    model = tiny(family)
    it = Pipeline(model, drafter="ngram", pool=Pool())
    it.load()
    used = []

    def begin():
        used.append(it.begin())
        return used[-1]

    for positions in (40, 70, 140):
        assert measure_costs.measure_costs(begin, positions).rows == ROWS
        assert max(session.length for session, *_ in used) <= positions


def test_a_large_target_knows_its_noise():
    assert [size for size, _ in measure_costs._sizes(int(1e9))] == [1, *ROWS]


def test_where_nothing_was_timed_the_size_before_counts():
    times = Times()
    times.taken["level", 1].append(2.0)
    assert times.levels == (2.0,) * len(WIDTHS)


def test_a_tree_that_was_cut_counts_for_no_size(monkeypatch):
    """Where positions are moved up, a pass at a boundary can commit no drafts: the root goes alone."""
    kv = "streaming:budget=16,sinks=2,positions=cache,epoch=4"
    it = Pipeline(tiny("llama"), drafter="ngram", kv=kv)
    it.load()
    sent = []
    watched(
        monkeypatch, measure_costs.ModelSession, "forward",
        lambda _, tokens, __: sent.append(len(tokens)),
    )  # fmt: skip
    times = measure_costs._timed(it.begin, 8, TimingVerifier(moves=True))
    steps = list(zip(measure_costs._sizes(0), sent, strict=True))
    assert any(size != nodes for (size, _), nodes in steps)
    for size in ROWS:
        right = [nodes for (said, counts), nodes in steps if counts and said == size == nodes]
        assert len(times.taken["pass", size]) == len(right)
