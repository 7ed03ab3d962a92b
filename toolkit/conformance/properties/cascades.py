"""Properties of scorers and stop policies."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle, product

import numpy as np

from toolkit.cascade_interfaces import Evidence, Outcomes, Scorer, StopPolicy
from toolkit.conformance.comparison import Broken

STAGES = 2  # that every policy can do
TRICKY = (0.0, 0.5, 1.0)  # scores that policies compare with


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
    outcomes, draws = _draw_outcomes(seed)
    one, other = (make().fit(outcomes, trade_off) for _ in range(2))
    for row, draw in zip(outcomes.scores.tolist(), draws, strict=True):
        shown = row[:1]
        found = one.stop(shown, draw)
        if shown != row[:1]:
            raise Broken(f"stop changed the scores {row[:1]} to {shown}")
        if found != other.stop(row[:1], draw):
            raise Broken(f"two policies with the same fit differ for scores {row[:1]}, draw {draw}")


def answers_every_prompt(make: Callable[[], StopPolicy], seed: int) -> None:
    """Every prompt is answered by one of the stages: `stop` says True or False after each stage but the
    last one, which always stops. That holds for any scores, and for three stages if the policy can be
    fitted to them."""
    for stages in (STAGES, STAGES + 1):
        outcomes, draws = _draw_outcomes(seed, stages)
        try:
            policy = make().fit(outcomes, 1.0)
        except ValueError:
            if stages == STAGES:
                raise
            continue
        rows = [*product(TRICKY, repeat=stages), *outcomes.scores.tolist()]
        for row, draw in zip(rows, cycle(draws), strict=False):
            for ran in range(1, stages):
                said = policy.stop(list(row[:ran]), draw)
                if not isinstance(said, bool | np.bool_):
                    raise Broken(f"for scores {row[:ran]} of {stages} stages, stop returned {said!r}")


def quality_rises_with_lambda(make: Callable[[], StopPolicy], seed: int) -> None:
    """Of a policy that says that it `minimises`: on the prompts fitted to, neither mean cost nor mean
    quality falls with λ."""
    outcomes, draws = _draw_outcomes(seed)
    before = (0.0, 0.0)
    for trade_off in (0.0, 0.5, 2.0, 5.0, 50.0):
        policy = make().fit(outcomes, trade_off)
        on = [
            not policy.stop(row[:1], draw)
            for row, draw in zip(outcomes.scores.tolist(), draws, strict=True)
        ]
        cost = float(np.mean(outcomes.costs[:, 0] + on * outcomes.costs[:, 1]))
        quality = float(np.mean(np.where(on, outcomes.qualities[:, 1], outcomes.qualities[:, 0])))
        if cost < before[0] - 1e-9 or quality < before[1] - 1e-9:
            raise Broken(
                f"λ = {trade_off:g} gave mean cost {cost:.4g} and quality {quality:.4g}, a smaller λ "
                f"gave {before[0]:.4g} and {before[1]:.4g}: neither may fall"
            )
        before = cost, quality


def grades_are_read_of_stages_that_ran(make: Callable[[], StopPolicy], seed: int) -> None:
    """A policy learns from the stages that ran and asks for no others, and does not change what it is
    given."""
    outcomes, draws = _draw_outcomes(seed)
    policy = make().fit(outcomes, 1.0)
    for n, draw in enumerate(draws):
        ran = 1 if policy.stop(outcomes.scores[n, :1].tolist(), draw) else STAGES
        told = [part[n, :ran].tolist() for part in (outcomes.costs, outcomes.qualities)]
        shown = [list(part) for part in told]
        try:
            policy.update(*shown)
        except IndexError as error:
            raise Broken(
                f"after {ran} of {STAGES} stages, update read one that did not run"
            ) from error
        if shown != told:
            raise Broken(f"update changed {told} to {shown}")


def _draw_outcomes(seed: int, stages: int = STAGES) -> tuple[Outcomes, list[float]]:
    """Outcomes of 30 prompts, and a draw for each."""
    rng = np.random.default_rng(seed)
    shape = (30, stages)
    costs, grades = rng.uniform(1, 2, shape), rng.integers(0, 2, shape).astype(np.float64)
    return Outcomes(rng.random(shape), costs, grades), rng.random(30).tolist()
