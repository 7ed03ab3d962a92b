"""What passes cost is measured once and remembered."""

import attrs
import pytest
import torch

from toolkit import Pipeline, Pool
from toolkit.conformance.models import COSTS, noisy, tiny
from toolkit.runtime import costs as measuring
from toolkit.runtime.costs import ROWS, WIDTHS, fingerprint, stored
from toolkit.runtime.machine import cache_folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(measuring, "ROUNDS", 1)


def pipeline(drafter="model:small", family="llama", **pool):
    return Pipeline(
        tiny(family), drafter=drafter, pool=Pool(modules={"small": noisy(family)}, **pool)
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


@pytest.mark.parametrize("kv", ["window:budget=8", "h2o:budget=8,sinks=1,recent=2,epoch=2"])
def test_a_target_under_a_kv_policy_is_measured(kv):
    assert Pipeline(tiny("llama"), drafter="ngram", kv=kv).costs().rows == ROWS


def test_a_model_of_few_positions_is_measured_within_them(monkeypatch):
    monkeypatch.setattr(measuring, "CONTEXTS", (64, 100_000))
    assert pipeline().costs().contexts == (64, 128)


def test_a_second_pipeline_reads_what_the_first_measured(monkeypatch):
    first = pipeline().costs()
    monkeypatch.setattr("toolkit.pipeline.measure", None)
    assert pipeline().costs() == first
    assert len(list(cache_folder("costs").glob("*.json"))) == 1
    assert not list(cache_folder("costs").glob("*.tmp"))


def test_what_a_busy_machine_shows_is_not_remembered(monkeypatch):
    busy = attrs.evolve(COSTS, noise=measuring.BUSY + 0.1)
    monkeypatch.setattr("toolkit.pipeline.measure", lambda _: busy)
    it = pipeline()
    assert it.costs() == it.costs() == busy  # by this process, it is
    assert not list(cache_folder("costs").glob("*"))


def test_noise_is_how_far_times_lie_above_the_least():
    timed = measuring.Timed(None, None, None)
    for size, times in ((1, [2.0, 2.0, 4.0]), (2, [1.0, 3.0, 9.0]), (4, [5.0, 5.0, 5.0])):
        timed.taken["pass", size].extend(times)
    assert timed.noise == 1.0
    timed.taken["pass", 4].extend([10.0] * 4)
    assert timed.noise == 2.0


def test_fresh_measures_again_and_replaces(monkeypatch):
    it = pipeline()
    it.costs()
    other = attrs.evolve(COSTS, contexts=(1, 2))
    monkeypatch.setattr("toolkit.pipeline.measure", lambda _: other)
    assert it.costs() != other
    assert it.costs(fresh=True) == it.costs() == pipeline().costs() == other


def test_given_costs_are_not_measured(monkeypatch):
    monkeypatch.setattr("toolkit.pipeline.measure", None)
    assert pipeline(costs=COSTS).costs() is COSTS


def test_a_torn_file_is_measured_anew():
    first = pipeline()
    first.costs()
    (file,) = cache_folder("costs").glob("*.json")
    file.write_text(file.read_text()[:40])
    assert stored(file.stem) is None
    assert pipeline().costs().rows == ROWS


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert pipeline().costs().rows == ROWS


def test_a_fingerprint_tells_apart_what_costs_differently():
    specs = {"drafter": "ngram"}
    model = pipeline().pool.load("small")
    known = fingerprint([model], specs)
    assert fingerprint([model], specs) == known
    wider = Pool(modules={"wide": tiny("qwen3")}).load("wide")
    rounded = Pool(modules={"it": noisy("llama", 5).float()}).load("it")
    assert len({known, *(fingerprint([m], specs) for m in (wider, rounded))}) == 3
    assert fingerprint([model], {"drafter": "none"}) != known
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert fingerprint([model], specs) != known
    finally:
        torch.set_num_threads(threads)


def test_the_name_and_seed_of_a_model_do_not_matter():
    pool = Pool(modules={"one": tiny("llama", 1), "two": tiny("llama", 2)})
    one, two = (fingerprint([pool.load(name)], {}) for name in ("one", "two"))
    assert one == two


def test_a_large_target_gets_one_round(monkeypatch):
    """At most 20 passes for both contexts, prefills included."""
    passes = []
    monkeypatch.setattr(measuring, "SMALL", 0)
    monkeypatch.setattr(measuring, "ROUNDS", 6)
    it = pipeline("ngram")
    it.load()
    cls = type(it.pool.load(it.target).executor)
    forward = cls.forward
    monkeypatch.setattr(cls, "forward", lambda self, *a: passes.append(1) or forward(self, *a))
    it.costs()
    assert len(passes) <= 20


def test_only_a_shaper_that_plans_has_costs_measured(monkeypatch):
    measured = []
    monkeypatch.setattr("toolkit.pipeline.measure", lambda _: measured.append(1) or COSTS)
    for shaper, times in (("chain:k=2", 0), ("planned", 1)):
        it = Pipeline(tiny("llama"), drafter="ngram", shaper=shaper)
        it.generate([3, 4, 3, 4], max_new_tokens=4)
        assert len(measured) == times


def test_a_shaper_is_told_costs_and_length_before_it_grows(monkeypatch):
    told = []
    cls = Pipeline(tiny("llama"), shaper="planned").shaper.cls
    plan = cls.plan
    monkeypatch.setattr(cls, "plan", lambda self, *given: told.append(given) or plan(self, *given))
    it = Pipeline(tiny("llama"), drafter="ngram", shaper="planned", pool=Pool(costs=COSTS))
    it.generate([3, 4, 3, 4, 5], max_new_tokens=4)
    assert told == [(COSTS, 5)]
