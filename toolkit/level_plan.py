"""What a chain of drafters is expected to gain: tokens of a step, its cost, and the best plan.

The model: a level's token is accepted by the level above with one fixed probability, whatever came
before. Acceptance falls with depth in fact, so long chains are judged too well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import combinations

from attrs import frozen

from toolkit.errors import ToolkitError

MOST_DRAFTED = 16  # tokens of a step
MOST_AHEAD = 8  # tokens that a lower level drafts for one pass


@frozen
class Level:
    """A model or drafter of a chain: `passes[n]` is the cost of a pass of n + 1 rows, in any unit that
    all levels share. A larger pass than the last one costs as much as that."""

    name: str
    passes: tuple[float, ...]

    def cost(self, rows: int) -> float:
        return self.passes[min(rows, len(self.passes)) - 1]


@frozen
class LevelPlan:
    """A chain and how to run it: `drafted` tokens a step, `ahead[i]` tokens for a pass of level i.

    `tokens` are those that a step commits, `cost` is that of a step in passes of AR.
    """

    levels: tuple[str, ...]
    drafted: int
    ahead: tuple[int, ...]
    tokens: float
    cost: float

    @property
    def speed_up(self) -> float:
        """Over AR."""
        return self.tokens / self.cost

    @property
    def specs(self) -> str:
        """The options of `toolkit run`, of a chain whose names are drafters."""
        shaper = f"--shaper chain:k={self.drafted}"
        if len(self.levels) == 1:
            return f"--drafter {self.levels[0]} {shaper}"
        levels = "+".join(f"[{name}]" for name in self.levels)
        return f"--drafter staged:levels={levels},ahead={'x'.join(map(str, self.ahead))} {shaper}"


def expected_tokens(drafted: int, acceptance: float) -> float:
    """The tokens of a step of `drafted` tokens: accepted ones and the bonus (Leviathan et al. 2023)."""
    return float(sum(acceptance**depth for depth in range(drafted + 1)))


def expected_passes(wanted: int, ahead: int, acceptance: float) -> float:
    """The passes in which a level gives `wanted` tokens when each answers for a chain of `ahead`.

    A pass gives the accepted tokens of the chain and one more.
    """
    passes = [0.0]
    for left in range(1, wanted + 1):
        given = [
            (acceptance**accepted * (1 - acceptance if accepted < ahead else 1), accepted + 1)
            for accepted in range(ahead + 1)
        ]
        passes.append(1 + sum(share * passes[max(0, left - count)] for share, count in given))
    return passes[wanted]


def plan_chain(
    target: Level, chain: Sequence[Level], acceptance: Mapping[tuple[str, str], float]
) -> LevelPlan:
    """The best plan for one chain, from the largest drafter to the smallest.

    `acceptance[upper, lower]` is that of the lower's tokens by the upper, for neighbours.
    """

    @cache
    def cheapest(index: int, wanted: int) -> tuple[float, tuple[int, ...]]:
        """The least cost of `wanted` tokens of a level, and the `ahead` of it and those below."""
        level = chain[index]
        if index == len(chain) - 1:
            return wanted * level.cost(1), ()
        accepted = acceptance[level.name, chain[index + 1].name]
        plans = []
        for ahead in range(1, MOST_AHEAD + 1):
            below, rest = cheapest(index + 1, ahead)
            cost = expected_passes(wanted, ahead, accepted) * (level.cost(1 + ahead) + below)
            plans.append((cost, (ahead, *rest)))
        return min(plans)

    def plan(drafted: int) -> LevelPlan:
        cost, ahead = cheapest(0, drafted)
        tokens = expected_tokens(drafted, acceptance[target.name, chain[0].name])
        names = tuple(level.name for level in chain)
        whole = (target.cost(drafted + 1) + cost) / target.cost(1)
        return LevelPlan(names, drafted, ahead, tokens, whole)

    return max(map(plan, range(1, MOST_DRAFTED + 1)), key=lambda made: made.speed_up)


def plan_levels(
    target: Level, levels: Sequence[Level], acceptance: Mapping[tuple[str, str], float]
) -> list[LevelPlan]:
    """The best plan for every chain that some of the levels make in their order, fastest first."""
    chains = (chain for n in range(1, len(levels) + 1) for chain in combinations(levels, n))
    plans = [plan_chain(target, chain, acceptance) for chain in chains]
    return sorted(plans, key=lambda plan: -plan.speed_up)


def pays(name: str, plans: Iterable[LevelPlan]) -> float:
    """The best speed-up with a level over the best without it; without any level that of AR, 1."""
    with_it = [plan.speed_up for plan in plans if name in plan.levels]
    without = [plan.speed_up for plan in plans if name not in plan.levels]
    return max(with_it) / max([1.0, *without])


def require_acceptance(
    names: Sequence[str], target: str, acceptance: Mapping[tuple[str, str], float]
) -> None:
    """Raise `ToolkitError` when an acceptance of a level by the target or a larger level is missing or
    is no probability."""
    for upper, lower in combinations([target, *names], 2):
        if (upper, lower) not in acceptance:
            pair = lower if upper == target else f"{upper}/{lower}"
            raise ToolkitError(
                f"no acceptance of {lower!r} by {upper!r}: add --acceptance {pair}=0.8, or leave "
                f"--acceptance and --cost out to measure"
            )
    for (upper, lower), value in acceptance.items():
        if not 0 <= value <= 1:
            raise ToolkitError(f"acceptance of {lower!r} by {upper!r} is {value}: expected 0 to 1")
