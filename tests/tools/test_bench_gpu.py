"""The GPU bench: a stage that hangs or fails costs the others nothing."""

import os
import re

import bench_gpu
import pyarrow.parquet as pq
import pytest
from attrs import asdict
from click.testing import CliRunner
from gpu_results import Results, Row, read_rows, write_results

QUICK = os.environ.get("TOOLKIT_PROFILE", "quick") == "quick"


@pytest.fixture
def results(tmp_path):
    return Results("machine", tmp_path, rehearse=True)


def test_a_stage_that_is_stopped_keeps_its_rows(results, tmp_path):
    results.add("copy", "bandwidth", 12.5, "GB/s", "read | written")
    bench_gpu.run_stage("machine", tmp_path, True, limit=0.01)
    rows = pq.read_table(tmp_path / "gpu.parquet").to_pylist()
    assert [row["measure"] for row in rows] == ["bandwidth", "failed", "stage took"]
    assert rows[0] == asdict(
        Row("machine", "copy", "", "bandwidth", 12.5, "GB/s", "read | written")
    )
    assert rows[1]["note"] == "cut after 0 s: what it had not measured is missing"
    text = (tmp_path / "gpu.md").read_text()
    assert "| copy |  | bandwidth | 12.5 GB/s | read ¦ written |" in text
    assert "- machine, machine: failed: cut after 0 s" in text


def test_a_stage_that_is_cut_has_a_moment_to_keep_what_it_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_gpu, "__file__", str(tmp_path / "stage.py"))
    kept = tmp_path / "kept"
    (tmp_path / "stage.py").write_text(
        f"import pathlib, signal, time\n"
        f"signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"pathlib.Path({str(kept)!r}).touch()\n"
        f"try:\n    time.sleep(60)\nfinally:\n    pathlib.Path({str(kept)!r}).write_text('it')"
    )
    bench_gpu.run_stage("machine", tmp_path, True, limit=5)
    assert kept.read_text() == "it"


def test_what_fails_within_a_stage_is_a_row(results, tmp_path):
    with results.surviving("a kernel"):
        raise RuntimeError("no such kernel")
    [row] = read_rows(tmp_path, bench_gpu.LIMITS)
    assert row["note"] == "RuntimeError: no such kernel"


@pytest.mark.parametrize("rehearsed", [True, False])
def test_a_rehearsal_says_so(results, tmp_path, rehearsed):
    """Whichever stages it ran."""
    results.add("AR", "speed", 12.5)
    write_results(tmp_path, bench_gpu.LIMITS, rehearsed=rehearsed)
    assert ("Rehearsed on a CPU" in (tmp_path / "gpu.md").read_text()) == rehearsed


def test_a_note_is_one_line(results, tmp_path):
    """An error of CUDA's has several, and a row of a table one."""
    results.add("it", "failed", None, note="CUDA error\nCompile with TORCH_USE_CUDA_DSA\n")
    [row] = read_rows(tmp_path, bench_gpu.LIMITS)
    assert row["note"] == "CUDA error Compile with TORCH_USE_CUDA_DSA"


def test_a_stage_that_ends_with_an_error_says_which(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_gpu, "__file__", str(tmp_path / "stage.py"))
    (tmp_path / "stage.py").write_text("raise RuntimeError('no such GPU')")
    bench_gpu.run_stage("machine", tmp_path, True, limit=60)
    note = read_rows(tmp_path, ["machine"])[0]["note"]
    assert note == "exit status 1: RuntimeError: no such GPU (see log.txt)"


def test_a_stage_without_time_left_counts_as_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_gpu, "DEADLINE", 0)
    monkeypatch.setattr(bench_gpu.shutil, "which", lambda name: name)
    done = CliRunner().invoke(bench_gpu.main, ["profile", "--out", str(tmp_path)])
    assert done.exit_code == 1
    assert "- profile, profile: failed: not run: no time was left" in (tmp_path / "gpu.md").read_text()


def test_a_rehearsal_does_not_overwrite_what_was_measured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench_gpu, "run_stage", lambda *_: None)
    assert CliRunner().invoke(bench_gpu.main, ["--rehearse"]).exit_code == 0
    assert [*(tmp_path / "results").iterdir()] == [tmp_path / "results/gpu-rehearsed"]


@pytest.mark.parametrize("stages", [["machine", "llama"] if QUICK else [*bench_gpu.LIMITS]])
def test_a_rehearsal_runs_to_its_end(tmp_path, stages):
    """Its few files have names that any machine takes."""
    done = CliRunner().invoke(bench_gpu.main, [*stages, "--rehearse", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output + (tmp_path / "log.txt").read_text()
    measured = {row["stage"] for row in read_rows(tmp_path, stages) if row["measure"] != "stage took"}
    assert measured == set(stages)
    files = [file.name for file in tmp_path.iterdir()]
    assert len(files) <= 8
    assert [name for name in files if not re.fullmatch(r"[A-Za-z0-9._-]+", name)] == []


def test_a_rehearsal_has_no_limits_of_a_gpu(tmp_path, monkeypatch):
    limits = []
    monkeypatch.setattr(bench_gpu, "run_stage", lambda *given: limits.append(given[-1]))
    CliRunner().invoke(bench_gpu.main, ["--rehearse", "--out", str(tmp_path)])
    assert len(limits) == len(bench_gpu.LIMITS)
    assert min(limits) > 590


def test_rows_of_other_stages_stay(results, tmp_path, monkeypatch):
    results.add("old", "time", 1.0)
    Results("exact", tmp_path, rehearse=True).add("x", "τ", 1.0)
    monkeypatch.setattr(bench_gpu, "run_stage", lambda *_: None)
    done = CliRunner().invoke(bench_gpu.main, ["machine", "--rehearse", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert [row["subject"] for row in read_rows(tmp_path, bench_gpu.LIMITS)] == ["x"]


def test_the_limits_fit_into_seven_minutes():
    assert bench_gpu.DEADLINE < 420


def test_without_a_gpu_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_gpu.shutil, "which", lambda name: None)
    done = CliRunner().invoke(bench_gpu.main, ["--out", str(tmp_path / "new")])
    assert done.exit_code == 1
    assert "--rehearse tries the bench on the CPU" in done.output
    assert not (tmp_path / "new").exists()
