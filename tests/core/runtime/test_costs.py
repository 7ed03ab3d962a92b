"""What passes cost is measured once and remembered."""

import copy
import os

import attrs
import cattrs
import pytest
import torch

from toolkit import Pipeline, Pool
from toolkit.conformance.models import COSTS, noisy, tiny
from toolkit.runtime import measure_costs
from toolkit.runtime.costs import NOISY, fingerprint, store, stored
from toolkit.runtime.kernels import native
from toolkit.runtime.machine.disk import cache_folder
from toolkit.runtime.machine.remembered import remember
from toolkit.runtime.measure_costs import ROWS


@pytest.fixture(autouse=True)
def _quiet(own_cache, monkeypatch):
    """Whatever runs beside the tests."""
    monkeypatch.setattr("toolkit.runtime.costs.NOISY", float("inf"))
    monkeypatch.setattr("toolkit.pipeline.busy_load", lambda _: None)


def pipeline(drafter="model:small", family="llama", **pool):
    return Pipeline(
        tiny(family), drafter=drafter, pool=Pool(modules={"small": noisy(family)}, **pool)
    )


def test_a_second_pipeline_reads_what_the_first_measured(monkeypatch):
    first = pipeline().costs()
    monkeypatch.setattr("toolkit.runtime.measure_costs.measure_costs", None)
    assert pipeline().costs() == first
    (file,) = cache_folder("costs").iterdir()
    assert file.suffix == ".json"


@pytest.mark.parametrize(
    ("noise", "load", "said"),
    [
        (NOISY + 0.1, None, "measurements took up to 1.7 times their minimum"),
        (1.0, 0.5, "other processes used 50% of the CPU"),
        (NOISY - 0.1, None, None),
    ],
)
def test_what_a_busy_machine_shows_is_not_remembered(monkeypatch, caplog, noise, load, said):
    monkeypatch.setattr("toolkit.runtime.costs.NOISY", NOISY)
    monkeypatch.setattr("toolkit.runtime.machine.disk._said", {})
    found = attrs.evolve(COSTS, noise=noise)
    monkeypatch.setattr("toolkit.runtime.measure_costs.measure_costs", lambda *_: found)
    monkeypatch.setattr("toolkit.pipeline.busy_load", lambda _: load)
    it = pipeline()
    assert it.costs() == it.costs() == found  # by this process, it is
    assert len(list(cache_folder("costs").iterdir())) == (said is None)
    assert [said in line for line in caplog.messages] == [True] * (said is not None)


def test_fresh_measures_again_and_replaces(monkeypatch):
    it = pipeline()
    it.costs()
    other = attrs.evolve(COSTS, contexts=(1, 2))
    monkeypatch.setattr("toolkit.runtime.measure_costs.measure_costs", lambda *_: other)
    assert it.costs() != other
    assert it.costs(fresh=True) == it.costs() == pipeline().costs() == other


def test_given_costs_are_not_measured(monkeypatch):
    monkeypatch.setattr("toolkit.runtime.measure_costs.measure_costs", None)
    assert pipeline(costs=COSTS).costs() is COSTS


def test_a_torn_file_is_measured_anew():
    first = pipeline()
    first.costs()
    (file,) = cache_folder("costs").glob("*.json")
    file.write_text(file.read_text()[:40])
    assert stored(file.stem) is None
    assert pipeline().costs().rows == ROWS


def test_what_is_no_costs_is_measured_anew():
    """Whole, and written for another version's class."""
    for other in ({"rows": [1, 2]}, [], None, "costs", {**cattrs.unstructure(COSTS), "rows": [1]}):
        remember("costs", "key", other)
        assert stored("key") is None
    store("key", COSTS, None)
    assert stored("key") == COSTS


def test_costs_on_a_full_disk_are_measured_all_the_same(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert pipeline().costs().rows == ROWS


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert pipeline().costs().rows == ROWS


def test_a_fingerprint_tells_apart_what_costs_differently(monkeypatch):
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
    with native.using(None):
        assert fingerprint([model], specs) != known
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    assert fingerprint([model], specs) != known


def test_the_name_and_seed_of_a_model_do_not_matter():
    pool = Pool(modules={"one": tiny("llama", 1), "two": tiny("llama", 2)})
    one, two = (fingerprint([pool.load(name)], {}) for name in ("one", "two"))
    assert one == two


def test_only_a_shaper_that_plans_has_costs_measured(monkeypatch):
    measured = []
    monkeypatch.setattr(measure_costs, "measure_costs", lambda *_: measured.append(1) or COSTS)
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


def test_what_is_measured_fits_into_every_models_positions(monkeypatch):
    """Beyond its own a drafter proposes nothing, in no time."""
    small, asked = copy.deepcopy(noisy("llama")), []
    small.config.max_position_embeddings = 100
    monkeypatch.setattr(
        measure_costs, "measure_costs", lambda _, positions: asked.append(positions) or COSTS
    )
    Pipeline(tiny("llama"), drafter="model:small", pool=Pool(modules={"small": small})).costs()
    assert asked == [100]
