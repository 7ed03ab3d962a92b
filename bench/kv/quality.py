"""Measure what evicting does to a model's predictions, on text that it did not write.

Eviction changes the target's function, so an exact decoder under a policy is exact to another text.
How far that function is from the model's own is measured here, teacher-forced on held-out text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from toolkit import Choice, Pipeline, Pool, Registry, ToolkitError, column, forced, options_of

if TYPE_CHECKING:
    from torch import Tensor

FULL = "full"


@attrs.frozen(kw_only=True)
class Quality:
    """One policy on one target: means over excerpts of a text."""

    target: str = column("target as given")
    text: str = column("file name, or built-in")
    kv: str = column("spec of the KV policy")
    budget: int | None = column("its budget option; null: it has none")
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


@attrs.frozen
class Plan:
    """What to measure: excerpts of `prompt` + `tokens` tokens, and AR over `decoded` tokens."""

    target: str | None
    text: str
    name: str
    prompt: int
    tokens: int
    samples: int
    decoded: int

    def excerpts(self, pipeline: Pipeline) -> list[list[int]]:
        """Token ids of each excerpt. Raises `ToolkitError` when the text is too short for one."""
        ids, size = pipeline.ids(self.text), self.prompt + self.tokens
        if size > pipeline.positions:
            raise ToolkitError(
                f"an excerpt of {size} tokens does not fit into the {pipeline.positions} positions of "
                f"target {pipeline.target!r}: lower --prompt-tokens or --tokens"
            )
        if len(ids) < size:
            raise ToolkitError(
                f"text {self.name} has {len(ids)} tokens, but an excerpt takes {size} "
                f"({self.prompt} of prompt, {self.tokens} scored): give a longer one or lower them"
            )
        starts = range(0, len(ids) // size * size, size)
        return [ids[start : start + size] for start in starts][: self.samples]


def specs(policies: Sequence[str], budgets: Sequence[int], registry: Registry) -> list[Choice[Any]]:
    """`full`, then every policy at every budget; one that names its budget is taken as it is.

    Raises `SpecError` for what is no policy.
    """
    chosen = [registry.resolve("kv", FULL)]
    for policy in policies:
        given = registry.resolve("kv", policy)
        known = {field.name for field in options_of(given.cls)}
        if "budget" not in known or "budget" in dict(given.options):
            chosen.append(given)
        else:
            chosen += [_with_budget(given, budget, registry) for budget in budgets]
    return list(dict.fromkeys(chosen))


def _with_budget(choice: Choice[Any], budget: int, registry: Registry) -> Choice[Any]:
    options = (*choice.options, ("budget", budget))
    return registry.resolve("kv", Choice(choice.cls, options))


def measured(
    plan: Plan, policies: Sequence[Choice[Any]], pool: Pool, registry: Registry
) -> Iterator[Quality]:
    """One row per policy, `full` first: it is what the others are compared with."""
    pipelines = [
        Pipeline(plan.target, drafter="none", shaper="chain", kv=kv, pool=pool, registry=registry)
        for kv in policies
    ]
    excerpts = plan.excerpts(pipelines[0])
    reference: list[Tensor] = []
    for pipeline, kv in zip(pipelines, policies, strict=True):
        runs = [forced(pipeline, ids, plan.prompt) for ids in excerpts]
        choices = [run.logits.argmax(-1) for run in runs]
        reference = reference or choices
        yield _row(plan, pipeline, kv, excerpts, runs, choices, reference)


def _row(
    plan: Plan,
    pipeline: Pipeline,
    kv: Choice[Any],
    excerpts: list[list[int]],
    runs: list[Any],
    choices: list[Tensor],
    reference: list[Tensor],
) -> Quality:
    import torch

    wanted = torch.tensor(
        [ids[plan.prompt :] for ids in excerpts], device=choices[0].device
    ).flatten()
    logits, first = torch.cat([run.logits for run in runs]), torch.cat(choices)
    nll = torch.nn.functional.cross_entropy(logits.float(), wanted)
    decoded = pipeline.generate(excerpts[0][: plan.prompt], max_new_tokens=plan.decoded)
    return Quality(
        target=pipeline.target,
        text=plan.name,
        kv=str(kv),
        budget=_budget(kv),
        prompt_tokens=plan.prompt,
        scored_tokens=len(wanted),
        perplexity=math.exp(float(nll)),
        accuracy=float((first == wanted).float().mean()),
        agreement=float((first == torch.cat(reference)).float().mean()),
        tokens_per_s=decoded.tokens_per_s or math.nan,
        kv_bytes=max(run.kv_bytes for run in runs),
        kv_peak_bytes=max(run.kv_peak_bytes for run in runs),
    )


def _budget(kv: Choice[Any]) -> int | None:
    known = {field.name for field in options_of(kv.cls)}
    return kv["budget"] if "budget" in known else None


def line_of(spec: str) -> str:
    """A spec without its budget."""
    name, _, options = spec.partition(":")
    rest = ",".join(part for part in options.split(",") if part and not part.startswith("budget="))
    return f"{name}:{rest}" if rest else name
