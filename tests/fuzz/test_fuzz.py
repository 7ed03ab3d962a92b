"""The fuzzer passes what is right, finds a bug that is there, and leaves a script that shows it."""

import io
import runpy
from importlib import import_module
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest
import torch
from rich.console import Console

SEED = 5
SCRIPT = f"fuzz-failure-{SEED}.py"
CASE = {"family": "llama", "seed": 0, "noise": 0.02, "stops": (), "kv": "full", "shaper": "chain"}


@pytest.fixture
def fuzzer(monkeypatch, tmp_path):
    """The fuzzer's modules, in an empty folder."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.chdir(tmp_path)
    names = ("case", "draw", "shrink", "fuzz")
    return SimpleNamespace(**{name: import_module(name) for name in names})


def fuzzed(fuzzer, sabotage=""):
    """The exit status of a short run, and what it printed."""
    out = io.StringIO()
    status = fuzzer.fuzz.fuzz(SEED, 1.0, 12, sabotage, Console(file=out, width=110))
    return status, out.getvalue()


def test_what_is_right_passes(fuzzer):
    threads = torch.get_num_threads()
    status, out = fuzzed(fuzzer)
    assert status == 0
    assert " 0 divergences" in out
    assert not Path(SCRIPT).exists()
    assert torch.get_num_threads() == threads


def test_a_bug_is_found_and_shrunk_to_a_script(fuzzer):
    status, out = fuzzed(fuzzer, "OneTooMany")
    assert status == 1
    assert " 1 divergences" in out
    script = runpy.run_path(SCRIPT)
    small, main = script["CASE"], script["main"]
    (request,) = small.requests
    assert len(request.prompt) <= 4
    assert request.max_new_tokens <= 4
    assert {name: getattr(small, name) for name in CASE if name != "noise"} == {
        name: value for name, value in CASE.items() if name != "noise"  # any noise shows it
    }
    assert main(attrs.evolve(small, sabotage="")) == 0
    with pytest.raises(SystemExit) as exited:
        runpy.run_path(SCRIPT, run_name="__main__")
    assert exited.value.code == 1


def test_what_breaks_off_is_a_failure(fuzzer):
    case = fuzzer.case.Case((fuzzer.case.Request((5,), 4),), sabotage="OverBudget")
    (result,) = fuzzer.case.results(case)
    assert (result.outcome, result.kind) == ("failed", "StrategyError")


def test_what_does_not_fit_is_refused_with_its_reason(fuzzer):
    requests = (fuzzer.case.Request((5,), 4),) * 2
    case = fuzzer.case.Case(requests, family="gpt2", kv="streaming:positions=cache")
    totals = fuzzer.fuzz.Totals()
    for request, result in zip(requests, fuzzer.case.results(case), strict=True):
        totals.add(case, request, result)
    assert totals.of("refused") == 2
    ((reason, count),) = totals.reasons.items()
    assert "its positions are learned" in reason
    assert count == 2


def test_a_seed_gives_the_same_cases_again(fuzzer):
    one, again, other = (list(islice(fuzzer.draw.drawn(seed), 12)) for seed in (1, 1, 2))
    assert one == again != other


def test_ctrl_c_shows_the_totals(fuzzer, monkeypatch):
    def drawn(seed, sabotage):
        yield from islice(honest(seed, sabotage), 2)
        raise KeyboardInterrupt

    honest = fuzzer.draw.drawn
    monkeypatch.setattr(fuzzer.fuzz, "drawn", drawn)
    status, out = fuzzed(fuzzer)
    assert status == 130
    assert "drafted tokens" in out


@pytest.mark.parametrize(("twin", "tied"), [(True, True), (False, False)])
def test_a_tie_is_what_rounding_decides(fuzzer, twin, tied):
    """Of two tokens whose logits are the same, either may come; no other may."""
    case = fuzzer.case.Case((), dtype="fp32")
    theirs, request = fuzzer.case._untouched(case), fuzzer.case.Request((5, 9), 1)
    best = int(theirs(torch.tensor([[5, 9]])).logits[0, -1].argmax())
    other = (best + 1) % 97
    if twin:
        theirs.lm_head.weight.data[other] = theirs.lm_head.weight[best]
    assert fuzzer.case._within_rounding(theirs, request, [other]) is tied
