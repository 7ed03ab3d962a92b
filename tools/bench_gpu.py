"""Measure a GPU in seven minutes, without a network: `make bench-gpu`.

    python tools/bench_gpu.py [--rehearse] [--out FOLDER] [STAGE …]

Each stage is a process of its own with a time limit; those that decide the goals come first. Its rows
are kept as they come, in `rows.jsonl`, and after each stage `gpu.parquet` and `gpu.md` are written
anew, so that a stage that fails costs the others nothing. `gpu.md` begins with the goals, and with what
failed, was cut, or fell back to something slower. `log.txt` has what stages wrote to stderr, and
`profiles.txt` what the profiler saw. `--rehearse` runs all stages on the CPU with small models.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from time import perf_counter

import click
from gpu_goals import describe_fallen, find_goals
from gpu_results import Results, keep_rows, read_rows, write_results

LIMITS = {  # seconds of each stage; all of them share DEADLINE
    "machine": 25,
    "speed": 220,  # kernels are compiled in it
    "compiled": 70,
    "profile": 50,
    "exact": 95,
    "kernels": 75,
    "llama": 45,
}
DEADLINE = 415
REHEARSED = 600  # seconds that a rehearsal and each of its stages may take
GRACE = 5  # seconds in which a stage that is cut keeps what it has measured
LOG = "log.txt"


def run_stage(stage: str, folder: Path, rehearse: bool, limit: float) -> None:
    """Run a stage in a process group of its own, and end the group at its limit."""
    click.echo(f"\n== {stage} (at most {limit:.0f} s)")
    words = [sys.executable, __file__, "--stage", stage, "--out", str(folder)]
    words += ["--rehearse"] if rehearse else []
    began, failure = perf_counter(), ""
    with (folder / LOG).open("a") as log:
        log.write(f"== {stage}\n")
        log.flush()
        said_before = log.tell()
        process = subprocess.Popen(words, stderr=log, start_new_session=True)  # noqa: S603 our own
        try:
            if process.wait(limit):
                said = (folder / LOG).read_bytes()[said_before:].decode(errors="replace")
                last = said.splitlines()[-1][:200] if said else ""
                failure = f"exit status {process.returncode}: {last} (see {LOG})"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGINT)  # it keeps what it has measured
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
            failure = f"cut after {limit:.0f} s: what it had not measured is missing"
        except KeyboardInterrupt:
            failure = "interrupted"
            raise
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            ended = Results(stage, folder, rehearse)
            if failure:
                ended.add(stage, "failed", None, note=failure)
            ended.add(stage, "stage took", perf_counter() - began, "s")
            write_results(folder, LIMITS, rehearsed=rehearse)


@click.command()
@click.argument("stages", nargs=-1, type=click.Choice(list(LIMITS)))
@click.option(
    "--out", type=click.Path(path_type=Path), help="a folder: results/gpu, or gpu-rehearsed beside it"
)
@click.option("--rehearse", is_flag=True, help="on the CPU, with small models")
@click.option("--stage", type=click.Choice(list(LIMITS)), hidden=True)
def main(stages: tuple[str, ...], out: Path | None, rehearse: bool, stage: str | None) -> None:
    """Measure this machine's GPU, stage by stage. All STAGES by default."""
    out = out or Path("results/gpu-rehearsed" if rehearse else "results/gpu")
    if stage is not None:
        import gpu_stages

        signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background ignore it
        getattr(gpu_stages, f"run_{stage}")(Results(stage, out, rehearse))
        return
    if not rehearse and shutil.which("nvidia-smi") is None:
        raise click.ClickException("no NVIDIA GPU is here: --rehearse tries the bench on the CPU")
    out.mkdir(parents=True, exist_ok=True)
    keep_rows(out, [name for name in LIMITS if stages and name not in stages])
    (out / LOG).unlink(missing_ok=True)
    began = perf_counter()
    for name in stages or LIMITS:
        left = (REHEARSED if rehearse else DEADLINE) - (perf_counter() - began)
        if left < 5:
            Results(name, out, rehearse).add(name, "failed", None, note="not run: no time was left")
            write_results(out, LIMITS, rehearsed=rehearse)
            continue
        run_stage(name, out, rehearse, left if rehearse else min(LIMITS[name], left))
    click.echo(f"\n{out / 'gpu.md'} and {out / 'gpu.parquet'}: {perf_counter() - began:.0f} s")
    rows = read_rows(out, LIMITS)
    click.echo("\n".join(goal.line for goal in find_goals(rows)))
    if fallen := describe_fallen(rows):
        click.secho("\n".join(["", "FAILED OR FELL BACK:", *fallen]), fg="red", bold=True)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
