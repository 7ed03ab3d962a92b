"""Tasks: prompts whose answers can be graded, from data sets by name or from files of JSON lines."""

from __future__ import annotations

import json
import random
from pathlib import Path

from attrs import frozen

from toolkit import Registry, ToolkitError

from .graders import GRADERS

FILE = '{"prompt": "…", "answer": "…", "grader": "exact"}'


@frozen
class Task:
    """A prompt, the reference that its answers are compared with, and the grader that compares."""

    prompt: str
    reference: str
    grader: str
    chat: bool = False  # a question to an assistant

    def grade(self, answer: str) -> float:
        """1.0 for a right answer, 0.0 for another. The grader `execution` runs the answer."""
        return GRADERS[self.grader](self.prompt, answer, self.reference)


def load_tasks(
    name: str, registry: Registry, count: int | None = None, seed: int = 0
) -> list[Task]:
    """Load tasks by NAME, NAME:LOCATION or FILE.jsonl; with `count` that many, drawn by `seed`.

    Raises `ToolkitError` for what is missing, has another form, or cannot be graded.
    """
    is_file = name.endswith(".jsonl") and name.partition(":")[0] not in registry.datasets
    tasks = _read_file(Path(name)) if is_file else _load_set(name, registry)
    tasks = list({task.prompt: task for task in tasks}.values())
    if count is None:
        return tasks
    if count > len(tasks):
        raise ToolkitError(
            f"{name} has {len(tasks)} tasks, and {count} are asked for: ask for fewer"
        )
    return random.Random(seed).sample(tasks, count)  # noqa: S311 a choice of prompts


def require_allowed(tasks: list[Task], allow_execution: bool) -> None:
    """Raise `ToolkitError` when grading would run code and the user has not allowed it."""
    if not allow_execution and any(task.grader == "execution" for task in tasks):
        raise ToolkitError(
            "these tasks are graded by running what the models write, on this machine, as you, with "
            "limits on time and memory but in no sandbox: add --allow-execution to allow it"
        )


def _load_set(name: str, registry: Registry) -> list[Task]:
    head, _, location = name.partition(":")
    graded = sorted(key for key, dataset in registry.datasets.items() if dataset.grader)
    if head not in graded:
        raise ToolkitError(
            f"no graded data set called {head!r}: there are {', '.join(graded)}; a file of your own "
            f"ends in .jsonl and has lines of the form {FILE}"
        )
    dataset = registry.datasets[head]
    if dataset.grader not in GRADERS:
        raise ToolkitError(
            f"data set {head} has grader {dataset.grader!r}: there are {', '.join(GRADERS)}"
        )
    source = dataset.load(location or None)
    if len(source.references) != len(source.conversations) or not source.references:
        raise ToolkitError(f"the rows of {name} lack the right answers, so they cannot be graded")
    pairs = zip(source.conversations, source.references, strict=True)
    return [Task(turns[0], reference, dataset.grader, dataset.chat) for turns, reference in pairs]


def _read_file(file: Path) -> list[Task]:
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ToolkitError(f"task file {file} cannot be read: {error}") from error
    tasks = [_task(line, f"{file}, line {n}") for n, line in enumerate(lines, 1) if line.strip()]
    if not tasks:
        raise ToolkitError(f"task file {file} is empty: give lines of the form {FILE}")
    return tasks


def _task(line: str, where: str) -> Task:
    """The task of a line. Raises `ToolkitError`."""
    try:
        row = json.loads(line)
        found = Task(row["prompt"], row["answer"], row["grader"], row.get("chat", False))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ToolkitError(f"{where}: expected {FILE}, got {line[:80]}") from error
    if not (isinstance(found.prompt, str) and found.prompt and isinstance(found.reference, str)):
        raise ToolkitError(f"{where}: prompt and answer are texts, and a prompt is not empty")
    if found.grader not in GRADERS:
        raise ToolkitError(f"{where}: no grader {found.grader!r}; there are {', '.join(GRADERS)}")
    return found
