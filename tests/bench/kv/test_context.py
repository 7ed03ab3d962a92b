"""kv-context: its plan, its text, its rows."""

import pytest
from click.testing import CliRunner
from toolkit.bench.arms import parse_arms
from toolkit.bench.columns import Context
from toolkit.bench.dataset_loading import repeat_text
from toolkit.bench.engines import PipelineEngine
from toolkit.bench.kv.context import make_plan, summarize
from toolkit.bench.results import Results

from toolkit import Pipeline, ToolkitError
from toolkit.cli import main

SMALL = ["--target", "stories-1m", "--contexts", "200,9", "--new-tokens", "6"]
POLICY, DRAFTER = "window:budget=8", "self:kv=[window:budget=4]"


@pytest.fixture
def decoded(monkeypatch):
    """Every request as (arm, prompt's length), in order."""
    found, honest = [], PipelineEngine.run

    def run(self, *args):
        arm = "drafted" if self.pipeline.drafter.cls.name != "none" else str(self.pipeline.kv)
        found.append((arm, len(args[2])))
        return honest(self, *args)

    monkeypatch.setattr(PipelineEngine, "run", run)
    return found


def measure(folder, *words):
    done = CliRunner().invoke(main, ["kv-context", *SMALL, *words, "--out", str(folder)])
    assert done.exit_code == 0, done.output
    return list(summarize(Results.read(folder)))


def test_ar_under_full_comes_first_and_once():
    plan = make_plan(["full", "window"], ["self"], [8], prompts=2)
    arms = [(arm.specs["drafter"], arm.kv) for arm in parse_arms(plan.arms)]
    assert arms == [("none", "full"), ("none", "window"), ("self", "full")]


def test_a_row_per_length_and_arm(tmp_path):
    rows = measure(tmp_path / "r", "--kv", POLICY, "--drafter", DRAFTER, "--rounds", "2")
    assert [row.prompt_tokens for row in rows] == [9, 9, 9, 200, 200, 200]
    assert [row.against_ar for row in rows if row.drafter == "none" and row.kv == "full"] == [1, 1]
    assert {(row.rounds, row.new_tokens) for row in rows} == {(2, 6)}
    assert all(row.draft_kv_bytes > 0 for row in rows if row.drafter.startswith("self"))
    assert rows[4].kv_bytes < rows[3].kv_bytes  # a window against everything
    assert all(row.tau == 1 for row in rows if row.drafter == "none")


def test_the_order_turns_and_one_round_per_length_warms_up(tmp_path, decoded):
    measure(tmp_path / "r", "--kv", POLICY, "--drafter", "ngram", "--rounds", "2")
    arms = ["full", POLICY, "drafted"]
    assert decoded[:6] == [(arm, size) for size in (9, 200) for arm in arms]  # warm-up
    turned = [arms, [*arms[1:], *arms[:1]], [*arms[2:], *arms[:2]], arms]
    rounds = zip(turned, (9, 200, 9, 200), strict=True)
    assert decoded[6:18] == [(arm, size) for order, size in rounds for arm in order]
    drift = decoded[18:]  # the first arm again, after a warm-up of its own
    assert {arm for arm, _ in drift} == {"full"}
    assert len(drift) == 2 + 4


def test_every_round_has_the_same_prompt(tmp_path):
    measure(tmp_path / "r", "--kv", POLICY, "--drafter", DRAFTER, "--rounds", "3")
    prompts = {}
    for row in Results.read(tmp_path / "r").requests:
        prompts.setdefault(row["prompt_limit"], set()).add(row["prompt_id"])
    assert {size: len(ids) for size, ids in prompts.items()} == {9: 1, 200: 1}


def test_a_text_is_repeated_between_tokens():
    """The shipped tokenizer splits at the seam: the tokens repeat, after the first one, which starts
    the text."""
    pipeline = Pipeline("stories-1m", drafter="none")
    text = "Once upon a time there was a big dog.\n"
    (turns, again) = repeat_text(text, 500, 2).conversations
    (start, *once), (first, *long) = pipeline.ids(text), pipeline.ids(turns[0])
    assert start == first
    assert turns == again
    assert len(long) >= 500
    assert long == (once * (len(long) // len(once) + 1))[: len(long)]
    assert repeat_text(text[:-1], 500, 1).conversations[0] == turns


def test_an_empty_text_is_rejected():
    with pytest.raises(ToolkitError, match="the text is empty"):
        repeat_text("", 8, 1)


def test_rows_that_were_not_measured_are_left_out(invented):
    results = invented({"ar": 50.0, "ar window": 60.0}, prompts=3)
    only = Results(results.runs, [row for row in results.requests if row["arm"] == "ar"])
    assert [type(row) for row in summarize(results)] == [Context, Context]
    assert len(list(summarize(only))) == 1
    assert list(summarize(Results(results.runs, []))) == []
