"""The last word of a sentence, after the sentences before it: a task made from a text of your own.

It is LAMBADA's task (Paperno et al. 2016, arXiv:1606.06031) without its selection of passages. Use a
text that no model was trained on.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from toolkit import Conversation, Dataset, Source, ToolkitError

from ..dataset_loading import read_text

CONTEXT = 3  # sentences before the one whose last word is asked for
WORDS = range(6, 61)  # in a sentence
END = re.compile(r"(?<=[a-z][.!?])\s+(?=[A-Z])")
LAST = re.compile(r"(?P<stem>.*\w) (?P<word>[a-z]{3,})[.!?]", re.DOTALL)


def load(location: str | None) -> Source:
    """A prompt for each sentence that ends in a lower-case word of three letters or more."""
    if location is None:
        raise ToolkitError("data set last-word is made from a text: write last-word:FILE.txt")
    text = read_text(Path(location))
    prompts, words = split_last_words(text)
    if not prompts:
        raise ToolkitError(
            f"text {location} has no sentence of {WORDS[0]} to {WORDS[-1]} words after another one: "
            f"give a text of sentences"
        )
    return Source(prompts, f"sha256:{hashlib.sha256(text.encode()).hexdigest()}", words)


def split_last_words(text: str) -> tuple[list[Conversation], list[str]]:
    """The prompts, each up to a sentence's last word, and these words."""
    prompts: list[Conversation] = []
    words: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        sentences = END.split(" ".join(paragraph.split()))
        for index in range(1, len(sentences)):
            *before, last = sentences[max(0, index - CONTEXT) : index + 1]
            found = LAST.fullmatch(last)
            if found and len(last.split()) in WORDS:
                prompts.append((" ".join([*before, found["stem"]]),))
                words.append(found["word"])
    return prompts, words


DATASET = Dataset("last-word", "the last word of each sentence of a text", load, grader="word")
