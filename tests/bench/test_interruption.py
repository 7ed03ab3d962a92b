"""Killed, stopped and resumed: at most the request in flight is lost, and configurations do not mix."""

import re
import signal
import time

import pytest
from toolkit.bench.results import Results
from toolkit.bench.store import Store

ARGS = [
    "--target", "stories-1m", "--arm", "drafter=ngram", "--prompts", "12", "--max-new-tokens", "40",
    "--warmup", "1", "--rounds", "1",
]  # fmt: skip
WHOLE = 2 * 12 + 5


def wait_for(folder, count, process):
    """Until so many requests are there."""
    for _ in range(12_000):  # a busy machine takes its time
        parts = list((folder / "requests").glob("*.parquet")) if folder.exists() else []
        if len(parts) >= count:
            return
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)
    raise TimeoutError


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_what_was_finished_is_kept_and_resumed(process, toolkit, tmp_path, how):
    out = tmp_path / "r"
    running = process("bench", *ARGS, "--out", out)
    wait_for(out, 4, running)
    running.send_signal(how)
    output, _ = running.communicate(timeout=240)
    assert running.returncode == (-9 if how == signal.SIGKILL else 130)
    if how == signal.SIGINT:
        assert f"toolkit bench --resume --out {out}" in " ".join(output.split())
    before = Store.open(out).rows("requests")
    assert 4 <= len(before) < WHOLE
    assert [row["request_id"] for row in before] == list(range(len(before)))

    done = toolkit("bench", "--resume", "--out", out)  # the plan is the folder's own
    assert done.exit_code == 0, done.output
    after = Store.open(out).rows("requests")
    assert [row["request_id"] for row in after] == list(range(WHOLE))
    assert [row["started"] for row in after][: len(before)] == [row["started"] for row in before]
    assert all(row["verdict"] == "exact" for row in after if row["arm"] != "ar")


def test_a_finished_bench_resumes_to_itself(toolkit, tmp_path):
    args = [*ARGS, "--prompts", "1", "--out", tmp_path / "r"]
    assert toolkit("bench", *args).exit_code == 0
    before = Store.open(tmp_path / "r").rows("requests")
    assert toolkit("bench", *args, "--resume").exit_code == 0
    assert Store.open(tmp_path / "r").rows("requests") == before


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        (["--max-new-tokens", "41"], "41"),
        (["--seed", "1"], "seed = 1"),
        (["--arm", "drafter=ngram shaper=chain"], "shaper=chain"),
        (["--target", "stories-3m"], "stories-3m"),
    ],
)
def test_a_changed_plan_refuses_to_mix(toolkit, tmp_path, monkeypatch, changes, word):
    """Before any model loads."""
    args = [*ARGS, "--prompts", "1", "--max-new-tokens", "3", "--out", tmp_path / "r"]
    assert toolkit("bench", *args).exit_code == 0
    before = Store.open(tmp_path / "r").rows("requests")
    monkeypatch.setattr("toolkit.Pipeline.load", None)
    words = args if "--arm" in changes else ["--out", tmp_path / "r"]  # else the folder's own plan
    done = toolkit("bench", *words, *changes, "--resume")
    assert done.exit_code == 2
    assert "another configuration" in done.output
    assert word in done.output
    assert Store.open(tmp_path / "r").rows("requests") == before


def test_another_machine_refuses_to_mix(toolkit, tmp_path, monkeypatch):
    args = [*ARGS, "--prompts", "1", "--max-new-tokens", "3", "--out", tmp_path / "r"]
    assert toolkit("bench", *args).exit_code == 0
    monkeypatch.setattr("torch.get_num_threads", lambda: 99)
    done = toolkit("bench", *args, "--resume")
    assert done.exit_code == 2
    assert "threads was 1 and is 99" in done.output


def test_other_prompts_under_the_same_name_refuse_to_mix(toolkit, tmp_path):
    (tmp_path / "p.txt").write_text("Once upon a time\n")
    args = [*ARGS, "--prompts", "1", "--max-new-tokens", "3", "--dataset", tmp_path / "p.txt"]
    args += ["--out", tmp_path / "r"]
    assert toolkit("bench", *args).exit_code == 0
    (tmp_path / "p.txt").write_text("The old man\n")
    done = toolkit("bench", *args, "--resume")
    assert done.exit_code == 2
    assert "data sets of the same names have changed" in " ".join(done.output.split())


def test_a_missing_verdict_is_made_good(toolkit, tmp_path, monkeypatch):
    """Killed between a request and its comparison, the comparison is made on resuming."""
    args = ["--target", "stories-3m", "--arm", "drafter=model shaper=chain", "--prompts", "1"]
    args += ["--max-new-tokens", "6", "--out", tmp_path / "r"]
    with monkeypatch.context() as patch:
        patch.setattr(Store, "compact", lambda self: None)
        assert toolkit("bench", *args).exit_code == 0
    store = Store.open(tmp_path / "r")
    row = next(r for r in store.rows("requests") if r["verdict"] == "exact")
    store.write("requests", row["request_id"], [row | {"verdict": None}])
    assert toolkit("bench", *args, "--resume").exit_code == 0
    assert row in Store.open(tmp_path / "r").rows("requests")


def test_a_folder_that_a_bench_writes_to_is_refused_to_others(process, toolkit, tmp_path, monkeypatch):
    """By name, at once, and the bench that has it goes on undisturbed."""
    out = tmp_path / "r"
    running = process("bench", *ARGS, "--out", out)
    wait_for(out, 2, running)
    running.send_signal(signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setattr("toolkit.Pipeline.load", None)
        for words in ([*ARGS], ["--resume"], [*ARGS, "--resume"]):
            done = toolkit("bench", *words, "--out", out)
            assert done.exit_code == 2, done.output
            assert f"process {running.pid} " in done.output
            assert str(out) in done.output
    running.send_signal(signal.SIGCONT)
    output, _ = running.communicate(timeout=240)
    assert running.returncode == 0, output
    assert [row["request_id"] for row in Store.open(out).rows("requests")] == list(range(WHOLE))


@pytest.mark.parametrize("resumed", [False, True])
def test_of_two_that_start_at_once_one_is_refused(process, toolkit, tmp_path, resumed):
    out, words = tmp_path / "r", [*ARGS]
    if resumed:
        first = process("bench", *ARGS, "--out", out)
        wait_for(out, 2, first)
        first.kill()
        first.communicate()
        words.append("--resume")
    both = [process("bench", *words, "--out", out) for _ in range(2)]
    said = [running.communicate(timeout=240)[0] for running in both]
    assert sorted(running.returncode for running in both) == [0, 2], said
    refused = said[0] if both[0].returncode else said[1]
    assert re.search(rf"is writing to {out}|{out} is there already", refused)
    assert [row["request_id"] for row in Store.open(out).rows("requests")] == list(range(WHOLE))


def test_a_bench_can_be_read_while_it_runs(process, tmp_path):
    out = tmp_path / "r"
    running = process("bench", *ARGS, "--out", out)
    wait_for(out, 3, running)
    running.send_signal(signal.SIGSTOP)
    before = sorted(out.rglob("*"))
    assert len(Results.read(out).requests) >= 3
    assert sorted(out.rglob("*")) == before
    running.kill()
    running.communicate()


def test_a_plan_that_was_damaged_is_one_clear_error(toolkit, tmp_path):
    args = [*ARGS, "--prompts", "1", "--max-new-tokens", "3", "--out", tmp_path / "r"]
    assert toolkit("bench", *args).exit_code == 0
    store = Store.open(tmp_path / "r")
    for plan, word in (("arms = [", "is not TOML"), ("arms = 1", "cannot be used"), ("", "no arms")):
        store.write("runs", 0, [row | {"plan": plan} for row in store.rows("runs")])
        for file in store._files("runs")[:-1]:
            file.unlink()
        done = toolkit("bench", "--resume", "--out", tmp_path / "r")
        assert done.exit_code == 2
        assert f"the plan in {tmp_path / 'r'}" in done.output
        assert word in done.output


def test_another_instruction_set_refuses_to_mix(toolkit, tmp_path, monkeypatch):
    args = [*ARGS, "--prompts", "1", "--max-new-tokens", "3", "--out", tmp_path / "r"]
    assert toolkit("bench", *args).exit_code == 0
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "ANCIENT")
    done = toolkit("bench", *args, "--resume")
    assert done.exit_code == 2
    assert "and is ANCIENT" in done.output
