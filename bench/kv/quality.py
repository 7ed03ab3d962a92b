"""What a KV policy costs in quality: perplexity and agreement on held-out text, teacher-forced."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import click

from toolkit import Choice, Pipeline, Pool, Registry, ToolkitError, options_of, teacher_force

from ..columns import Quality


def list_policies(
    specs: Sequence[str], budgets: Sequence[int], registry: Registry
) -> list[Choice[Any]]:
    """`full`, then every policy at every budget; one that names its budget or has none, once."""
    found = [registry.resolve("kv", "full")]
    for given in (registry.resolve("kv", spec) for spec in specs):
        open_budget = _has_budget(given) and "budget" not in dict(given.options)
        values = [(("budget", budget),) for budget in budgets] if open_budget else [()]
        choices = [Choice(given.cls, (*given.options, *value)) for value in values]
        found += [registry.resolve("kv", choice) for choice in choices]
    return list(dict.fromkeys(found))


def make_pipelines(
    target: str | None, specs: Sequence[str], budgets: list[int], pool: Pool, registry: Registry
) -> list[Pipeline]:
    """AR under every listed policy; without specs, under all that the target supports."""

    def make(kv: Choice[Any]) -> Pipeline:
        return Pipeline(target, drafter="none", shaper="chain", kv=kv, pool=pool, registry=registry)

    found = {kv: make(kv) for kv in list_policies(specs, budgets, registry)}
    for name, budget in [] if specs else product(registry.names("kv"), budgets):
        try:
            found |= {kv: make(kv) for kv in list_policies([name], [budget], registry)}
        except ToolkitError as error:
            click.echo(f"left out: {error}", err=True)
    return list(found.values())


def measure(
    pipelines: Sequence[Pipeline], excerpts: list[list[int]], name: str, prompt: int, decoded: int
) -> Iterator[Quality]:
    """A row per pipeline; agreement is with the first one."""
    import torch

    reference = None
    for pipeline in pipelines:
        runs = [teacher_force(pipeline, ids, prompt) for ids in excerpts]
        logits = torch.cat([run.logits for run in runs])
        wanted = torch.tensor([ids[prompt:] for ids in excerpts], device=logits.device).flatten()
        first = logits.argmax(-1)
        reference = first if reference is None else reference
        ar = pipeline.generate(excerpts[0][:prompt], max_new_tokens=decoded)
        yield Quality(
            target=pipeline.target,
            text=name,
            kv=str(pipeline.kv),
            budget=pipeline.kv["budget"] if _has_budget(pipeline.kv) else None,
            prompt_tokens=prompt,
            scored_tokens=len(wanted),
            perplexity=math.exp(float(torch.nn.functional.cross_entropy(logits.float(), wanted))),
            accuracy=float((first == wanted).float().mean()),
            agreement=float((first == reference).float().mean()),
            tokens_per_s=ar.tokens_per_s or math.nan,
            kv_bytes=max(run.kv_bytes for run in runs),
            kv_peak_bytes=max(run.kv_peak_bytes for run in runs),
        )


def _has_budget(kv: Choice[Any]) -> bool:
    return any(option.name == "budget" for option in options_of(kv.cls))


def drop_budget(spec: str) -> str:
    """A spec without its budget."""
    name, _, options = spec.partition(":")
    rest = [word for word in options.split(",") if word and not word.startswith("budget=")]
    return ":".join([name, *filter(None, [",".join(rest)])])


def draw(rows: Sequence[Quality], path: Path) -> None:
    """Save perplexity, agreement and memory over the budget, a line per policy."""
    from toolkit.theme import LIGHT

    values = {row.kv: (row.perplexity, row.agreement, row.kv_bytes / 2**20) for row in rows}
    lines: dict[str, dict[int, Sequence[float]]] = {}
    for row in sorted(rows, key=lambda row: row.kv):
        if row.budget is not None:
            lines.setdefault(drop_budget(row.kv), {})[row.budget] = values[row.kv]
    panels = ("perplexity", "agreement with full", "KV held, MiB")
    figure = LIGHT.draw_lines(panels, "budget, positions", lines, levels=values["full"])
    LIGHT.add_note(figure, f"{rows[0].target}, {rows[0].scored_tokens} tokens of {rows[0].text}")
    figure.savefig(path, dpi=160)
