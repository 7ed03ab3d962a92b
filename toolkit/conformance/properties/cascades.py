"""Properties of scorers and stop policies."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from toolkit.cascade_interfaces import Evidence, Outcomes, Scorer, StopPolicy
from toolkit.conformance.comparison import Broken

STAGES = 2  # that every policy can do


def scores_are_probabilities(make: Callable[[], Scorer], answers: list[Evidence]) -> None:
    """A score is in [0, 1], also of an answer without tokens, before and after fitting; and the same
    answer has the same score again."""
    fitted = make().fit(answers, [float(n % 2) for n in range(len(answers))])
    for scorer in (make(), fitted):
        first, again = ([scorer.score(answer) for answer in answers] for _ in range(2))
        for answer, score in zip(answers, first, strict=True):
            if not 0 <= score <= 1:
                raise Broken(f"the score of {answer} is {score}, expected one in [0, 1]")
        if first != again:
            raise Broken(f"scores were {first}, and {again} when asked again")


def stops_alike_again(make: Callable[[], StopPolicy], seed: int, trade_off: float) -> None:
    """Fitted to the same outcomes, two policies stop the same prompts for the same draws, and a policy
    does not change the scores that it is shown."""
    rng = np.random.default_rng(seed)
    shape = (30, STAGES)
    outcomes = Outcomes(
        rng.random(shape), rng.uniform(1, 2, shape), rng.integers(0, 2, shape).astype(np.float64)
    )
    one, other = (make().fit(outcomes, trade_off) for _ in range(2))
    for row, draw in zip(outcomes.scores.tolist(), rng.random(30).tolist(), strict=True):
        shown = row[:1]
        found = one.stop(shown, draw)
        if shown != row[:1]:
            raise Broken(f"stop changed the scores {row[:1]} to {shown}")
        if found != other.stop(row[:1], draw):
            raise Broken(f"two policies with the same fit differ for scores {row[:1]}, draw {draw}")
