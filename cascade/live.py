"""A fitted cascade on models: stages run until its policy stops."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

from toolkit import Generation, StopPolicy, ToolkitError

from .answers import Answer, evidence_of, hash_text
from .policy_file import FittedCascade
from .replay import draws_of, mixing_draws_of
from .stages import Stage
from .tasks import Task


@frozen(eq=False)
class LiveAnswer:
    """The stages that ran, their scores, the policy that stopped, and the generation of the last stage:
    its text is the answer."""

    policy: StopPolicy
    ran: list[Answer]
    scores: list[float]
    generation: Generation

    @property
    def text(self) -> str:
        return self.generation.text

    @property
    def stage(self) -> int:
        """The stage that answered."""
        return self.ran[-1].stage

    def cost(self, unit: str) -> float:
        """The cost of all stages that ran."""
        return float(sum(getattr(answer, unit) for answer in self.ran))

    def describe(self, unit: str) -> str:
        """What ran, in one line."""
        scores = ", ".join(f"{score:.3f}" for score in self.scores)
        return f"stage {self.stage} answered; scores {scores}; {self.cost(unit):.4g} {unit}"


def answer_prompt(
    fitted: FittedCascade, stages: list[Stage], prompt: str, *, chat: bool
) -> LiveAnswer:
    """Run stages until the policy stops."""
    ids = [hash_text(prompt)]
    policy = fitted.policy_of(float(mixing_draws_of(ids)[0]))
    draw = float(draws_of(ids)[0])
    ran: list[Answer] = []
    generations: list[Generation] = []

    def run_stage(number: int) -> float:
        answer, generation = stages[number].answer(prompt, chat=chat)
        score = fitted.scorers[number].score(evidence_of(answer, ran[-1] if ran else None))
        ran.append(answer)
        generations.append(generation)
        return score

    scores = policy.run(len(stages), run_stage, draw)
    return LiveAnswer(policy, ran, scores, generations[-1])


def answer_tasks(
    fitted: FittedCascade, stages: list[Stage], tasks: list[Task]
) -> Iterator[tuple[Task, LiveAnswer, float]]:
    """Answer tasks one by one, each with its grade. A policy that learns is told the grades of the
    stages that ran."""
    for task in tasks:
        found = answer_prompt(fitted, stages, task.prompt, chat=task.chat)
        grades = [task.grade(answer.text) for answer in found.ran]
        if found.policy.feedback == "graded":
            found.policy.update([getattr(answer, fitted.cost) for answer in found.ran], grades)
        yield task, found, grades[-1]


def require_no_feedback(fitted: FittedCascade) -> None:
    """Raise `ToolkitError` when a policy learns from grades, which a bare prompt does not have."""
    for policy in fitted.policies:
        if policy.feedback == "graded":
            raise ToolkitError(
                f"policy {policy.name} learns from grades, and a prompt has none: give --tasks"
            )
