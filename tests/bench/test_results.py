"""Figures of an arm, from rows alone."""

import pytest
from attrs import evolve
from toolkit.bench.results import Results, name_of, set_name, short, tau
from toolkit.bench.table import COLUMNS, cells, closing, notes


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
    assert tau(rows) == (30 + 30) / 40
    assert tau([{"steps": 0, "token_ids": [0], "first_tokens": 1}]) is None


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
    assert more.figures("chain", results.settings[0]) == results.figures(
        "chain", results.settings[0]
    )
    assert more.drift.mean == pytest.approx(0.5)
    assert any("speed changed" in line for line in closing(more))
    assert not any("speed changed" in line for line in closing(results))


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
    assert "stay in a cache" in notes(above, results.settings[0])[0]


def test_a_faster_library_is_told(invented):
    results = changed(invented({"ar": 50.0, "hf": 70.0}), "hf", engine="hf:generate")
    assert any("of our AR" in line for line in notes(results, results.settings[0]))
    slower = changed(invented({"ar": 50.0, "hf": 40.0}), "hf", engine="hf:generate")
    assert not any("of our AR" in line for line in notes(slower, slower.settings[0]))


def test_a_loop_is_told(invented):
    results = invented({"ar": 50.0}, distinct_3grams=0.3)
    assert any("repeats itself" in line for line in notes(results, results.settings[0]))


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("wikitext2", "wikitext2"),
        ("wikitext2:some/where/x.parquet", "wikitext2"),
        ("some/where/x.jsonl:question", "x.jsonl:question"),
        ("x.txt", "x.txt"),
    ],
)
def test_a_set_is_called_without_the_way_to_it(name, shown):
    assert set_name((name, 1, 2)) == shown
    assert shown in name_of((name, 1, 2))


def test_long_names_are_shortened():
    assert short("drafter=model shaper=chain:k=5") == "model chain:k=5"
    assert len(short("x" * 100)) <= 44


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
        assert some.figures(arm, setting)["tokens_per_s"] < 1000
        assert len(some.rows(arm, setting, loops=True)) == len(results.rows(arm, setting))
    assert any("1 of 12 outputs repeat themselves" in line for line in notes(some, setting))
    assert not any("repeat themselves" in line for line in notes(results, setting))


def test_every_row_says_how_much_its_outputs_repeat(invented):
    results = invented({"ar": 50.0, "x": 60.0})
    rows = [row | {"distinct_3grams": 0.9 if row["arm"] == "ar" else 0.7} for row in results.requests]
    results = evolve(results, requests=rows)
    for arm, share in (("ar", "0.90"), ("x", "0.70")):
        row = dict(zip(COLUMNS, cells(results.figures(arm, results.settings[0])), strict=True))
        assert row["3-grams"] == share
