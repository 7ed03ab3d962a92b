"""Two folders compared: known changes are found, and the machine's speed cancels."""

import io

import pytest
from attrs import evolve
from rich.console import Console
from toolkit.bench.comparison import compare, list_differences, show
from toolkit.bench.results import Results
from toolkit.bench.store import Store

from toolkit import ToolkitError

SPEEDS = {"ar": 50.0, "chain": 75.0}


def results(invented, machine=1.0, chain=1.0, **changes):
    """A bench on a machine of this speed, its arm chain made faster by a change."""
    speeds = {arm: speed * machine for arm, speed in SPEEDS.items()}
    found = invented(speeds | {"chain": speeds["chain"] * chain}, **changes)
    rows = [row | {"prompt_id": str(row["prompt_index"])} for row in found.requests]
    return evolve(found, requests=rows)


def test_a_change_comes_out_and_the_machines_speed_cancels(invented):
    before, after = results(invented), results(invented, machine=2.0, chain=1.3)
    ((ar, chain),) = compare(before, after).values()
    assert ar.ratio.mean == pytest.approx(2.0)
    assert (ar.relative, ar.reading) == (None, "faster")
    assert chain.ratio.mean == pytest.approx(2.6)
    assert chain.relative.mean == pytest.approx(1.3)
    assert (chain.prompts, chain.reading, chain.same) == (12, "faster", (12, 12))


def test_only_shared_prompts_are_paired(invented):
    before, after = results(invented, prompts=12), results(invented, prompts=7)
    assert [change.prompts for change in compare(before, after)[before.settings[0]]] == [7, 7]
    rows = [row | {"prompt_id": "other"} for row in after.requests]
    strangers = compare(before, evolve(after, requests=rows))[before.settings[0]]
    assert {(c.ratio, c.reading) for c in strangers} == {(None, "not paired")}
    assert all(speed for change in strangers for speed in change.speeds)


def test_an_unsteady_machine_or_a_broken_promise_decides_nothing(invented):
    before, after = results(invented), results(invented, chain=1.3)
    drift = [
        r | {"split": "drift", "tokens_per_s": 1.0} for r in before.requests if r["arm"] == "ar"
    ]
    shaken = evolve(before, requests=[*before.requests, *drift])
    assert {c.reading for c in compare(shaken, after)[before.settings[0]]} == {
        "includes 1",
        "unsteady",
    }
    assert any(line.startswith("UNSTEADY: in A") for line in list_differences(shaken, after))
    verdicts = {"ar": None, "chain": "divergent"}
    rows = [row | {"verdict": verdicts[row["arm"]]} for row in after.requests]
    broken = evolve(after, requests=rows)
    assert compare(before, broken)[before.settings[0]][1].reading == "divergent"
    assert any("12 outputs of B" in line for line in list_differences(before, broken))


def test_what_differs_is_said(invented):
    before, after = results(invented), results(invented)
    runs = [run | {"torch": "9", "threads": 4, "arm_spec": "k=3"} for run in after.runs]
    rows = [row | {"token_ids": [1, 2, 3]} for row in after.requests if row["prompt_index"] < 2]
    other = Results(runs, [*rows, *(r for r in after.requests if r["prompt_index"] >= 2)])
    out = io.StringIO()
    show(before, other, Console(file=out, width=80))
    text = " ".join(out.getvalue().split())
    for words in (
        "torch 2 → 9",
        "threads 1 → 4",
        "chain: chain → k=3",
        "chain: 2 of 12 outputs changed",
    ):
        assert words in text
    assert all(len(line) <= 80 for line in out.getvalue().splitlines())


def test_nothing_in_common_is_an_error(invented):
    with pytest.raises(ToolkitError) as refused:
        compare(results(invented), results(invented, settings=((256, 9),)))
    said = str(refused.value)
    assert "nothing in common: arms ar; chain and ar; chain, settings " in said
    assert "T = 9; both benches need the same data sets and numbers of tokens" in said
    assert said.endswith("and arms of the same name, which name= sets")


def test_the_command_compares_two_folders(invented, toolkit, tmp_path):
    for name in ("a", "b"):
        found, store = results(invented, prompts=5), Store.new(tmp_path / name)
        for table in ("runs", "requests"):
            for number, row in enumerate(getattr(found, table)):
                store.write(table, number, [row])
    done = toolkit("report", tmp_path / "a", tmp_path / "b")
    assert done.exit_code == 0, done.output
    assert "1.00 [1.00, 1.00]" in done.output
    assert toolkit("report", tmp_path / "a", tmp_path / "no").exit_code == 2
    assert toolkit("report", tmp_path / "a", tmp_path / "b", "--out", "x").exit_code == 2
