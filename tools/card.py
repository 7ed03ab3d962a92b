"""Measure the shipped models and write their card: `python tools/card.py --data FOLDER`.

It measures the models in the package on texts that the training script held out.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import attrs
import click
import corpus
import torch
from tokenizers import Tokenizer
from torch import Tensor
from train import BATCH_TOKENS, DRAFTER, LONG, MIDDLE, TARGET, Size
from transformers import AutoModelForCausalLM

from toolkit import Generation, Pipeline
from toolkit.embedded import folder

PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 100, 24, 96
SAMPLES, SEED = 10, 2026
SPANS = ((0, 128), (128, 256), (256, 512), (512, 768), (768, 1023))
NAMES = {"target": "stories-11m", "middle": "stories-3m", "drafter": "stories-1m"}


@attrs.frozen
class Decoded:
    """What was decoded with one drafter, all prompts together."""

    generations: list[Generation]

    @property
    def tau(self) -> float:
        """Tokens committed per target forward."""
        steps = [step for g in self.generations for step in g.steps]
        return sum(step.committed for step in steps) / len(steps)

    @property
    def distinct(self) -> list[float]:
        """Share of different 3-grams in each output."""
        return [distinct_3_grams(g.token_ids) for g in self.generations]


def distinct_3_grams(ids: list[int]) -> float:
    """The share of different 3-grams among all; 1 if there are none."""
    grams = [tuple(ids[i : i + 3]) for i in range(len(ids) - 2)]
    return len(set(grams)) / len(grams) if grams else 1.0


@torch.no_grad()
def loss_by_position(name: str, row: Tensor, count: int = 24) -> Tensor:
    """Mean loss in nats at each position of windows of `LONG` held-out ids: [LONG − 1]."""
    model = AutoModelForCausalLM.from_pretrained(folder(name), dtype=torch.float32).eval()
    rng = torch.Generator().manual_seed(SEED)
    ids = corpus.windows(row, count, LONG, rng)
    rows = [
        torch.nn.functional.cross_entropy(
            model(input_ids=window[None], use_cache=False).logits[0, :-1],
            window[1:],
            reduction="none",
        )
        for window in ids
    ]
    return torch.stack(rows).mean(0)


def decode(drafter: str, prompts: list[list[int]]) -> Decoded:
    """Decode every prompt with `chain:k=5`."""
    pipeline = Pipeline("stories-11m", drafter=drafter, shaper="chain:k=5")
    return Decoded([pipeline.generate(ids, max_new_tokens=NEW_TOKENS) for ids in prompts])


def sizes_table(losses: dict[str, tuple[float, float]], work: Path) -> list[str]:
    """One row per model: shape, training, held-out losses."""
    lines = [
        "| alias | layers × width (heads) | parameters | steps | tokens seen | minutes "
        "| held-out stories | held-out books |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for size in (TARGET, MIDDLE, DRAFTER):
        lines.append(_size_row(size, *losses[size.name], work))
    return lines


def _size_row(size: Size, stories: float, books: float, work: Path) -> str:
    model = AutoModelForCausalLM.from_pretrained(folder(size.name))
    state = torch.load(work / f"{size.name}.pt", weights_only=True)
    return (
        f"| {NAMES[size.name]} | {size.layers} × {size.width} ({size.heads}) "
        f"| {model.num_parameters() / 1e6:.1f} M | {state['step']:,} "
        f"| {state['step'] * BATCH_TOKENS / 1e6:.1f} M | {state['seconds'] / 60:.0f} "
        f"| {stories:.2f} | {books:.2f} |"
    )


def samples(generations: list[Generation], tokenizer: Tokenizer) -> list[str]:
    """Ten outputs, drawn with a fixed seed."""
    order = torch.randperm(len(generations), generator=torch.Generator().manual_seed(SEED))
    lines = []
    for index in order[:SAMPLES].tolist():
        one = generations[index]
        prompt = tokenizer.decode(one.prompt_ids, skip_special_tokens=True)
        text = f"**{prompt.strip()}**{one.text}".replace("\n", " ")
        lines += [f"> {text.rstrip()}", ""]
    return lines


def _mean(losses: Tensor) -> float:
    return float(losses.mean())


@click.command()
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="The folder of .txt files that the models were trained on.",
)
@click.option(
    "--work",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("train-work"),
    show_default=True,
    help="The training's checkpoints.",
)
def main(data: Path, work: Path) -> None:
    """Measure the models in the package on held-out texts and write CARD.md beside them."""
    texts = corpus.read(data)
    tokenizer = Tokenizer.from_file(str(folder("target") / "tokenizer.json"))
    rows = {
        "stories": torch.tensor(_ids(tokenizer, texts.held_stories)),
        "books": torch.tensor(_ids(tokenizer, texts.held_books)),
    }
    by_position = {
        name: {kind: loss_by_position(name, row) for kind, row in rows.items()} for name in NAMES
    }
    prompts = [tokenizer.encode(text).ids[:PROMPT_TOKENS] for text in texts.held_stories[:PROMPTS]]
    decoded = {name: decode(name, prompts) for name in ("stories-1m", "stories-3m")}
    losses = {n: (_mean(v["stories"]), _mean(v["books"])) for n, v in by_position.items()}
    distinct = decoded["stories-1m"].distinct
    lines = [
        *sizes_table(losses, work),
        "",
        "Losses are nats per token over windows of 1,024 held-out tokens. Loss of the target by",
        "position on held-out books: "
        + ", ".join(f"{a}–{b}: {by_position['target']['books'][a:b].mean():.2f}" for a, b in SPANS)
        + ".",
        "",
        f"On {len(prompts)} held-out story beginnings of {PROMPT_TOKENS} tokens, up to {NEW_TOKENS} "
        "greedy tokens each:",
        "",
        *(f"- τ of `chain:k=5` drafted by {name}: {one.tau:.2f}" for name, one in decoded.items()),
        f"- different 3-grams of the target's output: median {statistics.median(distinct):.2f}, "
        f"lowest {min(distinct):.2f}, below 0.5 in {sum(d < 0.5 for d in distinct)}",
        "",
        f"## Ten samples, chosen by seed {SEED}",
        "",
        *samples(decoded["stories-1m"].generations, tokenizer),
    ]
    write(lines)


def write(measured: list[str]) -> None:
    """Replace the measured part of the card."""
    card = folder("CARD.md")
    fixed = card.read_text(encoding="utf-8").split(MARK)[0]
    card.write_text(fixed + MARK + "\n\n" + "\n".join(measured), encoding="utf-8")
    click.echo("\n".join(measured))


MARK = "## Measured"


def _ids(tokenizer: Tokenizer, texts: list[str]) -> list[int]:
    return [i for text in texts for i in tokenizer.encode(text).ids]


if __name__ == "__main__":
    main()
