"""`toolkit bench` from words to Parquet: pairing, verdicts, tuning, and bad input."""

import collections
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from toolkit.bench import hf
from toolkit.bench.results import Results
from toolkit.bench.store import Store

from toolkit import Pool, embedded

QUICK = ["--target", "stories-1m", "--prompts", "2", "--max-new-tokens", "8", "--warmup", "1"]
QUICK += ["--rounds", "1"]
NGRAM = ["--arm", "drafter=ngram shaper=chain:k=2"]
LOAD = hf.load_module


@pytest.fixture
def bench(toolkit, tmp_path):
    """Run, and read what came of it."""

    def call(*args, out="r", status=0):
        done = toolkit("bench", *args, "--out", tmp_path / out)
        assert done.exit_code == status, done.output
        return Results.read(tmp_path / out), done.output

    return call


def test_arms_by_prompts_by_settings(bench):
    arms = ["--arm", "name=a drafter=ngram", "--arm", "name=w drafter=ngram kv=window:budget=9"]
    results, output = bench(*QUICK, *arms, "--max-new-tokens", "4,8", "--prompt-tokens", "5,9")
    assert list(results.by_arm) == ["ar", "ar kv=window:budget=9", "a", "w"]
    counts = collections.Counter(row["arm"] for row in results.tested)
    assert set(counts.values()) == {2 * 2 * 2}
    assert len(results.settings) == 4
    assert all(row["prompt_tokens"] <= row["prompt_limit"] for row in results.requests)
    assert all(len(row["token_ids"]) <= row["max_new_tokens"] for row in results.requests)
    assert results.by_arm["w"]["baseline"] == "ar kv=window:budget=9"
    for row in results.requests:  # the path is τ without the bonus
        assert row["path_length"] == pytest.approx(row["tau"] - 1)
    assert "T = 8" in output


def test_every_arm_gets_the_same_prompts_in_rotated_order(bench):
    results, _ = bench(*QUICK, *NGRAM, "--arm", "hf:lookup", "--prompts", "3")
    rounds = collections.defaultdict(dict)
    for row in results.tested:
        rounds[row["prompt_index"]][row["place"]] = row["arm"]
        assert (
            len(
                {r["prompt_id"] for r in results.tested if r["prompt_index"] == row["prompt_index"]}
            )
            == 1
        )
    orders = [[arms[place] for place in range(3)] for arms in rounds.values()]
    firsts = {order[0] for order in orders}
    assert firsts == set(results.by_arm)
    started = [row["started"] for row in sorted(results.tested, key=lambda r: r["request_id"])]
    assert started == sorted(started)


def test_every_prompt_is_decoded_in_every_round(bench):
    """In another order, and compared with AR of the same round."""
    results, _ = bench(*QUICK, *NGRAM, "--rounds", "3")
    ran = {(r["round"], r["prompt_index"], r["arm"]): r for r in results.tested}
    assert len(ran) == len(results.tested) == 3 * 2 * 2
    numbers = [r["round"] for r in sorted(results.tested, key=lambda r: r["request_id"])]
    assert numbers == sorted(numbers)
    for (number, prompt, arm), row in ran.items():
        ar = ran[number, prompt, "ar"]
        assert row["token_ids"] == ar["token_ids"]
        assert row["place"] != ran[(number + 1) % 3, prompt, arm]["place"] or number == 2
        ratio = None if arm == "ar" else row["tokens_per_s"] / ar["tokens_per_s"]
        assert row["against_ar"] == ratio
    assert {r["round"] for r in results.requests if r["split"] == "drift"} == {0, 1, 2}


def test_every_output_is_compared(bench):
    results, _ = bench(*QUICK, "--arm", "drafter=model shaper=chain:k=2", "--arm", "hf:generate",
                       "--arm", "name=again ar")  # fmt: skip
    verdicts = {arm: {row["verdict"] for row in results.rows(arm)} for arm in results.by_arm}
    assert verdicts["ar"] == {None}
    assert verdicts["drafter=model shaper=chain:k=2"] == {"exact"}
    assert verdicts["hf:generate"] == {"exact"}
    assert verdicts["again"] == {"inconclusive"}
    assert results.divergent == []


def test_a_broken_promise_fails_the_run(bench, liar):
    arm = ["--arm", "name=liar drafter=ngram verifier=liar", "--plugin", liar]
    results, output = bench(*QUICK, *arm, status=1)
    assert {row["verdict"] for row in results.rows("liar")} == {"divergent"}
    assert "DIVERGENT: outputs that are not AR's: 2, of liar." in output
    assert len(results.requests) == 6  # nothing was lost by it


def test_a_plugin_is_known_again_on_resuming_or_named(bench, toolkit, liar, tmp_path):
    arm = ["--arm", "name=liar drafter=ngram verifier=liar lossy", "--plugin", liar]
    bench(*QUICK, *arm, "--prompts", "1")
    assert toolkit("bench", "--resume", "--out", tmp_path / "r").exit_code == 0
    liar.unlink()
    done = toolkit("bench", "--resume", "--out", tmp_path / "r")
    assert done.exit_code == 2
    assert f"no plugin file {liar}" in done.output.replace("\n", "")


def test_a_declared_loss_does_not(bench, liar):
    arm = ["--arm", "name=liar drafter=ngram verifier=liar lossy", "--plugin", liar]
    results, _ = bench(*QUICK, *arm)
    assert {row["verdict"] for row in results.rows("liar")} == {"divergent"}
    assert results.divergent == []


def test_the_first_arm_runs_again_at_the_end(bench):
    results, output = bench(*QUICK, *NGRAM)
    drift = [row for row in results.requests if row["split"] == "drift"]
    assert [row["arm"] for row in drift] == ["ar", "ar"]
    assert min(r["request_id"] for r in drift) > max(r["request_id"] for r in results.tested)
    assert results.drift.prompts == 2
    assert "AR again at the end ran at" in " ".join(output.split())


def test_tuning_is_done_on_prompts_that_are_held_out(bench):
    arm = ["--arm", "name=base drafter=ngram shaper=chain", "--tune", "base", "--grid", "k=1,6"]
    results, output = bench(*QUICK, *arm)
    tried = [row for row in results.requests if row["split"] == "tune"]
    assert {row["arm"] for row in tried} == {"ar", "base k=1", "base k=6"}
    held, tested = ({r["prompt_index"] for r in rows} for rows in (tried, results.tested))
    assert len(held) == 4
    assert not held & tested
    chosen = results.by_arm["base"]
    assert chosen["tuned"].endswith("best of 2 on 4 held-out prompts")
    k = json.loads(chosen["options"])["shaper"]["k"]
    speeds = {
        a: sum(r["wall_ms"] for r in tried if r["arm"] == a) for a in ("base k=1", "base k=6")
    }
    assert k in (1, 6)
    assert chosen["tuned"].startswith(f"k={k}:")
    assert speeds
    assert set(results.by_arm) == {"ar", "base"}
    assert "tuned, k=" in output


def test_later_turns_hold_ars_answers(bench, tmp_path):
    talk = {"turns": ["Once upon a time", "Then one day", "At the end"]}
    (tmp_path / "talks.jsonl").write_text(json.dumps(talk) + "\n")
    results, _ = bench(*QUICK, *NGRAM, "--dataset", tmp_path / "talks.jsonl", "--prompts", "1")
    for turn in range(3):
        rows = [row for row in results.tested if row["turn"] == turn]
        assert len({row["prompt_id"] for row in rows}) == 1
    lengths = [r["prompt_tokens"] for r in sorted(results.rows("ar"), key=lambda r: r["turn"])]
    assert lengths[1] > lengths[0] + 7
    assert lengths[2] > lengths[1] + 7


def test_steps_and_nodes_on_request(bench, tmp_path):
    results, _ = bench(*QUICK, *NGRAM, "--record", "steps", "--record", "nodes")
    store = Store.open(tmp_path / "r")
    steps, nodes = store.rows("steps"), store.rows("nodes")
    assert len(steps) == sum(row["steps"] for row in results.requests)
    assert {row["fate"] for row in nodes} >= {"root", "accepted", "bonus"}
    assert sum(row["fate"] == "bonus" for row in nodes) == len(steps)
    assert {row["run_id"] for row in steps} <= {row["run_id"] for row in results.runs}


def test_without_a_request_there_are_no_steps(bench, tmp_path):
    bench(*QUICK, *NGRAM)
    assert not (tmp_path / "r" / "steps").exists()


def test_stop_tokens_can_be_decoded_past(bench, tmp_path):
    (tmp_path / "p.txt").write_text("The end.<|endoftext|>Once\n")
    args = [*QUICK, *NGRAM, "--arm", "hf:generate", "--dataset", tmp_path / "p.txt", "--prompts", "1",
            "--max-new-tokens", "300"]  # fmt: skip
    long, _ = bench(*args, "--ignore-eos", out="long")
    assert {len(row["token_ids"]) for row in long.requests} == {300}
    assert {row["verdict"] for row in long.tested} == {None, "exact"}


def test_every_request_says_what_others_used_of_the_cpu(bench):
    results, output = bench(*QUICK, *NGRAM)
    assert "Load: " in output
    if Path("/proc/stat").exists():  # which counts in ticks of 10 ms, on each core
        for row in results.requests:
            assert row["load"] * row["wall_ms"] <= row["wall_ms"] + 20


def test_names_are_no_markup(bench):
    """Neither in the progress bar nor in what is printed at the end."""
    results, output = bench(*QUICK, "--arm", "name=[/red] drafter=ngram", out="[b]")
    assert set(results.by_arm) == {"ar", "[/red]"}
    assert "[/red]" in output
    assert "[b]" in output


def test_an_empty_grid_is_refused_before_models_load(toolkit, tmp_path, monkeypatch):
    monkeypatch.setattr("toolkit.Pipeline.load", None)
    plan = 'arms = ["name=x drafter=ngram shaper=chain"]\n[[tune]]\narm = "x"\ngrid = {k = []}\n'
    (tmp_path / "p.toml").write_text(plan)
    done = toolkit("bench", "--plan", tmp_path / "p.toml", "--out", tmp_path / "r")
    assert done.exit_code == 2
    assert "no value for 'k'" in done.output


def test_hugging_faces_arms_are_tuned_too(bench):
    arms = ["--arm", "name=look hf:lookup", "--tune", "look", "--grid", "k=2,8"]
    results, _ = bench(*QUICK, *arms)
    assert re.fullmatch(r"k=[28]: best of 2 on 4 held-out prompts", results.by_arm["look"]["tuned"])
    assert results.by_arm["look"]["arm_spec"] == f"hf:lookup {results.by_arm['look']['tuned'][:3]}"


def test_hugging_faces_arms_share_their_models(bench, monkeypatch):
    loaded = []
    monkeypatch.setattr(hf, "load_module", lambda pool, name: loaded.append(name) or LOAD(pool, name))
    bench(*QUICK, "--arm", "hf:generate", "--arm", "hf:lookup k={2,3}")
    assert loaded == ["stories-1m"]


def test_the_executor_is_the_plans(bench, monkeypatch):
    made, honest = [], Pool.__attrs_post_init__
    monkeypatch.setattr(
        Pool, "__attrs_post_init__", lambda self: made.append(self.executor) or honest(self)
    )
    results, _ = bench(*QUICK, *NGRAM, "--prompts", "1", "--executor", "module")
    assert set(made) == {"module"}
    assert 'executor = "module"' in results.runs[0]["plan"]


def test_the_environment_is_recorded(bench):
    results, _ = bench(*QUICK, *NGRAM)
    run = results.by_arm["drafter=ngram shaper=chain:k=2"]
    assert run["torch_isa"] == torch.backends.cpu.get_cpu_capability()
    assert run["target"] == "stories-1m"
    assert json.loads(run["models"])["stories-1m"].startswith("sha256:")
    assert json.loads(run["datasets"])["stories"].startswith("sha256:")
    assert json.loads(run["options"])["shaper"] == {"name": "chain", "k": 2}
    assert run["bandwidth_bytes_per_s"] > 1e8
    with safe_open(embedded.folder("drafter") / "model.safetensors", "pt") as file:
        sizes = [file.get_tensor(name).numel() for name in file.keys()]  # noqa: SIM118
    assert run["weight_bytes"] == 4 * sum(sizes)  # packed or not
    assert "stories-1m" in run["plan"]


def test_a_plan_file_and_options_over_it(toolkit, bench, tmp_path):
    assert toolkit("bench", "init", tmp_path / "b.toml").exit_code == 0
    plan = (tmp_path / "b.toml").read_text().partition("[[tune]]")[0]
    (tmp_path / "b.toml").write_text(plan)
    results, _ = bench("--plan", tmp_path / "b.toml", *QUICK, "--target", "stories-3m")
    assert {row["max_new_tokens"] for row in results.requests} == {8}
    assert results.runs[0]["target"] == "stories-3m"
    assert "adaptive" in results.by_arm


@pytest.mark.installed
def test_the_earlier_works_protocols_run_at_reduced_size(bench):
    small = ["--target", "stories-3m", "--dtype", "auto", "--dataset", "stories", "--prompts", "1",
             "--max-new-tokens", "6", "--warmup", "1"]  # fmt: skip
    results, _ = bench("--plan", "dynatree-main", *small)
    assert list(results.by_arm) == [
        "ar",
        "linear",
        "fixed",
        "DynaTree",
        "hf:generate",
        "hf:assisted",
    ]
    assert results.divergent == []


def test_the_list_names_plans_and_sets(toolkit):
    output = toolkit("bench", "list").output
    for name in ("dynatree-main", "wikitext2", "stories"):
        assert name in output


MANY = "{" + ",".join(map(str, range(1, 200))) + "}"

BAD = {
    "nothing": ([], "nothing to measure"),
    "unknown arm": (["--arm", "hf:generat"], "did you mean hf:generate"),
    "unknown drafter": (["--arm", "drafter=ngrm"], "ngram"),
    "unknown option": (["--arm", "drafter=ngram:m=3"], "no option 'm'"),
    "unknown set": ([*NGRAM, "--dataset", "stores"], "did you mean stories"),
    "missing file": ([*NGRAM, "--dataset", "/nowhere/x.jsonl"], "no file or folder /nowhere/x.jsonl"),
    "too many prompts": ([*NGRAM, "--prompts", "9999"], "only 64 usable prompts"),
    "too long": ([*NGRAM, "--max-new-tokens", "4000"], "2048"),
    "no numbers": ([*NGRAM, "--max-new-tokens", "x"], "whole numbers joined by commas"),
    "below one": ([*NGRAM, "--max-new-tokens", "0"], "each is at least 1"),
    "a count with a line": ([*NGRAM, "--prompts", "1_0"], "'1_0' is not a whole number"),
    "a count of another script": ([*NGRAM, "--warmup", "٣"], "not a whole number"),
    "a seed of many digits": ([*NGRAM, "--seed", "9" * 5000], "not a whole number"),
    "unknown plan": (["--plan", "dynatree"], "no plan called 'dynatree'"),
    "missing plan": (["--plan", "x.toml"], "no plan x.toml"),
    "unknown target": ([*NGRAM, "--target", "stories-9m"], "stories-1m"),
    "unknown device": ([*NGRAM, "--device", "tpu"], "tpu"),
    "grid alone": ([*NGRAM, "--grid", "k=1"], "go together"),
    "tune nobody": ([*NGRAM, "--tune", "x", "--grid", "k=1"], "cannot tune 'x'"),
    "tune nothing": (["--arm", "name=x ar", "--tune", "x", "--grid", "q=1"], "cannot tune 'q'"),
    "no grid": (["--arm", "name=x drafter=ngram", "--tune", "x", "--grid", "k"], "--grid takes"),
    "no assistant": (["--arm", "hf:assisted drafter=ngram"], "its drafter is the assistant"),
    "k of hf": (["--arm", "hf:assisted k=many"], "count of tokens"),
    "k of look-up": (["--arm", "hf:lookup k=²"], "count of tokens"),
    "a name that is empty": (["--arm", "name= drafter=ngram"], "empty name"),
    "too many arms": (["--arm", f"drafter=ngram:n={MANY},min={MANY} shaper=chain:k={MANY}"], "1000"),
    "a number with a line": ([*NGRAM, "--max-new-tokens", "1_0"], "whole numbers joined by commas"),
    "a number of another script": ([*NGRAM, "--prompt-tokens", "٣"], "whole numbers"),
    "a set without end": ([*NGRAM, "--dataset", "x" * 5000], "no data set called"),
    "grid of no number": (["--arm", "name=x drafter=ngram shaper=chain", "--tune", "x", "--grid",
                           "k=²"], "takes int"),
    "folder without end": ([*NGRAM, "--out", "x" * 5000], "File name too long"),
    "unwritable": ([*NGRAM, "--out", "/proc/nowhere/r"], "cannot be written"),
    "resume nothing": (["--resume", "--out", "/nowhere/r"], "no results folder"),
}  # fmt: skip


@pytest.mark.parametrize(("args", "word"), BAD.values(), ids=BAD)
def test_bad_input_is_one_clear_error(toolkit, tmp_path, monkeypatch, args, word):
    """At once, and before any model loads."""
    monkeypatch.setattr("toolkit.Pipeline.load", None)
    monkeypatch.chdir(tmp_path)
    out = [] if "--out" in args else ["--out", tmp_path / "r"]
    done = toolkit("bench", *args, *out)
    assert done.exit_code == 2, done.output
    assert word in " ".join(done.output.split())
    assert isinstance(done.exception, SystemExit)
    assert not (tmp_path / "r").exists()


def test_a_folder_that_is_there_is_not_written_into(toolkit, bench, tmp_path):
    bench(*QUICK, *NGRAM)
    done = toolkit("bench", *QUICK, *NGRAM, "--out", tmp_path / "r")
    assert done.exit_code == 2
    assert "--resume" in done.output


def test_init_writes_over_nothing(toolkit, tmp_path):
    for name, word in (("b.txt", ".toml"), ("no/b.toml", "no folder")):
        assert word in toolkit("bench", "init", tmp_path / name).output
    (tmp_path / "b.toml").touch()
    assert "there already" in toolkit("bench", "init", tmp_path / "b.toml").output


def test_init_says_in_one_line_what_cannot_be_written(toolkit):
    done = toolkit("bench", "init", "/proc/x.toml")
    assert done.exit_code == 2
    assert "/proc/x.toml cannot be written" in done.output
