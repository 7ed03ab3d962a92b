"""Recording: every stage answers every task once; each graded answer is a part file at once."""

from __future__ import annotations

from pathlib import Path

import attrs

from toolkit import ToolkitError
from toolkit.progress import working

from .answers import Answer, hash_text, read_answers, write_answers
from .stages import Stage
from .tasks import Task

Key = tuple[str, int]  # prompt_id and stage
WHOLE = "answers.parquet"


@attrs.frozen(eq=False)
class Recorder:
    """Records the answers that a folder lacks. `found` are those that it has."""

    folder: Path
    stages: list[Stage]
    tasks: list[Task]
    found: dict[Key, Answer]

    @classmethod
    def open(cls, folder: Path, stages: list[Stage], tasks: list[Task]) -> Recorder:
        """Open a folder, or make it. Raises `ToolkitError` when it has answers of other stages or
        cannot be written to."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_answers([], folder / ".writable")
            (folder / ".writable").unlink()
        except OSError as error:
            raise ToolkitError(
                f"answers cannot be written to {folder} ({error.strerror}): name another with --out"
            ) from error
        kept = read_answers(folder) if any(folder.glob("*.parquet")) else []
        names = [stage.name for stage in stages]
        for answer in kept:
            if answer.name not in names[answer.stage : answer.stage + 1]:
                raise ToolkitError(
                    f"{folder} has answers of another stage {answer.stage}, {answer.name!r}: give the "
                    f"same stages to go on, or name another folder with --out"
                )
        return cls(folder, stages, tasks, {_key(answer): answer for answer in kept})

    @property
    def line(self) -> str:
        """How many answers the folder has."""
        ids = [hash_text(task.prompt) for task in self.tasks]
        wanted = [(prompt, stage.number) for prompt in ids for stage in self.stages]
        return (
            f"{sum(key in self.found for key in wanted)} of {len(wanted)} answers in {self.folder}"
        )

    def record(self, stage: Stage) -> list[Answer]:
        """Record what a stage has not answered yet, and return all its answers. An interruption loses
        only the answer that was being made."""
        keys = {(hash_text(task.prompt), stage.number): task for task in self.tasks}
        missing = [task for key, task in keys.items() if key not in self.found]
        if missing:
            with working(f"warming up {stage.name}"):
                stage.answer(missing[0].prompt, chat=missing[0].chat)  # not recorded
        for number, task in enumerate(missing):
            with working(f"{stage.name}: {number} of {len(missing)}"):
                self._record(stage, task)
        return [self.found[key] for key in keys]

    def join(self) -> None:
        """Join the part files, once every stage is recorded."""
        write_answers(list(self.found.values()), self.folder / WHOLE)
        for part in self.folder.glob("part-*.parquet"):
            part.unlink()

    def _record(self, stage: Stage, task: Task) -> None:
        made, _ = stage.answer(task.prompt, chat=task.chat)
        answer = attrs.evolve(made, quality=task.grade(made.text))
        write_answers([answer], self.folder / f"part-{stage.number}-{answer.prompt_id}.parquet")
        self.found[_key(answer)] = answer


def _key(answer: Answer) -> Key:
    return answer.prompt_id, answer.stage
