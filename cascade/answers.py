"""Recorded answers: one Parquet row for each prompt and stage."""

from __future__ import annotations

from pathlib import Path

import attrs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from attrs import frozen

from toolkit import Evidence, Outcomes, Scorer, ToolkitError, column, open_atomically, schema


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

    @property
    def evidence(self) -> Evidence:
        return Evidence(tuple(self.logprobs), tuple(self.margins), self.prompt_tokens)


def write_answers(answers: list[Answer], file: Path) -> None:
    """Write answers as Parquet, whole or not at all."""
    rows = [attrs.asdict(answer) for answer in answers]
    table = pa.Table.from_pylist(rows, schema=schema(Answer))
    with open_atomically(file) as out:
        pq.write_table(table, out)


def read_answers(file: Path) -> list[Answer]:
    """Read recorded answers. Raises `ToolkitError` for a file that has none."""
    try:
        table = pq.read_table(file, schema=schema(Answer))
    except (OSError, pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ToolkitError(
            f"{file} has no recorded answers ({error}): make it with `toolkit cascade record`"
        ) from error
    return [Answer(**row) for row in table.to_pylist()]


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


def outcomes_of(answers: list[Answer], scorers: list[Scorer], cost: str = "seconds") -> Outcomes:
    """The outcomes of every prompt. `scorers[L]` score the stages; `cost` is a column."""
    rows = list(by_prompt(answers).values())
    both = [
        [
            (scorer.score(a.evidence), getattr(a, cost), a.quality)
            for scorer, a in zip(scorers, row, strict=True)
        ]
        for row in rows
    ]
    table = np.asarray(both, dtype=np.float64)
    return Outcomes(table[..., 0], table[..., 1], table[..., 2])
