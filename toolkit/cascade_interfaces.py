"""The two interfaces of cascades: how good is an answer, and is it good enough to stop?

A cascade runs stages, from the cheapest pipeline to the most expensive, until a policy stops. Its text
is that of the last stage that ran. Letters: n prompts, L stages.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal, Self, final

from attrs import frozen

from toolkit.choice import Strategy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Feedback = Literal["none", "graded"]


@frozen
class Evidence:
    """What is known of an answer when it was generated: natural log-probabilities of its tokens under
    the stage that gave them, the margins to the second likeliest token, and the lengths."""

    logprobs: tuple[float, ...]
    margins: tuple[float, ...]
    prompt_tokens: int
    agreement: float | None = None  # F1 of words with the stage before's answer; None: the first stage


@frozen(eq=False)
class Outcomes:
    """Every stage's outcome for every prompt: `scores[n, L]` in [0, 1], `costs[n, L]` of each stage
    alone, and `qualities[n, L]` in [0, 1]. A stage that did not run has NaN."""

    scores: Floats
    costs: Floats
    qualities: Floats

    @property
    def stages(self) -> int:
        """L."""
        return int(self.scores.shape[1])


class Scorer(Strategy):
    """How good is an answer? A number in [0, 1], from what is known without a grade."""

    kind = "scorer"

    def fit(self, answers: list[Evidence], qualities: list[float]) -> Self:
        """A scorer fitted to graded answers of one stage; by default this one."""
        return self

    @abstractmethod
    def score(self, answer: Evidence) -> float:
        """The score of an answer: the higher, the likelier it is good."""


class StopPolicy(Strategy):
    """Stop at this stage, or run the next one? It sees the scores of the stages that ran."""

    kind = "policy"
    feedback: ClassVar[Feedback] = "none"
    """Whether `update` is told the grades of the answers that were produced."""
    minimises: ClassVar[bool] = False
    """Whether `fit` finds the least mean cost plus λ times the lost quality among fixed rules: then
    neither cost nor quality falls with λ on the prompts fitted to."""

    def fit(self, outcomes: Outcomes, trade_off: float) -> Self:
        """A policy fitted to recorded outcomes. `trade_off` is λ: the cost that one unit of quality is
        worth. By default this policy, which has nothing to fit."""
        return self

    @abstractmethod
    def stop(self, scores: list[float], draw: float) -> bool:
        """Whether to stop after stages 0 … k, which have `scores[k + 1]`; never asked after the last.

        `draw` is uniform in [0, 1), the same for all stages of a prompt: all randomness of a policy.
        """

    @final
    def run(self, stages: int, score: Callable[[int], float], draw: float) -> list[float]:
        """Run stages until this policy stops, and return their scores. The last stage always stops.

        `score(k)` runs stage k and scores its answer.
        """
        scores = [score(0)]
        while len(scores) < stages and not self.stop(list(scores), draw):
            scores.append(score(len(scores)))
        return scores

    def update(self, costs: list[float], qualities: list[float]) -> None:
        """Learn from the stages of one prompt that ran; optional."""
