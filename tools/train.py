"""Train the shipped family: `python tools/train.py --data FOLDER`.

Three GPT-NeoX models share one tokenizer. The target learns text. The middle model and the drafter
learn the target's distribution (Hinton et al. 2015), on text and on the target's own greedy
continuations, half of each, because a drafter drafts such continuations. Muon (Jordan et al. 2024)
trains the matrices inside the layers, and AdamW trains the rest. To continue a run that was stopped,
give the same command again: it starts from the last checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import attrs
import click
import corpus
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from toolkit.embedded import folder

BATCH_TOKENS = 4096
SHORT, LONG = 256, 1024
LONG_SHARE = 0.15  # of the steps, the last ones, on LONG windows
STORY_SHARE = 0.85
CHECKPOINT_EVERY = 200


@attrs.frozen
class Size:
    """One model of the family: its shape, and its number of training steps of `BATCH_TOKENS`."""

    name: str
    layers: int
    width: int
    heads: int
    steps: int


TARGET = Size("target", layers=8, width=320, heads=5, steps=4200)
DRAFTER = Size("drafter", layers=2, width=128, heads=2, steps=2000)
MIDDLE = Size("middle", layers=4, width=192, heads=3, steps=1800)


def build(size: Size) -> GPTNeoXForCausalLM:
    """Build an untrained fp32 model of that size."""
    config = GPTNeoXConfig(
        vocab_size=corpus.VOCABULARY,
        hidden_size=size.width,
        intermediate_size=4 * size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.25,
        },
    )
    torch.manual_seed(size.layers)
    return GPTNeoXForCausalLM(config)


def optimizers(model: torch.nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings, biases and norms."""
    inner = [p for n, p in model.named_parameters() if p.ndim == 2 and "layers" in n]
    outer = [p for n, p in model.named_parameters() if not (p.ndim == 2 and "layers" in n)]
    return [
        torch.optim.Muon(inner, lr=0.02, weight_decay=0.05, momentum=0.95, nesterov=True),
        torch.optim.AdamW(outer, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def schedule(step: int, steps: int) -> float:
    """Share of the peak step size: 50 steps up, flat for 40 %, then linearly down to 3 %."""
    warm = min(1.0, (step + 1) / 50)
    fall = max(0.0, (step / steps - 0.4) / 0.6)
    return warm * (1 - 0.97 * fall)


Batch = Callable[[int, int, torch.Generator], Tensor]  # (count, length, rng) → ids [count, length]
Loss = Callable[[torch.nn.Module, Tensor], Tensor]


def next_token_loss(model: torch.nn.Module, ids: Tensor) -> Tensor:
    """Mean cross-entropy of the next token, nats."""
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def distillation_loss(teacher: torch.nn.Module) -> Loss:
    """KL(target ‖ model) per token, nats, over the whole vocabulary."""

    def loss(model: torch.nn.Module, ids: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = teacher(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)
        given = model(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)
        return F.kl_div(
            given.flatten(0, 1), wanted.flatten(0, 1), log_target=True, reduction="batchmean"
        )

    return loss


@attrs.frozen
class Trainer:
    """Trains models on a device and keeps checkpoints in a folder."""

    work: Path
    device: torch.device
    scale: float  # multiplies every model's steps
    say: Callable[[str], None]

    def fit(self, size: Size, batch: Batch, loss: Loss) -> GPTNeoXForCausalLM:
        """Train one model in fp32, from its last checkpoint if there is one."""
        model = build(size).to(self.device)
        opts = optimizers(model)
        steps = max(1, round(size.steps * self.scale))
        checkpoint = self.work / f"{size.name}.pt"
        first, seen = 0, 0.0
        if checkpoint.exists():
            state = torch.load(checkpoint, map_location=self.device, weights_only=True)
            model.load_state_dict(state["model"])
            for opt, saved in zip(opts, state["optimizers"], strict=True):
                opt.load_state_dict(saved)
            first, seen = state["step"], state["seconds"]
        began, running = time.perf_counter(), None
        for step in range(first, steps):
            value = self._step(step, steps, batch, loss, model, opts)
            running = value if running is None else 0.98 * running + 0.02 * value
            if (step + 1) % 50 == 0 or step + 1 == steps:
                took = seen + time.perf_counter() - began
                self.say(
                    f"{size.name} {step + 1}/{steps}  loss {running:.3f}  "
                    f"{took / 60:.1f} min  {BATCH_TOKENS * (step + 1) / took:.0f} tokens/s"
                )
            if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == steps:
                state = {
                    "model": model.state_dict(),
                    "optimizers": [o.state_dict() for o in opts],
                    "step": step + 1,
                    "seconds": seen + time.perf_counter() - began,
                }
                torch.save(state, checkpoint.with_suffix(".tmp"))
                checkpoint.with_suffix(".tmp").replace(checkpoint)
        return model.eval()

    def _step(
        self,
        step: int,
        steps: int,
        batch: Batch,
        loss: Loss,
        model: torch.nn.Module,
        opts: list[torch.optim.Optimizer],
    ) -> float:
        """Do one update. The batch depends only on the step, so a resumed run sees the same text."""
        rng = torch.Generator().manual_seed(step)
        length = LONG if step >= (1 - LONG_SHARE) * steps else SHORT
        ids = batch(BATCH_TOKENS // length, length, rng).to(self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            value = loss(model, ids)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt, peak in zip(opts, (0.02, 3e-3), strict=True):
            for group in opt.param_groups:
                group["lr"] = peak * schedule(step, steps)
            opt.step()
            opt.zero_grad()
        return float(value.detach())


def mixture(stories: Tensor, books: Tensor) -> Batch:
    """Windows of stories and books, `STORY_SHARE` of them stories if there are both."""

    def batch(count: int, length: int, rng: torch.Generator) -> Tensor:
        n = round(count * STORY_SHARE + float(torch.rand(1, generator=rng)) - 0.5)
        n = count if not len(books) else 0 if not len(stories) else min(n, count)
        rows = [corpus.windows(stories, n, length, rng)] if n else []
        return torch.cat(
            rows + ([corpus.windows(books, count - n, length, rng)] if n < count else [])
        )

    return batch


def halves(first: Batch, second: Batch) -> Batch:
    """Batches of which each source gives half."""

    def batch(count: int, length: int, rng: torch.Generator) -> Tensor:
        half = count // 2
        return torch.cat([first(count - half, length, rng), second(half, length, rng)])

    return batch


@torch.inference_mode()
def continuations(target: GPTNeoXForCausalLM, row: Tensor, count: int, seed: int = 1) -> Tensor:
    """The target's greedy text: `count` windows of `SHORT` ids that start with 8–64 ids of `row`."""
    rng = torch.Generator().manual_seed(seed)
    starts = (row == 0).nonzero().flatten()  # where texts begin
    device, rows = target.device, []
    lengths = torch.randint(8, 65, (count // 64 + 1,), generator=rng).tolist()
    for length in lengths:
        if len(starts) > 64:
            begin = starts[torch.randint(0, len(starts), (64, 1), generator=rng)]
        else:
            begin = torch.randint(0, max(1, len(row) - length), (64, 1), generator=rng)
        prompt = row[(begin + torch.arange(length)) % len(row)].long().to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            out = target.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=False,
                max_length=SHORT,
                min_length=SHORT,
                eos_token_id=None,
                pad_token_id=0,
            )
        rows.append(out.to(torch.int16).cpu())
    return torch.cat(rows)[:count]


def cached(path: Path, make: Callable[[], Tensor]) -> Tensor:
    """Load a tensor from its file; make and save it first if the file is missing."""
    if not path.exists():
        save_file({"ids": make().contiguous()}, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)
    return load_file(path)["ids"]


def export(model: GPTNeoXForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Write a model folder for `AutoModelForCausalLM.from_pretrained`, with bf16 safetensors."""
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.post_processor = TemplateProcessing(
        single=f"{corpus.END} $A", special_tokens=[(corpus.END, 0)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=corpus.END,
        eos_token=corpus.END,
        pad_token=corpus.END,
        model_max_length=2048,
    ).save_pretrained(folder)


@click.command()
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Folder of .txt files to train on.",
)
@click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("train-work"),
    show_default=True,
    help="Folder for checkpoints; the same folder resumes.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=folder(""),
    help="Where the three model folders go.  [default: the package]",
)
@click.option(
    "--scale",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Multiplies the training steps of every model.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
def main(data: Path, work: Path, out: Path, scale: float, device: str) -> None:
    """Train target, drafter and middle model, and write them as Hugging Face folders."""
    work.mkdir(parents=True, exist_ok=True)
    texts = corpus.read(data)
    tokenizer_file = work / "tokenizer.json"
    if not tokenizer_file.exists():
        corpus.train_tokenizer(texts).save(str(tokenizer_file))
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    stories = cached(work / "stories.safetensors", lambda: corpus.encode(tokenizer, texts.stories))
    books = cached(work / "books.safetensors", lambda: corpus.encode(tokenizer, texts.books))
    click.echo(f"{len(stories):,} story tokens, {len(books):,} book tokens")
    trainer = Trainer(work, torch.device(device), scale, click.echo)
    text = mixture(stories, books)
    target = trainer.fit(TARGET, text, next_token_loss)
    own = cached(
        work / "own.safetensors",
        lambda: continuations(
            target, stories if len(stories) else books, round(1024 * min(1, scale))
        ),
    ).flatten()
    study = halves(text, lambda count, length, rng: corpus.windows(own, count, length, rng))
    drafter = trainer.fit(DRAFTER, study, distillation_loss(target))
    middle = trainer.fit(MIDDLE, study, distillation_loss(target))
    for size, model in ((TARGET, target), (DRAFTER, drafter), (MIDDLE, middle)):
        export(model, tokenizer, out / size.name)
        click.echo(f"wrote {out / size.name}")


if __name__ == "__main__":
    main()
