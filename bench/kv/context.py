"""Memory and speed over context length: what a bounded cache buys, and drafting under one.

Every arm decodes the same prompts of growing length, in rotated order, and is compared with AR under
the full cache on the same prompt in the same round.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from toolkit import Choice, Generation, Pipeline, Pool, Registry, ToolkitError, column, run_record

from ..machine import describe_machine

BASELINE = "none"


@attrs.frozen(kw_only=True)
class Context:
    """One arm at one context length: medians over rounds."""

    machine: str = column("CPU, its threads, and the instruction sets in use")
    target: str = column("target as given")
    drafter: str = column("spec of the drafter; none is AR")
    kv: str = column("spec of the target's KV policy")
    prompt_tokens: int = column("context length: P")
    new_tokens: int = column("tokens decoded")
    rounds: int = column("how often, after one that is thrown away")
    tau: float | None = column("tokens committed per target forward")
    tokens_per_s: float = column("tokens after the first, per second of decoding")
    against_ar: float = column("tokens/s over that of AR under full, paired by round")
    ttft_ms: float = column("time to first token: the target's prefill")
    kv_bytes: int = column("bytes of the target's KV buffers at the end")
    kv_peak_bytes: int = column("bytes of them at most, the prompt included")
    draft_kv_bytes: int = column("bytes of the drafter's KV buffers at the end")


@attrs.frozen
class Arm:
    """A drafter and a KV policy of the target."""

    drafter: str
    kv: Choice[Any]

    def pipeline(self, target: str | None, pool: Pool, registry: Registry) -> Pipeline:
        """The arm on a target; what drafts, drafts a chain."""
        return Pipeline(
            target,
            drafter=self.drafter,
            shaper="chain",
            kv=self.kv,
            ignore_eos=True,  # every arm decodes as many tokens
            pool=pool,
            registry=registry,
        )


def arms(policies: Sequence[str], drafters: Sequence[str], registry: Registry) -> list[Arm]:
    """AR under `full`, AR under each policy, then each drafter under `full`."""
    for drafter in drafters:
        registry.resolve("drafter", drafter)  # a wrong one is refused before models are looked at
    full = registry.resolve("kv", "full")
    under = [Arm(BASELINE, registry.resolve("kv", policy)) for policy in policies]
    drafted = [Arm(drafter, full) for drafter in drafters]
    return [Arm(BASELINE, full), *(arm for arm in under if arm.kv != full), *drafted]


def measured(
    target: str | None,
    chosen: Sequence[Arm],
    contexts: Sequence[int],
    text: str,
    new_tokens: int,
    rounds: int,
    pool: Pool,
    registry: Registry,
) -> Iterator[Context]:
    """A row per context length and arm, the shortest context first."""
    pipelines = [arm.pipeline(target, pool, registry) for arm in chosen]
    ids = pipelines[0].ids(text)
    prompts = {length: (ids * -(-length // len(ids)))[:length] for length in sorted(contexts)}
    _fits(pipelines, max(contexts) + new_tokens)
    place = describe_machine(attrs.asdict(run_record(pipelines[0])))
    for length, prompt in prompts.items():
        results = _rounds(pipelines, prompt, new_tokens, rounds)
        for arm, pipeline, runs in zip(chosen, pipelines, results, strict=True):
            yield _row(place, arm, pipeline, length, new_tokens, runs, results[0])


def _fits(pipelines: Sequence[Pipeline], tokens: int) -> None:
    for pipeline in pipelines:
        if tokens > pipeline.positions:
            raise ToolkitError(
                f"{tokens} tokens do not fit into the {pipeline.positions} positions of target "
                f"{pipeline.target!r} under {pipeline.kv}: lower --contexts or --new-tokens"
            )


def _rounds(
    pipelines: Sequence[Pipeline], prompt: list[int], new_tokens: int, rounds: int
) -> list[list[Generation]]:
    """Each pipeline's runs; round 0 warms up, and the order turns by one per round."""
    results: list[list[Generation]] = [[] for _ in pipelines]
    order = list(range(len(pipelines)))
    for number in range(rounds + 1):
        for index in order:
            run = pipelines[index].generate(prompt, max_new_tokens=new_tokens, seed=number)
            if number:
                results[index].append(run)
        order = order[1:] + order[:1]
    return results


def _row(
    place: str,
    arm: Arm,
    pipeline: Pipeline,
    length: int,
    new_tokens: int,
    runs: list[Generation],
    baseline: list[Generation],
) -> Context:
    ratios = [_speed(ours) / _speed(ar) for ours, ar in zip(runs, baseline, strict=True)]
    return Context(
        machine=place,
        target=pipeline.target,
        drafter=str(pipeline.drafter),
        kv=str(arm.kv),
        prompt_tokens=length,
        new_tokens=new_tokens,
        rounds=len(runs),
        tau=runs[0].tau,
        tokens_per_s=statistics.median([_speed(run) for run in runs]),
        against_ar=statistics.median(ratios),
        ttft_ms=statistics.median([run.ttft_ms for run in runs]),
        kv_bytes=max(run.kv_bytes for run in runs),
        kv_peak_bytes=max(run.kv_peak_bytes for run in runs),
        draft_kv_bytes=max(run.draft_kv_bytes for run in runs),
    )


def _speed(run: Generation) -> float:
    return run.tokens_per_s or float("nan")
