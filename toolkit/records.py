"""Results as data: four tables, one row each for run, request, step and node, written as Parquet."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import attrs
import pyarrow as pa
import pyarrow.parquet as pq
from attrs import frozen

from toolkit.columns import column, schema
from toolkit.cpu_load import load_average
from toolkit.engine import Step
from toolkit.errors import ToolkitError
from toolkit.files import open_atomically
from toolkit.generation import Generation, Outcome, StopReason
from toolkit.nodes import Node, list_nodes

if TYPE_CHECKING:
    from toolkit.pipeline import Pipeline


@frozen(kw_only=True)
class Run:
    """The environment and the choices that a run's requests share."""

    run_id: str = column("random id, in every table")
    created: datetime = column("when the run began, UTC")
    toolkit_version: str = column("version of speculative-toolkit")
    toolkit_revision: str | None = column(
        "git revision of the toolkit's own checkout; null: installed without one"
    )
    python: str = column("version")
    torch: str = column("version")
    transformers: str = column("version")
    platform: str = column("operating system and machine")
    device: str = column("cpu, or the GPU's name")
    cpu: str = column("the CPU's model")
    threads: int = column("CPU threads of torch")
    load_average: float | None = column(
        "load average per CPU over the minute before the run; null: unknown"
    )
    cuda: str | None = column("PyTorch's CUDA version; null: on CPU")
    gpu_driver: str | None = column("version of NVIDIA's driver; null: on CPU, or unknown")
    isa: str | None = column("instruction set of our kernels; null: not in use")
    torch_isa: str = column("instruction set of PyTorch's kernels on the CPU")
    executors: str = column("JSON: by the name of every model, its executor and why, and its linears")
    dtype: str = column("of the target's weights")
    numerics: str = column(
        "equality with AR: bitwise (same bits), fp32 (same tokens) or tie (same up to rounding)"
    )
    target: str = column("target as given")
    target_revision: str | None = column(
        "hub commit, or sha256 over the folder's configs, tokenizer and weights"
    )
    drafter: str = column("spec")
    shaper: str = column("spec")
    verifier: str = column("spec")
    kv: str = column("spec of the target's KV policy")
    draft_kv: str = column("spec of the drafter's KV policy")
    temperature: float = column("sampling temperature; 0: greedy decoding")
    top_k: int = column("sampling: draw among the k likeliest tokens; 0: all")
    top_p: float = column(
        "sampling: draw among the likeliest tokens that have this probability together"
    )
    min_p: float = column("sampling: draw among tokens with this share of the highest probability")
    logits_processors: str = column(
        "options of the logits processors that the target's generation config names, as "
        "repetition_penalty=1.1; empty: none"
    )
    max_nodes_per_level: int | None = column("most nodes verified per depth; null: no limit")
    max_nodes: int | None = column("most nodes verified per tree, root included; null: no limit")
    max_seconds: float | None = column("seconds after which a request ends; null: no limit")


@frozen(kw_only=True)
class Request:
    """One prompt decoded. Times are wall-clock."""

    run_id: str = column("of the run")
    request_id: int = column("number within the run")
    prompt_id: str = column("sha256 of the prompt's token ids, 16 hex digits")
    prompt_tokens: int = column("P")
    seed: int = column("of sampling")
    token_ids: list[int] = column("emitted tokens, the stop id included")
    text: str = column("emitted text")
    stop_reason: StopReason = column(
        "eos, stop (a stop string), length (max_new_tokens), positions (of the model), time "
        "(max_seconds), interrupted"
    )
    steps: int = column("target forwards, prefill excluded")
    steps_run: str | None = column(
        "how steps ran, as one graph each or pass by pass, and why; where capturing failed, also why; "
        "null: another library's"
    )
    tau: float | None = column("tokens committed per target forward")
    ttft_ms: float = column("time to first token: the target's prefill")
    decode_ms: float = column(
        "time from the first token to the last, the drafter's prefill included"
    )
    tokens_per_s: float | None = column("tokens after the first, per second of decoding")
    tokens_per_s_end_to_end: float | None = column(
        "all tokens, per second of ttft_ms and decode_ms together"
    )
    tpot_ms: float | None = column("decode_ms per token after the first")
    drafted: int | None = column("drafted nodes sent to verification, all steps")
    accepted: int = column("drafted tokens accepted, all steps")
    acceptance: float | None = column("accepted, over the sum of the trees' depths; at most 1")
    nodes_mean: float | None = column("mean tree size N, root included")
    draft_share: float | None = column("share of decode_ms in the drafter")
    verify_share: float | None = column(
        "share of decode_ms in the target's forward and the verifier"
    )
    commit_share: float | None = column("share of decode_ms in shaping and commit")
    kv_bytes: int | None = column("bytes of the target's KV buffers at the end")
    kv_peak_bytes: int | None = column(
        "peak of kv_bytes, including the prompt layer that is being scored"
    )
    draft_kv_bytes: int | None = column("bytes of the drafter's KV buffers at the end")
    peak_memory_bytes: int | None = column(
        "peak of the request on CUDA, added up over its GPUs; of the process so far on CPU; null: "
        "unknown"
    )
    graphs_captured: int | None = column(
        "CUDA graphs of passes and of whole steps captured during the request, whose times include it; "
        "null: another library's"
    )
    verdict: Outcome | None = column(
        "exact, tie, divergent, inconclusive; sampled: drawn by other random numbers than AR's, as a "
        "bench may; null: not compared"
    )
    ties: int | None = column("numerical ties with AR; null: not compared")


@frozen(kw_only=True)
class StepKey:
    """The first columns of a row of `steps` or `nodes`. The fields of `Step` or `Node` follow."""

    run_id: str = column("of the run")
    request_id: int = column("of the request")
    step: int = column("number within the request")


TABLES = {
    "runs": schema(Run),
    "requests": schema(Request),
    "steps": schema(StepKey, Step),
    "nodes": schema(StepKey, Node),
}


def run_record(pipeline: Pipeline) -> Run:
    """The row of a run: environment, versions and choices of a pipeline. Loads its target."""
    import torch

    from toolkit.runtime.kernels import native, structs
    from toolkit.runtime.machine.cpu import cpu_model, gpu_driver
    from toolkit.runtime.numerics import find_level

    model = pipeline.pool.load(pipeline.target)
    cuda = model.device.type == "cuda"
    kernels = None if cuda or model.dtype not in structs.DTYPES else native.library()
    return Run(
        run_id=uuid.uuid4().hex[:16],
        created=utc_now(),
        toolkit_version=version("speculative-toolkit"),
        toolkit_revision=_toolkit_revision(),
        python=platform.python_version(),
        torch=torch.__version__,
        transformers=version("transformers"),
        platform=platform.platform(),
        device=torch.cuda.get_device_name(model.device) if cuda else "cpu",
        cpu=cpu_model(),
        threads=torch.get_num_threads(),
        load_average=load_average(),
        cuda=torch.version.cuda if cuda else None,
        gpu_driver=gpu_driver() if cuda else None,
        isa=kernels.isa if kernels else None,
        torch_isa=torch.backends.cpu.get_cpu_capability(),
        executors=json.dumps(_executors(pipeline)),
        dtype=str(model.dtype).removeprefix("torch."),
        numerics=find_level(model).name,
        target_revision=pipeline.pool.revision(pipeline.target),
        **attrs.asdict(pipeline.sampling),
        logits_processors=pipeline.defaults.processing,
        **attrs.asdict(pipeline.limits),
        **cast("dict[str, Any]", pipeline.specs),
    )


def request_record(run: Run, request_id: int, generation: Generation) -> Request:
    """The row of a request."""
    metrics: dict[str, Any] = dict(generation.metrics)
    columns = {f.name for f in attrs.fields(Request)}
    return Request(
        run_id=run.run_id,
        request_id=request_id,
        prompt_id=hash_prompt(generation.prompt_ids),
        prompt_tokens=len(generation.prompt_ids),
        seed=generation.seed,
        token_ids=generation.token_ids,
        text=generation.text,
        stop_reason=generation.stop_reason,
        steps=len(generation.steps),
        steps_run=generation.steps_run,
        tau=generation.tau,
        ttft_ms=generation.ttft_ms,
        tokens_per_s=generation.tokens_per_s,
        verdict=generation.verdict,
        ties=generation.verification.ties if generation.verification else None,
        **{name: value for name, value in metrics.items() if name in columns},
    )


def hash_prompt(ids: Sequence[int]) -> str:
    """The column `prompt_id`: sha256 of a prompt's token ids, 16 hex digits."""
    return hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()[:16]


def step_rows(run: Run, request_id: int, generation: Generation) -> Iterator[dict[str, Any]]:
    """The rows of a request's steps."""
    for number, step in enumerate(generation.steps):
        yield {"run_id": run.run_id, "request_id": request_id, "step": number, **attrs.asdict(step)}


def node_rows(run: Run, request_id: int, generation: Generation) -> Iterator[dict[str, Any]]:
    """The rows of a request's nodes. There are none when it was decoded without `record_nodes`."""
    for number, event in enumerate(e for e in generation.events if e.step is not None):
        if event.tree is not None and event.verdict is not None and event.scores is not None:
            key = {"run_id": run.run_id, "request_id": request_id, "step": number}
            for node in list_nodes(event.tree, event.verdict, event.scores, generation.piece):
                yield {**key, **attrs.asdict(node)}


@frozen
class Out:
    """Where results go: a new folder with a sub-folder per table, or one .parquet file."""

    path: Path

    @classmethod
    def at(cls, path: Path) -> Out:
        """The place for new results at a path. Raises `ToolkitError` when they cannot be written."""
        if not path.absolute().parent.is_dir():
            raise ToolkitError(f"no folder {path.parent} for --out {path}: make it first")
        if path.is_dir():
            raise ToolkitError(
                f"--out {path} is an existing folder: name a new folder, or a file "
                f"ending in .parquet"
            )
        if path.exists() and path.suffix != ".parquet":
            raise ToolkitError(
                f"--out {path} is an existing file: name a new folder, or a file ending in .parquet"
            )
        try:
            with tempfile.TemporaryFile(dir=path.absolute().parent):
                pass
        except OSError as error:
            raise ToolkitError(
                f"--out {path} cannot be written in {path.parent} ({error.strerror}): name another"
            ) from error
        return cls(path)

    def write(self, run: Run, generations: list[Generation]) -> None:
        """Write the tables of a run; `nodes` only where they were recorded."""
        numbered = list(enumerate(generations))
        requests = [attrs.asdict(request_record(run, i, g)) for i, g in numbered]
        if self.path.suffix == ".parquet":
            rows = [{**row, **attrs.asdict(run)} for row in requests]
            write_part(self.path, rows, schema(Request, Run))
            return
        tables = {
            "runs": [attrs.asdict(run)],
            "requests": requests,
            "steps": [row for i, g in numbered for row in step_rows(run, i, g)],
            "nodes": [row for i, g in numbered for row in node_rows(run, i, g)],
        }
        for name, records in tables.items():
            if records or name != "nodes":  # without nodes recorded there is no such table
                folder = self.path / name
                folder.mkdir(parents=True)
                write_part(folder / "part-00000.parquet", records, TABLES[name])


def write_part(path: Path, rows: list[dict[str, Any]], as_schema: pa.Schema) -> None:
    """Write one Parquet file atomically: it is whole or not there. Raises `OSError`."""
    table = pa.Table.from_pylist(rows, as_schema)
    with open_atomically(path) as file:
        pq.write_table(table, file)


def utc_now() -> datetime:
    """The time in UTC, to the millisecond, without a time zone: DuckDB needs pytz to read one."""
    now = datetime.now(UTC).replace(tzinfo=None)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def _executors(pipeline: Pipeline) -> dict[str, str]:
    """What runs each model of a pipeline, by its name."""
    found = {name: pipeline.pool.load(name).executor for name in pipeline.models}
    return {
        name: f"{executor.name}, because {executor.why}; linears: {executor.linears}"
        for name, executor in found.items()
    }


def _toolkit_revision() -> str | None:
    """The git revision of the checkout that this file is tracked in; None where it is in none."""
    here = Path(__file__)

    def git(*words: str) -> str:
        done = subprocess.run(  # noqa: S603 no input of others
            ["git", *words],  # noqa: S607 the user's git
            cwd=here.parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)
        return git("describe", "--always", "--dirty", "--abbrev=12")
    except (OSError, subprocess.SubprocessError):
        return None
