"""Figures of an arm, from rows alone."""

import io

import pytest
from attrs import evolve
from rich.console import Console
from toolkit.bench.formats import list_figures
from toolkit.bench.keys import Setting
from toolkit.bench.machine import describe_machine
from toolkit.bench.report import _tabulate
from toolkit.bench.results import Results, pool_tau, shorten_arm
from toolkit.bench.store import Store
from toolkit.bench.table import (
    COLUMNS,
    format_cells,
    list_closing_notes,
    list_findings,
    list_notes,
    show,
)

from toolkit import ToolkitError


def changed(results, arm, **changes):
    """The results with other values in one arm's run."""
    runs = [run | changes if run["arm"] == arm else run for run in results.runs]
    return evolve(results, runs=runs)


def test_an_arm_is_compared_with_ar_of_its_own_kv_policy(invented):
    results = invented({"ar": 50.0, "ar window": 100.0, "chain window": 150.0})
    for arm in ("ar window", "chain window"):
        results = changed(results, arm, baseline="ar window")
    assert results.ratio("chain window", None).mean == pytest.approx(1.5, rel=0.03)
    assert results.ratio("chain window", None, "ar").mean == pytest.approx(3.0, rel=0.03)


def test_tau_is_a_ratio_of_sums_without_first_forwards():
    rows = [
        {"steps": 10, "token_ids": [0] * 31, "first_tokens": 1},
        {"steps": 30, "token_ids": [0] * 33, "first_tokens": 3},
    ]
    assert pool_tau(rows) == (30 + 30) / 40
    assert pool_tau([{"steps": 0, "token_ids": [0], "first_tokens": 1}]) is None


def test_the_whole_request_counts_the_prompt(invented):
    """TTFT of 10 ms beside 64 tokens makes a fast arm's advantage smaller."""
    results = invented({"ar": 500.0, "fast": 2000.0}, noise=0.0)
    setting = results.settings[0]
    assert results.ratio("fast", setting).mean == pytest.approx(4.0)
    assert 1 < results.ratio("fast", setting, whole=True).mean < 4.0


def test_tuning_and_drift_are_no_results(invented):
    results = invented({"ar": 50.0, "chain": 60.0})
    twice = [row | {"split": "tune", "tokens_per_s": 1.0} for row in results.requests]
    again = [
        row | {"split": "drift", "tokens_per_s": row["tokens_per_s"] / 2}
        for row in results.requests if row["arm"] == "ar"
    ]  # fmt: skip
    more = evolve(results, requests=[*results.requests, *twice, *again])
    setting = results.settings[0]
    found, plain = more.summarize("chain", setting), results.summarize("chain", setting)
    assert evolve(found, reading="") == evolve(plain, reading="")
    assert more.drift.mean == pytest.approx(0.5)


DRIFTS = {
    "steady": ([0.99, 1.01, 1.0, 1.0, 1.02, 0.98], "faster"),
    "slower at the end": ([0.9, 0.91, 0.9, 0.92, 0.9, 0.91], "unsteady"),
    "noisy": ([0.6, 1.5, 0.8, 1.3, 1.1, 0.9], "unsteady"),
}


@pytest.mark.parametrize(("drifts", "reading"), DRIFTS.values(), ids=DRIFTS)
def test_no_arm_is_called_faster_on_a_machine_that_changed(invented, drifts, reading):
    results = invented({"ar": 50.0, "chain": 60.0, "slow": 40.0, "same": 50.0})
    ours = [row for row in results.requests if row["arm"] == "ar"]
    again = [
        row | {"split": "drift", "tokens_per_s": row["tokens_per_s"] * drift}
        for row, drift in zip(ours, drifts, strict=False)
    ]
    more = evolve(results, requests=[*results.requests, *again])
    read = {arm: more.summarize(arm, more.settings[0]).reading for arm in more.by_arm}
    slower = "slower" if reading == "faster" else reading
    assert read == {"ar": "baseline", "chain": reading, "slow": slower, "same": "includes 1"}
    said = [line for line in list_findings(more) if line.startswith("UNSTEADY")]
    assert said == [
        f"UNSTEADY: AR again at the end ran at {more.drift.text} of its speed before, but the interval "
        f"must include 1 and stay within ±15 % of 1. So no arm is called faster or slower: measure "
        f"again on a quiet machine."
    ] * (reading == "unsteady")
    out = io.StringIO()
    show(more, Console(file=out, width=100))
    assert ("faster" in out.getvalue().partition("UNSTEADY")[0]) == (reading == "faster")


FEW_DRIFTS = {"steady": (1.1, False), "faster": (1.58, True), "slower": (0.8, True)}


@pytest.mark.parametrize(("drift", "loud"), FEW_DRIFTS.values(), ids=FEW_DRIFTS)
def test_a_drift_over_too_few_prompts_is_loud_when_it_is_large(invented, drift, loud):
    results = invented({"ar": 50.0, "chain": 60.0}, prompts=2, noise=0.0)
    again = [
        row | {"split": "drift", "tokens_per_s": row["tokens_per_s"] * drift}
        for row in results.requests if row["arm"] == "ar"
    ]  # fmt: skip
    more = evolve(results, requests=[*results.requests, *again])
    assert more.drift.low is None
    assert more.is_unsteady == loud
    assert any("but this must stay within ±15 % of 1" in line for line in list_findings(more)) == loud
    assert any(line.startswith("Drift") for line in list_closing_notes(more)) != loud
    assert more.summarize("chain", more.settings[0]).reading == "too few prompts"


def test_an_arm_without_a_real_drafter_is_called_so(invented):
    results = invented({"ar": 50.0, "chain": 60.0, "ideal": 90.0})
    setting = results.settings[0]
    assert results.find_fastest(setting, ["toolkit"]) == "ideal"
    assert not any("NO REAL DRAFTER" in line for line in list_findings(results))
    results = changed(results, "ideal", synthetic=True)
    assert results.find_fastest(setting, ["toolkit"]) == "chain"  # no one can decode at that speed
    assert results.summarize("ideal", setting).label == "ideal (no real drafter)"
    assert any(line.startswith("NO REAL DRAFTER: ideal (") for line in list_findings(results))
    colours = {row["arm"]: row["colour"] for row in _tabulate(results, setting)["rows"]}
    assert colours == {"AR": "", "chain": "good", "ideal (no real drafter)": ""}
    assert [row["synthetic"] for row in list_figures(results)] == [False, False, True]


def test_a_lossy_arm_is_called_so_and_ar_is_called_ar(invented):
    results = invented({"ar": 50.0, "ar kv=tova": 50.0, "typical": 60.0, "x lossy": 70.0})
    for arm in ("typical", "x lossy"):
        results = changed(results, arm, lossless=False)
    results = changed(results, "ar kv=tova", baseline="ar kv=tova")
    labels = [results.summarize(arm, results.settings[0]).label for arm in results.by_arm]
    assert labels == ["AR", "AR kv=tova", "typical (lossy)", "x (lossy)"]


def test_what_was_found_is_said_in_full(invented):
    results = changed(invented({"ar": 50.0, "x": 60.0, "l": 70.0}, prompts=5), "l", lossless=False)
    assert list_findings(results)[0].endswith("(AR): 5 exact.")
    assert results.is_sound
    mixed = {"x": ["exact", "tie", "inconclusive", None, None], "l": ["exact"] + 4 * ["divergent"]}
    rows = [
        row | {"verdict": mixed[row["arm"]][row["prompt_index"]]} if row["arm"] != "ar" else row
        for row in results.requests
    ]
    some = evolve(results, requests=rows)
    assert not some.is_sound
    assert list_findings(some)[0].endswith("(AR): 1 exact, 1 inconclusive, 1 tie.")
    assert "2 were not compared, because the bench was stopped." in list_findings(some)
    assert "l (lossy): 4 of 5 outputs are not AR's." in list_findings(some)
    assert some.summarize("x", some.settings[0]).reading == "faster"
    broken = changed(some, "l", lossless=True)
    assert broken.summarize("l", some.settings[0]).reading == "divergent"
    said = "DIVERGENT: outputs that are not AR's: 4, of l."
    assert any(line.startswith(said) for line in list_findings(broken))


def test_only_a_lossless_arm_can_break_the_promise(invented):
    results = invented({"ar": 50.0, "x": 60.0}, verdict="divergent")
    assert len(changed(results, "ar", lossless=False).divergent) == 12
    assert changed(changed(results, "ar", lossless=False), "x", lossless=False).divergent == []


def test_what_was_not_compared_is_counted(invented):
    assert invented({"ar": 50.0, "x": 60.0}).uncompared == 0
    assert invented({"ar": 50.0, "x": 60.0}, verdict=None).uncompared == 12


def test_the_bandwidth_share(invented):
    """A gigabyte per second over a megabyte of weights allows 1000 tokens per second."""
    results = invented({"ar": 250.0}, noise=0.0)
    rows = [row | {"tokens_per_s": 250.0} for row in results.requests]
    results = evolve(results, requests=rows)
    assert results.bandwidth_share(results.settings[0]) == pytest.approx(0.25)
    above = changed(results, "ar", weight_bytes=10**7)
    assert "stay in a cache" in list_notes(above, results.settings[0])[0]


def test_a_faster_library_is_told(invented):
    results = changed(invented({"ar": 50.0, "hf": 70.0}), "hf", engine="hf:generate")
    assert any("of our AR" in line for line in list_notes(results, results.settings[0]))
    slower = changed(invented({"ar": 50.0, "hf": 40.0}), "hf", engine="hf:generate")
    assert not any("of our AR" in line for line in list_notes(slower, slower.settings[0]))


def test_why_an_arm_is_slower_is_told(invented):
    """It commits two tokens a step (see the fixture) at 0.8 of AR's speed: a step takes 2.5 tokens."""
    results = invented({"ar": 50.0, "slow": 40.0, "fast": 60.0}, noise=0.0)
    lines = [line for line in list_notes(results, results.settings[0]) if "a step takes" in line]
    tau = pool_tau(results.rows("slow"))
    assert len(lines) == 1
    assert lines[0].startswith(f"slow: a step takes as long as {tau / 0.8:.2f} tokens of AR")


def test_a_loop_is_told(invented):
    results = invented({"ar": 50.0}, distinct_3grams=0.3)
    assert any("repeats itself" in line for line in list_notes(results, results.settings[0]))


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("wikitext2", "wikitext2"),
        ("wikitext2:some/where/x.parquet", "wikitext2"),
        ("some/where/x.jsonl:question", "x.jsonl:question"),
        ("x.txt", "x.txt"),
    ],
)
def test_a_data_set_is_shown_without_its_path(name, shown):
    assert Setting(name, 1, 2).dataset_name == shown
    assert shown in Setting(name, 1, 2).title


def test_long_names_are_shortened():
    assert shorten_arm("drafter=model shaper=chain:k=5") == "model chain:k=5"
    assert len(shorten_arm("x" * 100)) <= 44


def test_results_are_their_tables():
    assert Results([], []).tested == []


def test_prompts_whose_output_loops_are_left_out_for_every_arm(invented):
    results = invented({"ar": 50.0, "chain": 60.0}, noise=0.0)
    first = results.requests[0]["prompt_index"]
    loops = {"distinct_3grams": 0.3, "tokens_per_s": 1e6}
    rows = [row | (loops if row["prompt_index"] == first else {}) for row in results.requests]
    rows = [row | ({"distinct_3grams": 0.9} if row["arm"] == "chain" else {}) for row in rows]
    some, setting = evolve(results, requests=rows), results.settings[0]
    assert some.ratio("chain", setting).mean == pytest.approx(1.2)
    for arm in ("ar", "chain"):
        assert len(some.rows(arm, setting)) == len(results.rows(arm, setting)) - 1
        assert some.summarize(arm, setting).tokens_per_s < 1000
        assert len(some.rows(arm, setting, loops=True)) == len(results.rows(arm, setting))
    assert any("1 of 12 outputs repeat themselves" in line for line in list_notes(some, setting))
    assert not any("repeat themselves" in line for line in list_notes(results, setting))


def test_every_row_says_how_much_its_outputs_repeat(invented):
    results = invented({"ar": 50.0, "x": 60.0})
    rows = [row | {"distinct_3grams": 0.9 if row["arm"] == "ar" else 0.7} for row in results.requests]
    results = evolve(results, requests=rows)
    for arm, share in (("ar", "0.90"), ("x", "0.70")):
        row = dict(zip(COLUMNS, format_cells(results.summarize(arm, results.settings[0])), strict=True))
        assert row["3-grams"] == share


def under(results, load, **changes):
    """The results as if others had used this share of the CPU meanwhile."""
    return evolve(results, requests=[row | {"load": load} | changes for row in results.requests])


@pytest.mark.parametrize(
    ("load", "words", "quiet"),
    [
        (0.0, "used 0 %", True),
        (-0.02, "used 0 %", True),  # a tick more or less
        (0.05, "used 5 %", True),
        (0.06, "used 6 %", False),
        (0.38, "used 38 %", False),
        (None, "not known", True),
    ],
)
def test_load_is_told_and_above_a_twentieth_warned_of(invented, load, words, quiet):
    lines = list_closing_notes(under(invented({"ar": 50.0}), load))
    (line,) = [line for line in lines if "Load" in line]
    assert words in line
    assert ("not those of a quiet machine" in line) is not quiet


def test_load_counts_for_as_long_as_a_request_took(invented):
    rows = invented({"ar": 50.0}, prompts=2).requests
    long, short_one = {"load": 0.1, "wall_ms": 900.0}, {"load": 0.9, "wall_ms": 100.0}
    results = Results([], [rows[0] | long, rows[1] | short_one])
    assert results.load == pytest.approx(0.1 * 0.9 + 0.9 * 0.1)
    half_known = Results([], [rows[0] | long, rows[1] | {"load": None}])
    assert half_known.load == pytest.approx(0.1)


def test_the_machine_is_named_first(invented):
    results = invented({"ar": 50.0, "chain": 60.0})
    assert list_closing_notes(results)[0] == f"Machine: {describe_machine(results.runs[0])}."


def test_ar_and_the_fastest_arm_are_compared_with_the_library(invented):
    speeds = {"ar": 50.0, "slow": 60.0, "fast": 100.0, "plain": 25.0, "k=2": 40.0, "k=4": 20.0}
    results = invented(speeds, noise=0.0)
    for arm, engine in (("plain", "generate"), ("k=2", "assisted"), ("k=4", "assisted")):
        results = changed(results, arm, engine=f"hf:{engine}")
    found = [line for line in list_notes(results, results.settings[0]) if line.startswith("Against")]
    assert [line.partition(":")[0] for line in found] == ["Against plain", "Against k=2"]
    assert "AR 2.00 [2.00, 2.00] ×" in found[0]
    assert "fast 4.00 [4.00, 4.00] ×" in found[0]
    assert "AR 1.25 [1.25, 1.25] ×" in found[1]
    assert "fast 2.50 [2.50, 2.50] ×" in found[1]
    lossy = changed(results, "fast", lossless=False)
    assert any("slow 2.40" in line for line in list_notes(lossy, lossy.settings[0]))


def test_without_library_arms_nothing_is_compared_with_them(invented):
    results = invented({"ar": 50.0, "chain": 60.0})
    assert not any("Against" in line for line in list_notes(results, results.settings[0]))


UNSOUND = {
    "no run": ({}, {"arm": "other"}, "is of arm 'other', which has no run"),
    "no baseline": ({"baseline": "other"}, {}, "the AR arm 'other' has no run"),
    "no weights": ({"weight_bytes": 0}, {}, "no weights"),
    "options": ({"options": "{"}, {}, "are not JSON"),
    "options that are none": ({"options": "[1]"}, {}, "are not JSON"),
    "no time": ({}, {"wall_ms": 0.0}, "took no time"),
    "a negative speed": ({}, {"tokens_per_s": -1.0}, "took no time"),
    "twice": ({}, {"request_id": 7}, "in it twice"),
}


@pytest.mark.parametrize(("run", "request_", "word"), UNSOUND.values(), ids=UNSOUND)
def test_what_no_bench_wrote_is_refused_when_it_is_read(
    invented, toolkit, tmp_path, run, request_, word
):
    results = invented({"ar": 50.0}, prompts=2)
    store = Store.new(tmp_path / "r")
    store.write("runs", 0, [results.runs[0] | run])
    for number, row in enumerate(results.requests):
        store.write("requests", number, [row | request_])
    with pytest.raises(ToolkitError, match=word):
        Results.read(tmp_path / "r")
    done = toolkit("report", tmp_path / "r")
    assert done.exit_code == 2
    assert word in " ".join(done.output.split())


def test_names_are_no_markup(invented):
    """Not in the table, not below it, not in its title."""
    name = "[/red] :smile:"
    results = changed(invented({"ar": 50.0, name: 60.0}, verdict="divergent"), name, tuned="[/b]")
    rows = [row | {"dataset": "[i].txt"} for row in results.requests]
    out = io.StringIO()
    show(evolve(results, requests=rows), Console(file=out, width=200))
    text = out.getvalue()
    for words in (f"{name} ", f"{name}: tuned, [/b]", f"of {name}, ar.", "[i].txt, prompts"):
        assert words in text


def test_a_narrow_terminal_keeps_the_names(invented):
    """However much is said of the outputs."""
    results = invented({"ar": 50.0, "an-arm": 60.0}, prompts=4)
    verdicts = ["exact", "tie", "divergent", "inconclusive"]
    rows = [row | {"verdict": verdicts[row["prompt_index"]]} for row in results.requests]
    out = io.StringIO()
    show(evolve(results, requests=rows), Console(file=out, width=80))
    lines = out.getvalue().splitlines()
    assert any(line.startswith("arm ") for line in lines)
    assert any(line.startswith("an-arm ") for line in lines)
    assert all(len(line) <= 80 for line in lines)
