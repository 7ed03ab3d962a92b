"""The panel at the end of `toolkit run`."""

from __future__ import annotations

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from toolkit.generation import Difference, Generation, Verification
from toolkit.pipeline import Pipeline

COLOURS = {"exact": "green", "tie": "yellow", "inconclusive": "yellow", "divergent": "red"}


def show(generation: Generation, pipeline: Pipeline, sent: str | None) -> None:
    """Print the request's figures, its specs, and the verdict where there is one.

    `sent`: how the prompt was sent to the model, where there is a choice.
    """
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in _rows(generation, pipeline, sent):
        table.add_row(name, value if isinstance(value, Text) else Text(value))  # [ is no markup
    count = len(generation.token_ids)
    reason = generation.stop_reason
    end = reason if reason == "interrupted" else f"stopped by {reason}"
    title = f"{count} token{'s' * (count != 1)}, {end}"
    Console(highlight=False).print(Panel(table, title=title, title_align="left", expand=False))


def _rows(
    generation: Generation, pipeline: Pipeline, sent: str | None
) -> list[tuple[str, str | Text]]:
    m, specs = generation.metrics, generation.specs
    shares = [
        f"{name} {_number(m[f'{name}_share'], 100)} %" for name in ("draft", "verify", "commit")
    ]
    rows: list[tuple[str, str | Text]] = [
        ("speed", f"{_number(generation.tokens_per_s)} tokens/s, TTFT {generation.ttft_ms:.1f} ms"),
        ("τ", f"{_number(generation.tau, places=2)} tokens per target forward"),
        ("time", ", ".join(shares)),
        ("forwards", f"{m['target_forwards']} of the target, {m['target_forwards_saved']} saved"),
        (
            "KV",
            f"target {_bytes(generation.kv_bytes)} (peak {_bytes(generation.kv_peak_bytes)}), "
            f"drafter {_bytes(generation.draft_kv_bytes)}",
        ),
        ("target", _target(specs["target"], pipeline.pool.origin(specs["target"]))),
        (
            "specs",
            " ".join(f"--{k.replace('_', '-')} {v}" for k, v in specs.items() if k != "target"),
        ),
    ]
    if sent:
        rows.append(("prompt", f"{len(generation.prompt_ids)} tokens, {sent}"))
    if generation.verification:
        rows.append(("against AR", _verdict(generation, generation.verification, pipeline)))
    return rows


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
