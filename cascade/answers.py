"""Recorded answers: one Parquet row for each prompt and stage."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import attrs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from attrs import frozen

from toolkit import Evidence, Outcomes, ToolkitError, column, open_atomically, schema


@frozen(kw_only=True)
class Answer:
    """What one stage answered to one prompt."""

    prompt_id: str = column("sha256 of the prompt's text, 16 hex digits")
    stage: int = column("from 0, the cheapest, on")
    name: str = column("the stage's target and specs")
    text: str = column("the answer")
    prompt_tokens: int = column("tokens of the prompt")
    tokens: int = column("tokens of the answer")
    seconds: float = column("wall-clock time of the answer, without loading")
    flops: float = column(
        "2 × parameters × tokens read and written: a model's work without speculation"
    )
    bytes: float = column("weights read: parameter bytes × passes over the target")
    logprobs: list[float] = column("of each token under the stage, natural")
    margins: list[float] = column("of each token: to the second likeliest, in log-probability")
    quality: float | None = column("grade in [0, 1]; null: not graded")


def hash_text(prompt: str) -> str:
    """The column `prompt_id`."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def evidence_of(answer: Answer, before: Answer | None) -> Evidence:
    """What a scorer is told of an answer. `before` is that of the stage before."""
    agreement = None if before is None else compare_words(answer.text, before.text)
    logprobs, margins = tuple(answer.logprobs), tuple(answer.margins)
    return Evidence(logprobs, margins, answer.prompt_tokens, agreement)


def compare_words(one: str, other: str) -> float:
    """F1 of the words that two texts have in common, in any case; 1 for two without words."""
    ours, theirs = (Counter(re.findall(r"\w+", text.casefold())) for text in (one, other))
    count = ours.total() + theirs.total()
    return 2 * (ours & theirs).total() / count if count else 1.0


def write_answers(answers: list[Answer], file: Path) -> None:
    """Write answers as Parquet, whole or not at all."""
    rows = [attrs.asdict(answer) for answer in answers]
    table = pa.Table.from_pylist(rows, schema=schema(Answer))
    with open_atomically(file) as out:
        pq.write_table(table, out)


def read_answers(file: Path) -> list[Answer]:
    """Read recorded answers from a file, or from a folder of part files. Raises `ToolkitError` for one
    that has none."""
    source = sorted(file.glob("*.parquet")) if file.is_dir() else file
    try:
        table = pq.read_table(source, schema=schema(Answer))
    except (OSError, ValueError, pa.ArrowTypeError) as error:
        raise ToolkitError(
            f"{file} has no recorded answers ({error}): make it with `toolkit cascade record`"
        ) from error
    answers = [Answer(**row) for row in table.to_pylist()]
    if file.is_dir():  # parts may stand beside the whole that they were joined to
        answers = list({(answer.prompt_id, answer.stage): answer for answer in answers}.values())
    return answers


def by_prompt(answers: list[Answer]) -> dict[str, list[Answer]]:
    """The answers of each prompt by stage. Raises `ToolkitError` unless each prompt has every stage
    once, all of them graded."""
    found: dict[str, list[Answer]] = {}
    for answer in sorted(answers, key=lambda each: each.stage):
        found.setdefault(answer.prompt_id, []).append(answer)
    stages = max((answer.stage for answer in answers), default=-1) + 1
    for prompt, held in found.items():
        if [answer.stage for answer in held] != list(range(stages)):
            raise ToolkitError(
                f"prompt {prompt} has stages {[a.stage for a in held]}, expected 0 to {stages - 1}, "
                f"each once: record every stage of every prompt"
            )
        if any(answer.quality is None for answer in held):
            raise ToolkitError(
                f"prompt {prompt} has no grade: record with a grader, or grade the rows"
            )
    return found


class Scores(Protocol):
    """What scores the answers of a stage: a scorer, or one that is calibrated."""

    def score(self, answer: Evidence) -> float: ...


def outcomes_of(
    rows: dict[str, list[Answer]], scorers: Sequence[Scores], cost: str = "seconds"
) -> Outcomes:
    """The outcomes of prompts, in order. `scorers[L]` score the stages; `cost` is a column."""
    scores = [
        [scorer.score(each) for scorer, each in zip(scorers, evidence_of_all(row), strict=True)]
        for row in rows.values()
    ]
    costs = [[getattr(answer, cost) for answer in row] for row in rows.values()]
    qualities = [[answer.quality for answer in row] for row in rows.values()]
    return Outcomes(*(np.asarray(part, dtype=np.float64) for part in (scores, costs, qualities)))


def evidence_of_all(row: list[Answer]) -> list[Evidence]:
    """What scorers are told of the answers to one prompt, by stage."""
    first = evidence_of(row[0], None)
    return [first, *(evidence_of(answer, before) for before, answer in pairwise(row))]


def require_cascade(rows: dict[str, list[Answer]], cost: str) -> None:
    """Raise `ToolkitError` unless there are two stages or more, in the order of their mean cost."""
    first = next(iter(rows.values()), [])
    if len(first) < 2:
        raise ToolkitError("a cascade has two stages or more: record at least two")
    means = np.mean([[getattr(answer, cost) for answer in row] for row in rows.values()], axis=0)
    if (np.diff(means) < 0).any():
        raise ToolkitError(
            f"the stages are not in the order of their mean {cost} "
            f"({', '.join(f'{mean:.3g}' for mean in means)}): record the cheapest first"
        )
