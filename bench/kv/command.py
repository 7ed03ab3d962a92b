"""`toolkit kv-quality` and `toolkit kv-context`."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from toolkit import Dataset
from toolkit.cli import options

from ..command import count, counts, leave, run_plan

MEMORY = {
    "KV MiB": lambda row: f"{row.kv_bytes / 2**20:.2f}",
    "peak": lambda row: f"{row.kv_peak_bytes / 2**20:.2f}",
}
STORY = Path(__file__).with_name("text.txt")
TEXT = click.option("--text", type=options.FILE, help="UTF-8 text; by default a story that ships.")


@click.command("kv-quality")
@options.target()
@options.kv("policies", multiple=True, default=(), help="Policy; repeatable (all that fit).")
@counts("--budgets", default="64,128,256", help="Budgets of policies that name none.")
@TEXT
@options.prompt_tokens("prompt", type=options.Whole(min=1), default=256, metavar="N")
@count("--tokens", default=512, help="Tokens scored per excerpt.")
@count("--samples", default=1, help="Excerpts of the text, from its beginning.")
@count("--decode", "decoded", least=2, default=64, help="Tokens decoded by AR for tokens/s.")
@options.models()
@options.out(help="New folder for kv_quality.parquet and kv_quality.png.")
@options.plugin()
def kv_quality(
    target: str | None, policies: tuple[str, ...], budgets: list[int], text: Path | None,
    prompt: int, tokens: int, samples: int, decoded: int, out: Path | None,
    plugins: tuple[Path, ...], **models: str,
) -> None:  # fmt: skip
    """Measure what eviction costs: perplexity, agreement with the full cache, memory, tokens/s.

    Eviction makes the target another function. Decoding is exact to that function; this measures how
    far it is from the model's own. One row per policy and budget.
    """
    from rich.progress import track

    from toolkit.terminal import make_console

    from ..dataset_loading import read_text
    from ..prompts import cut_excerpts
    from ..store import require_new_folder, save_rows
    from ..table import print_rows
    from .quality import draw, drop_budget, make_pipelines, measure

    require_new_folder(out)
    registry, pool = options.load_registry(plugins), options.make_pool(**models)
    pipelines = make_pipelines(target, policies, budgets, pool, registry)
    name = text.name if text else "the built-in story"
    excerpts = cut_excerpts(pipelines[0], read_text(text or STORY), name, prompt, tokens, samples)
    found, rows = measure(pipelines, excerpts, name, prompt, decoded), []
    console = make_console(stderr=True)
    for row in track(found, "measuring", len(pipelines), console=console, transient=True):
        rows.append(row)
        save_rows(rows, out, "kv_quality")
    cells = {
        "policy": lambda row: drop_budget(row.kv),
        "budget": lambda row: str(row.budget or "–"),
        "perplexity": lambda row: f"{row.perplexity:.2f}",
        "agreement": lambda row: f"{100 * row.agreement:.1f} %",
        **MEMORY,
        "tokens/s": lambda row: f"{row.tokens_per_s:.1f}",
    }
    print_rows(
        rows, cells,
        f"{rows[0].target}, {name}: {rows[0].scored_tokens} tokens scored after prompts of {prompt}; "
        f"agreement is with full. tokens/s is one AR run, not a comparison.",
    )  # fmt: skip
    if out is not None:
        draw(rows, out / "kv_quality.png")
        click.echo(f"written to {out}")


@click.command("kv-context")
@options.target()
@options.kv("policies", multiple=True, default=("streaming", "h2o"), help="Of AR; repeatable.")
@options.drafter("drafters", multiple=True, default=("self:kv=[streaming:budget=128]",),
                 help="Drafter of an arm under the full cache; repeatable.")  # fmt: skip
@counts("--contexts", default="256,512,1024,1792", help="Prompt lengths; the text is repeated.")
@count("--new-tokens", least=2, default=64, help="Tokens to decode.")
@count("--rounds", default=3, help="Requests per arm and length.")
@TEXT
@options.models()
@options.out(help="New folder for kv_context.parquet, kv_context.png and the bench's tables.")
@options.plugin()
def kv_context(
    policies: tuple[str, ...], drafters: tuple[str, ...], contexts: list[int], new_tokens: int,
    rounds: int, text: Path | None, out: Path | None, plugins: tuple[Path, ...], **rest: Any,
) -> None:  # fmt: skip
    """Measure memory and tokens/s over context length.

    The arms are AR under KV policies, and drafters under the full cache. This is a bench: every arm
    decodes the same prompts in one process, in rotated order, and is paired with AR under full.
    """
    from ..dataset_loading import read_text, repeat_text
    from ..statistics import Ratio
    from ..store import require_new_folder, save_rows
    from ..table import list_closing_notes, list_findings, print_rows
    from .context import make_plan, summarize

    require_new_folder(out)
    sizes = {"max_new_tokens": [new_tokens], "prompts": rounds, "rounds": 1}
    plan = make_plan(policies, drafters, contexts, **sizes, **rest)
    registry = options.load_registry(plugins)
    source = repeat_text(read_text(text or STORY), max(contexts), rounds)
    registry.datasets["text"] = Dataset("text", "a text, repeated", lambda _: source)
    with TemporaryDirectory() as folder:
        results, interrupted = run_plan(plan, registry, out or Path(folder, "results"))
    cells = {
        "context": lambda row: str(row.prompt_tokens),
        "drafter": lambda row: row.drafter,
        "kv": lambda row: row.kv,
        "tokens/s": lambda row: f"{row.tokens_per_s:.1f}",
        "× AR": lambda row: Ratio(row.against_ar, row.against_ar_low, row.against_ar_high, 0).text,
        **MEMORY,
    }
    note = "tokens/s are geometric means; × AR is against AR under full on the same prompts."
    if results is not None and (rows := list(summarize(results))):
        print_rows(rows, cells, f"T = {new_tokens}, rounds: {rounds}; {note}")
        click.echo("\n".join([*list_closing_notes(results), *list_findings(results)]))
        if out is not None:
            from toolkit.theme import LIGHT

            from ..plots.contexts import draw_contexts

            save_rows(rows, out, "kv_context")
            figure = draw_contexts(results, LIGHT)
            LIGHT.add_note(figure, f"{rows[0].target}, T = {new_tokens}, {rows[0].machine}")
            figure.savefig(out / "kv_context.png", dpi=160)
            click.echo(f"written to {out}")
    leave(results, interrupted)
