"""The columns that the bench adds to those of `toolkit run --out`, and the schemas of its tables."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from attrs import frozen

from toolkit import Node, Request, Run, Step, StepKey, column, schema

SCHEMA_VERSION = 8

Split = Literal["tune", "test", "drift"]


@frozen(kw_only=True)
class ArmColumns:
    """An arm's row in `runs`: the arm, and what holds for the whole bench."""

    schema_version: int = column("version of the bench's tables; one folder holds one version")
    config_digest: str = column("sha256 of plan, prompts, versions, models and machine")
    plan: str = column("the plan as TOML, with the options of the command line")
    arm: str = column("name of the arm")
    arm_spec: str = column("the arm as words, as on the command line")
    engine: str = column("toolkit, hf:generate, hf:assisted or hf:lookup")
    baseline: str = column(
        "name of the AR arm that it is compared with: same target, same KV policy"
    )
    lossless: bool = column(
        "whether its tokens must be AR's or have their law; false: the arm or its verifier is declared "
        "lossy"
    )
    synthetic: bool = column(
        "whether its drafter is no real one, but right at a chosen rate, for measuring costs"
    )
    tuned: str | None = column("how its options were chosen on held-out prompts; null: as given")
    options: str = column("JSON: every option of its strategies with its value, defaults included")
    models: str = column("JSON: hub commit or sha256 of every model")
    datasets: str = column("JSON: hub commit or sha256 of every data set")
    weight_bytes: int = column("bytes of the target's parameters")
    bandwidth_bytes_per_s: float = column(
        "memory bandwidth, measured before the bench: the fastest of several reads"
    )


@frozen(kw_only=True)
class SampleColumns:
    """A request's key, and the figures that need more than the request itself."""

    arm: str = column("name of the arm")
    split: Split = column("tune: held out; test: the result; drift: the first arm again at the end")
    dataset: str = column("as given")
    prompt_index: int = column("row in the data set; arms are paired by it")
    turn: int = column("turn of the conversation, from 0; earlier answers in the prompt are AR's")
    prompt_limit: int = column("tokens that a turn is cut to")
    max_new_tokens: int = column("T, tokens to decode")
    round: int = column("every prompt is decoded in each round, from 0")
    place: int = column("position of the arm among those on this prompt, from 0")
    started: datetime = column("when the request began, UTC")
    wall_ms: float = column("from the call to the last token, setup included, without detokenising")
    load: float | None = column(
        "share of all cores' time that other processes used during the request; null: unknown"
    )
    against_ar: float | None = column(
        "tokens_per_s over AR's, same prompt, round and KV policy; null: not compared"
    )
    places: list[float] | None = column(
        "where each token lies in the target's law, from 0, the likeliest, to 1; null: verdict is not "
        "sampled"
    )
    first_tokens: int = column("tokens of the first target forward: 1, or more with hf:assisted")
    path_length: float | None = column("drafted tokens accepted per target forward")
    distinct_3grams: float | None = column(
        "share of distinct runs of three output tokens; low: a loop"
    )
    reached_by_depth: list[int] | None = column("steps whose tree reached depth 1, 2, …")
    accepted_by_depth: list[int] | None = column("steps that accepted a token at depth 1, 2, …")


TABLES = {
    "runs": schema(Run, ArmColumns),
    "requests": schema(Request, SampleColumns),
    "steps": schema(StepKey, Step),
    "nodes": schema(StepKey, Node),
}


@frozen(kw_only=True)
class Quality:
    """A row of `toolkit kv-quality`: one policy on one target, means over excerpts of a text."""

    target: str = column("target as given")
    text: str = column("file name, or built-in")
    kv: str = column("spec of the KV policy")
    budget: int | None = column("the policy's option budget; null: it has none")
    prompt_tokens: int = column("tokens of each excerpt that are prompt")
    scored_tokens: int = column("tokens predicted, all excerpts")
    perplexity: float = column("exp of the mean negative log-likelihood")
    accuracy: float = column("share of tokens that are the target's first choice")
    agreement: float = column("share of first choices that are those under full")
    tokens_per_s: float = column(
        "AR decoding from the first excerpt's prompt, after the first token"
    )
    kv_bytes: int = column("KV held after the longest excerpt")
    kv_peak_bytes: int = column("KV held at most, the prompt included")


@frozen(kw_only=True)
class Context:
    """A row of `toolkit kv-context`: one arm at one context length, over all rounds."""

    machine: str = column("CPU, its threads, and the instruction sets in use")
    target: str = column("target as given")
    drafter: str = column("spec of the drafter; none is AR")
    kv: str = column("spec of the target's KV policy")
    prompt_tokens: int = column("context length: P")
    new_tokens: int = column("tokens decoded")
    rounds: int = column("rounds measured, after one that is discarded")
    tau: float | None = column("tokens committed per target forward")
    tokens_per_s: float = column("tokens after the first, per second of decoding")
    against_ar: float = column("tokens/s over that of AR under full, paired by round")
    against_ar_low: float | None = column(
        "lower end of its 95 % bootstrap interval; null: fewer than 5 rounds"
    )
    against_ar_high: float | None = column("upper end of the interval")
    ttft_ms: float = column("time to first token: the target's prefill")
    kv_bytes: int = column("bytes of the target's KV buffers at the end")
    kv_peak_bytes: int = column("peak of kv_bytes, the prompt included")
    draft_kv_bytes: int = column("bytes of the drafter's KV buffers at the end")
