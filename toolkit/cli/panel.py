"""The panel at the end of `toolkit run`."""

from __future__ import annotations

from collections import Counter

from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from toolkit.choice import models_of
from toolkit.generation import Difference, Generation, Verification, compute_rates
from toolkit.limits import Limits
from toolkit.pipeline import Pipeline
from toolkit.stats import Acceptance, StepCost
from toolkit.terminal import make_console
from toolkit.words import shorten

BAR = 20  # characters of the longest bar
COLOURS = {"exact": "green", "tie": "yellow", "inconclusive": "yellow", "divergent": "red"}


Row = tuple[str, str | Text]


def show(
    generations: list[Generation], pipeline: Pipeline, sent: str | None, explaining: bool
) -> None:
    """Print the figures of one request or of several together, the specs, and the comparison with AR.

    `sent`: how prompts were sent to the model, where there is a choice. `explaining`: with what was
    accepted at which position, and what drafting costs.
    """
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    first, several = generations[0], len(generations) > 1
    rows = _sums(generations, sent) if several else _figures(first, sent)
    rows += _on_gpu(generations, pipeline)
    rows += _stats(generations) if explaining else []
    rows += _choices(first, pipeline)
    if pipeline.verifier.cls.exactness == "lossy":
        rows.append(("output", Text("lossy: it does not follow the target's law", "bold yellow")))
    if pipeline.drafter.is_synthetic:
        said = "no real one: its drafts are right at a chosen rate, for measuring costs"
        rows.append(("drafter", Text(said, "bold yellow")))
    compared = _verdicts(generations) if several else _comparison(first, pipeline)
    if compared:
        rows.append(("against AR", compared))
    if reason := _break_even(generations, pipeline.drafter.is_synthetic):
        rows.append(("break-even", reason))
    for name, value in rows:
        table.add_row(name, value if isinstance(value, Text) else Text(value))  # [ is not markup
    title = _title(generations)
    make_console().print(Panel(table, title=title, title_align="left", expand=False))


def _title(generations: list[Generation]) -> str:
    count = sum(len(generation.token_ids) for generation in generations)
    reason = generations[-1].stop_reason
    prompts = f"{len(generations)} prompts, " * (len(generations) > 1)
    end = f"stopped by {reason}" if not prompts and reason != "interrupted" else ""
    end = "interrupted" if reason == "interrupted" else end
    return f"{prompts}{count} token{'s' * (count != 1)}" + f", {end}" * bool(end)


def _sums(generations: list[Generation], sent: str | None) -> list[Row]:
    """The figures of several requests together."""
    tokens = sum(len(generation.token_ids) for generation in generations)
    steps = sum(len(generation.steps) for generation in generations)
    ttft = sum(generation.ttft_ms for generation in generations)
    decode = sum(generation.decode_ms for generation in generations)
    rates = compute_rates(tokens, len(generations), steps, ttft, decode)
    mean = ttft / len(generations)
    rows: list[Row] = [
        ("speed", f"{_number(rates['tokens_per_s'])} tokens/s, mean TTFT {mean:.1f} ms"),
        ("τ", f"{_number(rates['tau'], places=2)} tokens per target forward"),
        ("forwards", f"{steps} of the target, {tokens - len(generations) - steps} saved"),
    ]
    if sent:
        rows.append(("prompts", sent))
    return rows


def _stats(generations: list[Generation]) -> list[Row]:
    """Acceptance by position, and the cost of drafting."""
    steps = [step for generation in generations for step in generation.steps]
    found, cost = Acceptance.of(steps), StepCost.of(steps)
    if cost is None:
        return [("drafts", "none: nothing was drafted")]
    shares = [f"{n}: {100 * p:.0f} %" for n, p in enumerate(found.by_position, 1)]
    longest = max(found.lengths)
    bars = [
        f"{n:>2} {'█' * round(BAR * count / longest):<{BAR}} {count}"
        for n, count in enumerate(found.lengths)
    ]
    rows: list[Row] = [
        (
            "drafts",
            f"{found.drafts} of {found.drafted} tokens, mean acceptance length "
            f"{_number(found.mean_length, places=2)}, acceptance rate {_number(found.rate, 100)} %",
        ),
        ("by position", ", ".join(shares)),
        ("accepted lengths", "\n".join(bars)),
    ]
    if cost.level is not None:
        level = f"{cost.level:.2f} ms, {cost.level / cost.verify:.2f} × a pass of the target"
        rows.append(("draft level", f"{level} ({cost.verify:.2f} ms)"))
    return rows


def _break_even(generations: list[Generation], synthetic: bool) -> str | None:
    """Why speculation pays, or does not; None where AR's speed is not known or nothing was drafted."""
    cost = StepCost.of([step for generation in generations for step in generation.steps])
    tokens, seconds = 0, 0.0
    for generation in generations:
        speed = generation.verification.ar_tokens_per_s if generation.verification else None
        if speed:
            tokens += len(generation.token_ids)
            seconds += len(generation.token_ids) / speed
    return cost.explain(tokens / seconds, synthetic) if cost and seconds else None


def _verdicts(generations: list[Generation]) -> Text | None:
    """How often each verdict was given; None where nothing was compared."""
    counts = Counter(str(generation.verdict) for generation in generations if generation.verdict)
    parts = [Text(f"{counts[name]} {name}", COLOURS[name]) for name in COLOURS if name in counts]
    return Text(", ").join(parts) if parts else None


def _figures(generation: Generation, sent: str | None) -> list[Row]:
    """The figures of one request."""
    m = generation.metrics
    shares = [
        f"{name} {_number(m[f'{name}_share'], 100)} %" for name in ("draft", "verify", "commit")
    ]
    rows: list[Row] = [
        ("speed", f"{_number(generation.tokens_per_s)} tokens/s, TTFT {generation.ttft_ms:.1f} ms"),
        ("τ", f"{_number(generation.tau, places=2)} tokens per target forward"),
        ("time", ", ".join(shares)),
        ("forwards", f"{m['target_forwards']} of the target, {m['target_forwards_saved']} saved"),
        (
            "KV",
            f"target {_bytes(generation.kv_bytes)} (peak {_bytes(generation.kv_peak_bytes)}), "
            f"drafter {_bytes(generation.draft_kv_bytes)}",
        ),
    ]
    if sent:
        rows.append(("prompt", f"{len(generation.prompt_ids)} tokens, {sent}"))
    if not generation.sampling.greedy:
        rows.append(("sampling", f"{generation.sampling}, seed={generation.seed}"))
    return rows


def _on_gpu(generations: list[Generation], pipeline: Pipeline) -> list[Row]:
    """Which steps ran as graphs, what was captured, and memory; nothing on a CPU. Of several requests,
    only why capturing failed."""
    rows: list[Row] = []
    runs = [generation.steps_run for generation in generations]
    told = ("capturing failed", "graph each") if len(runs) == 1 else ("capturing failed",)
    if run := next((run for run in runs if any(part in run for part in told)), None):
        note = " (a graph's time counts as verify)" if "graph each" in run else ""
        rows.append(("steps", run + note))
    if captured := sum(generation.graphs_captured for generation in generations):
        rows.append(("graphs", f"{captured} captured, which the times include"))
    if pipeline.pool.load(pipeline.target).device.type == "cuda":
        peak = max(generation.peak_memory_bytes or 0 for generation in generations)
        rows.append(("memory", f"peak {peak / 2**30:.2f} GiB"))
    return rows


def _choices(generation: Generation, pipeline: Pipeline) -> list[Row]:
    """The target and the strategies."""
    specs = generation.specs
    others = [f"--{k.replace('_', '-')} {v}" for k, v in specs.items() if k != "target"]
    own = shorten(pipeline.defaults.describe(pipeline.sampling))
    return [
        ("target", _target(specs["target"], pipeline.pool.origin(specs["target"]))),
        *([("generation config", own)] if own else []),
        ("specs", " ".join(others)),
        *[("tokenizer", said) for said in _translations(pipeline)],
        *([("limits", str(pipeline.limits))] if pipeline.limits != Limits() else []),
    ]


def _translations(pipeline: Pipeline) -> list[str]:
    """How each drafter with another tokenizer than the target's drafts."""
    found = {
        name: pipeline.pool.translation(pipeline.target, name)
        for name in models_of(pipeline.drafter)
    }
    return [
        f"{name} has another one and drafts by text"
        if translation.shared is None
        else f"{name} has another one and drafts the {len(translation.shared[0]):,} tokens of both"
        for name, translation in found.items()
        if translation is not None
    ]


def _comparison(generation: Generation, pipeline: Pipeline) -> Text | None:
    """The comparison with AR; None where nothing was compared."""
    found = generation.verification
    return _verdict(generation, found, pipeline) if found else None


def _target(name: str, place: str) -> str:
    return name if name == place else f"{name} ({place})"


def _verdict(generation: Generation, found: Verification, pipeline: Pipeline) -> Text:
    text = Text(found.verdict, style=f"bold {COLOURS[found.verdict]}")
    count = len(generation.token_ids)
    text.append(
        {
            "exact": f": all {count} tokens equal, at numerics level {generation.numerics}",
            "inconclusive": ": nothing was drafted, so nothing was tested",
            "tie": f": {found.ties} numerical tie{'s' * (found.ties != 1)}, else equal",
            "divergent": "",
        }[found.verdict],
        style="default",
    )
    if found.first:
        text.append("\n" + _difference(found.first, pipeline), style="default")
    if found.ar_tokens_per_s:
        text.append(f"\nAR took {found.ar_tokens_per_s:.1f} tokens/s", style="dim")
    return text


def _difference(first: Difference, pipeline: Pipeline) -> str:
    return (
        f"first difference at token {first.index}: ours {_token(first.our_token, pipeline)}, "
        f"AR {_token(first.ar_token, pipeline)}; the target's margin there is {first.margin:.3g} "
        f"(a tie is at most {first.allowed:.3g})"
    )


def _token(index: int, pipeline: Pipeline) -> str:
    tokenizer = pipeline.pool.load(pipeline.target).tokenizer
    if index < 0:
        return "the end"
    return f"{tokenizer.decode([index])!r} ({index})" if tokenizer else str(index)


def _number(value: float | None, scale: float = 1, places: int | None = None) -> str:
    if value is None:
        return "–"
    return f"{value * scale:.{places if places is not None else 0 if scale == 100 else 1}f}"


def _bytes(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"
