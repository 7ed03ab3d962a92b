"""The panel's rows about a GPU."""

import pytest
import torch
from attrs import evolve

from toolkit import Pipeline, Pool
from toolkit.cli.panel import show
from toolkit.conformance.models import tiny

WHOLE = "9 steps as one graph each; 1 pass by pass, because the end of the request cuts it"
FAILED = "pass by pass, because trees differ in shape; capturing failed: RuntimeError: no"
NOTE = " (a graph's time counts as verify)"


@pytest.fixture(scope="module")
def done():
    pool = Pool(modules={"it": tiny("llama")})
    pipeline = Pipeline("it", drafter="none", pool=pool)
    return pipeline, pipeline.generate([5, 9, 33], max_new_tokens=3)


@pytest.fixture
def panel(done, capsys, monkeypatch):
    """The panel of requests with these changes, as `{name: text}`."""
    monkeypatch.setenv("COLUMNS", "200")

    def make(*changes):
        pipeline, generation = done
        show([evolve(generation, **change) for change in changes], pipeline, None, explaining=False)
        lines = [line.strip("│ ").split("  ", 1) for line in capsys.readouterr().out.splitlines()]
        return {name: text.strip() for name, text in (line for line in lines if len(line) == 2)}

    return make


@pytest.mark.parametrize(
    ("steps_run", "said"),
    [(WHOLE, WHOLE + NOTE), (FAILED, FAILED), ("pass by pass, because trees differ in shape", None)],
)
def test_how_steps_ran_where_graphs_did_or_could_not(panel, steps_run, said):
    assert panel({"steps_run": steps_run}).get("steps") == said


def test_of_several_requests_only_failures_are_said(panel):
    assert panel({"steps_run": WHOLE}, {"steps_run": FAILED})["steps"] == FAILED
    assert "steps" not in panel({"steps_run": WHOLE}, {"steps_run": WHOLE})


def test_what_was_captured(panel):
    assert panel({"graphs_captured": 3})["graphs"] == "3 captured, which the times include"
    assert panel(*[{"graphs_captured": count} for count in (3, 0, 2)])["graphs"].startswith("5 ")
    assert "graphs" not in panel({"graphs_captured": 0})


def test_the_peak_of_a_gpu(panel, done, monkeypatch):
    assert "memory" not in panel({})
    pool = done[0].pool
    on_gpu = evolve(pool.load("it"), device=torch.device("cuda:0"))
    monkeypatch.setitem(pool._loaded, "it", on_gpu)
    assert panel({"peak_memory_bytes": 5 << 30})["memory"] == "peak 5.00 GiB"
    several = panel(*[{"peak_memory_bytes": size << 29} for size in (1, 3, 2)])
    assert several["memory"] == "peak 1.50 GiB"
