"""What explains a speed: what was accepted where, and what a step costs beside a token of AR."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from toolkit.engine import Step


@frozen
class Acceptance:
    """Acceptance of drafts, by vLLM's definitions: a draft is a step that drafted a token."""

    drafts: int
    drafted: int  # tokens
    accepted_at: list[int]  # drafts that had a token accepted at position 1, 2, …

    @classmethod
    def of(cls, steps: Sequence[Step]) -> Acceptance:
        drafts = [step for step in steps if step.depth]
        deepest = max((step.depth for step in drafts), default=0)
        positions = range(1, deepest + 1)
        accepted = [sum(step.accepted >= position for step in drafts) for position in positions]
        return cls(len(drafts), sum(step.nodes - 1 for step in drafts), accepted)

    @property
    def mean_length(self) -> float | None:
        """Mean acceptance length: 1 + accepted tokens per draft."""
        return 1 + sum(self.accepted_at) / self.drafts if self.drafts else None

    @property
    def rate(self) -> float | None:
        """Draft acceptance rate: accepted tokens per drafted one, every node of a tree counted."""
        return sum(self.accepted_at) / self.drafted if self.drafted else None

    @property
    def by_position(self) -> list[float]:
        """The share of all drafts that had a token accepted at position 1, 2 and so on."""
        return [count / self.drafts for count in self.accepted_at]

    @property
    def lengths(self) -> list[int]:
        """Drafts that had 0, 1, 2, … tokens accepted."""
        counts = [self.drafts, *self.accepted_at, 0]
        return [counts[n] - counts[n + 1] for n in range(len(counts) - 1)] if self.drafts else []


@frozen
class StepCost:
    """What a step costs. Times are means in milliseconds, per step unless they say otherwise."""

    tau: float
    draft: float
    verify: float
    rest: float  # shaping the tree and committing
    level: float | None  # drafting, per level of the tree; the drafter's prefill does not count

    @classmethod
    def of(cls, steps: Sequence[Step]) -> StepCost | None:
        """None where nothing was drafted."""
        count, later = len(steps), [step for step in steps[1:] if step.draft_ms]  # no whole steps
        if not any(step.depth for step in steps):
            return None
        levels = sum(step.depth for step in later)
        return cls(
            tau=sum(step.committed for step in steps) / count,
            draft=sum(step.draft_ms for step in steps) / count,
            verify=sum(step.verify_ms for step in steps) / count,
            rest=sum(step.shape_ms + step.commit_ms for step in steps) / count,
            level=sum(step.draft_ms for step in later) / levels if levels else None,
        )

    def explain(self, ar_tokens_per_s: float, synthetic: bool = False) -> str:
        """Why speculation pays, or does not, beside AR at this speed.

        A step that costs as much as b tokens of AR pays where it commits more than b: τ above b.
        `synthetic`: the drafter is no real one, so only what one may cost is said.
        """
        parts = [time * ar_tokens_per_s / 1e3 for time in (self.draft, self.verify, self.rest)]
        even = sum(parts)
        shares = ", ".join(
            f"{n} {p:.2f}" for n, p in zip(("draft", "verify", "rest"), parts, strict=True)
        )
        if synthetic and self.tau > even:
            says = f"a drafter of this acceptance may cost {self.tau - even:.2f} tokens of AR a step"
        elif synthetic:
            says = "a drafter of this acceptance does not pay, even if drafting costs nothing"
        else:
            says = f"speculation {'pays' if self.tau > even else 'does not pay'} in this run"
        return (
            f"τ {even:.2f}: a step takes as long as {even:.2f} tokens of AR ({shares})\n"
            f"τ is {self.tau:.2f}, so {says}"
        )
