"""The bench's columns beyond those of `toolkit run --out`, and the schemas of its four tables."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from toolkit import Node, Request, Run, Step, StepKey, column, schema

SCHEMA_VERSION = 2

Split = Literal["tune", "test", "drift"]


@frozen(kw_only=True)
class ArmColumns:
    """An arm's row in `runs`: what it is, and what holds for the whole bench."""

    schema_version: int = column("of the bench's tables; folders of two versions do not mix")
    config_digest: str = column("sha256 of plan, prompts, versions, models and machine")
    plan: str = column("the plan as TOML, options of the command line included")
    arm: str = column("name of the arm")
    arm_spec: str = column("the arm as words, as on the command line")
    engine: str = column("toolkit, hf:generate, hf:assisted or hf:lookup")
    baseline: str = column("name of the AR arm it is compared with: same target, same KV policy")
    lossless: bool = column("whether its tokens must be AR's; false: declared lossy, or it samples")
    tuned: str | None = column("how its options were chosen on held-out prompts; null: as given")
    options: str = column("JSON: every option of its strategies with its value, defaults included")
    models: str = column("JSON: hub commit or sha256 of every model")
    datasets: str = column("JSON: hub commit or sha256 of every data set")
    weight_bytes: int = column("bytes of the target's parameters")
    bandwidth_bytes_per_s: float = column(
        "memory bandwidth measured before the bench: the most that reading gave"
    )


@frozen(kw_only=True)
class SampleColumns:
    """A request's place in the bench, and figures that need more than the request itself."""

    arm: str = column("name of the arm")
    split: Split = column("tune: held out; test: the result; drift: the first arm again at the end")
    dataset: str = column("as given")
    prompt_index: int = column("row in the data set: what pairs the arms")
    turn: int = column("of a conversation, 0 first; earlier answers in the prompt are AR's")
    prompt_limit: int = column("tokens that a turn was cut to at most")
    max_new_tokens: int = column("T: tokens asked for")
    order: int = column("place of the arm in this round, 0 first")
    started: str = column("UTC, ISO 8601")
    wall_ms: float = column("from the call to the last token, setup included, detokenising not")
    load: float | None = column(
        "share of all cores' time that other processes used meanwhile; null: not known"
    )
    first_tokens: int = column(
        "tokens that the first target forward gave: 1, or more in hf:assisted"
    )
    path_length: float | None = column("drafted tokens accepted per target forward")
    distinct_3grams: float | None = column(
        "different runs of three output tokens over all of them: low is a loop"
    )
    reached_by_depth: list[int] | None = column("steps whose tree reached depth 1, 2, …")
    accepted_by_depth: list[int] | None = column("steps that accepted a token at depth 1, 2, …")


TABLES = {
    "runs": schema(Run, ArmColumns),
    "requests": schema(Request, SampleColumns),
    "steps": schema(StepKey, Step),
    "nodes": schema(Node),
}
