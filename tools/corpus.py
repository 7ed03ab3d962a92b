"""The text for the shipped models: read a folder of .txt files, clean it, cut it into windows.

A file with `<|endoftext|>` lines holds many short texts (stories). Any other file is one long text
(a book). A hundredth of the texts, chosen by a hash of their content, is held out from training.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import numpy as np
import torch
from attrs import frozen
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END = "<|endoftext|>"
VOCABULARY = 4096
_PLAIN = str.maketrans(
    {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "−": "-", "_": None, "\r": None}
)


@frozen
class Corpus:
    """Cleaned texts: `stories` and `books` for training, `held_stories` and `held_books` held out."""

    stories: list[str]
    books: list[str]
    held_stories: list[str]
    held_books: list[str]


def read(folder: Path) -> Corpus:
    """Read every .txt file under `folder`. Raises `FileNotFoundError` when there is none."""
    files = sorted(folder.rglob("*.txt"))
    if not files:
        raise FileNotFoundError(f"no .txt file under {folder}: give --data a folder of plain texts")
    stories: list[str] = []
    books: list[str] = []
    for file in files:
        raw = file.read_text(encoding="utf-8", errors="replace").translate(_PLAIN)
        if END in raw:
            stories += [text.strip() for text in raw.split(END) if text.strip()]
        elif raw.strip():
            books.append(_unwrap(raw))
    kept_stories, held_stories = _hold_out(stories)
    kept_books, held_books = _hold_out(books)
    return Corpus(kept_stories, kept_books, held_stories, held_books)


def _unwrap(book: str) -> str:
    """Join wrapped lines, so that each paragraph is one line. Blank lines end a paragraph."""
    paragraphs = (re.sub(r"\s+", " ", part).strip() for part in re.split(r"\n\s*\n", book))
    return "\n".join(part for part in paragraphs if part)


def _hold_out(texts: list[str]) -> tuple[list[str], list[str]]:
    """Hold out the hundredth of the texts with the smallest hashes, unless there is only one."""
    order = sorted(range(len(texts)), key=lambda i: zlib.crc32(texts[i].encode()))
    held = set(order[: max(1, len(texts) // 100) if len(texts) > 1 else 0])
    return (
        [text for i, text in enumerate(texts) if i not in held],
        [texts[i] for i in order if i in held],
    )


def train_tokenizer(corpus: Corpus) -> Tokenizer:
    """Train byte-level BPE on the stories and the start of every book. `END` has id 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    sample = corpus.stories + [book[:40_000] for book in corpus.books]
    tokenizer.train_from_iterator(sample, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list[str]) -> torch.Tensor:
    """Encode all texts into one row of int16 ids, with `END` (0) before each."""
    parts = [
        np.asarray([0, *encoding.ids], dtype=np.int16)
        for start in range(0, len(texts), 1000)
        for encoding in tokenizer.encode_batch_fast(texts[start : start + 1000])
    ]
    return torch.from_numpy(np.concatenate(parts)) if parts else torch.zeros(0, dtype=torch.int16)


def windows(row: torch.Tensor, count: int, length: int, rng: torch.Generator) -> torch.Tensor:
    """Draw `count` random windows of `length` ids from a row: int64 [count, length]."""
    starts = torch.randint(0, max(1, len(row) - length + 1), (count, 1), generator=rng)
    return row[(starts + torch.arange(length)) % len(row)].long()
