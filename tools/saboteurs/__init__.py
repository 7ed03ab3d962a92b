"""Negative controls: bugs that the properties must catch, many of them from published code.

`GALLERY` says which property catches which bug. Every property catches at least one. Only the kit's own
tests and the fuzzer use them, so no wheel has them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import attrs

from saboteurs import (
    cascades,
    drafters,
    eviction,
    machinery,
    policies,
    shapers,
    verifiers,
)
from toolkit.choice import Strategy

Context = Callable[[], AbstractContextManager[None]]


@attrs.frozen
class Sabotage:
    """A bug, and the property `by` which it is caught.

    `subject` is the strategy to test: a broken one, or the spec of a correct one while `context` breaks
    the runtime. `caught` is the outcome that shows that the bug is caught.
    """

    by: str
    subject: type[Strategy] | str
    context: Context = nullcontext
    caught: Literal["fail", "inconclusive"] = "fail"

    @property
    def name(self) -> str:
        """The name of the broken function or class."""
        cls = self.subject
        return self.context.__name__ if isinstance(cls, str) else cls.__name__

    @property
    def bug(self) -> str:
        """What is wrong, in a sentence or two."""
        source = self.context if isinstance(self.subject, str) else self.subject
        return " ".join((source.__doc__ or "").split())


H2O = "h2o:budget=10,recent=3,sinks=1,epoch=4"
KNORM = "knorm:budget=10,epoch=4"

GALLERY = (
    Sabotage("repeats-exactly", policies.ByChance),
    Sabotage("tokens-equal-ar", "budget", machinery.position_by_index),
    Sabotage("cache-equals-ar", "budget", machinery.position_by_index),
    Sabotage("node-sees-its-path", "window:4", machinery.position_by_index),
    Sabotage("tokens-equal-ar", "budget", machinery.sibling_visible),
    Sabotage("node-sees-its-path", "window:4", machinery.sibling_visible),
    Sabotage("cache-equals-ar", "budget", machinery.wrong_row_kept),
    Sabotage("cache-equals-ar", "budget", machinery.rejected_rows_kept),
    Sabotage("cache-equals-ar", "budget", machinery.rotating_rollback),
    Sabotage("cache-equals-ar", "budget", machinery.coarse_tree_pass),
    Sabotage("stops-in-time", "budget", machinery.past_the_end),
    Sabotage("requests-are-independent", "ngram", machinery.strategies_kept),
    Sabotage("branches-drafted-alone", drafters.SharedBranch),
    Sabotage("drafts-from-committed-only", drafters.KeepsRejected),
    Sabotage("drafts-from-committed-only", drafters.RemembersRejected),
    Sabotage("drafts-from-committed-only", drafters.ForgetsTheRoot),
    Sabotage("requests-are-independent", drafters.LearnsForEver),
    Sabotage("repeats-exactly", drafters.TossesForTokens),
    Sabotage("padded-vocabularies-fit", drafters.OwnVocabulary),
    Sabotage("padded-vocabularies-fit", drafters.RefusesPadding),
    Sabotage("candidates-in-order", drafters.RawLogits),
    Sabotage("candidates-in-order", drafters.LikeliestLast),
    Sabotage("candidates-in-order", drafters.MoreThanAsked),
    Sabotage("candidates-in-order", drafters.ChangesTheTree),
    Sabotage("tokens-equal-ar", drafters.Silent, caught="inconclusive"),
    Sabotage("trees-within-budget", shapers.OverBudget),
    Sabotage("trees-within-budget", shapers.AnotherRoot),
    Sabotage("any-answer-grows-a-tree", shapers.Orphans),
    Sabotage("any-answer-grows-a-tree", shapers.ExpectsCandidates),
    Sabotage("any-answer-grows-a-tree", shapers.AsksOn),
    Sabotage("requests-are-independent", shapers.KeepsState),
    Sabotage("repeats-exactly", shapers.TossesForDepth),
    Sabotage("keeps-the-first-draws", shapers.PrunesInSecret),
    Sabotage("accepts-what-ar-says", verifiers.OneTooMany),
    Sabotage("tokens-equal-ar", verifiers.OneTooMany),
    Sabotage("accepts-what-ar-says", verifiers.BonusOfTheRoot),
    Sabotage("accepts-what-ar-says", verifiers.ForgetsAncestors),
    Sabotage("accepts-what-ar-says", verifiers.TiesToTheLast),
    Sabotage("accepts-what-ar-says", verifiers.NoiseByNode),
    Sabotage("tokens-equal-ar", verifiers.NoiseByNode),
    Sabotage("tokens-equal-ar", verifiers.DrawsAnew),
    Sabotage("law-is-the-targets", verifiers.BonusFromTheLaw),
    Sabotage("law-is-the-targets", verifiers.ForgetsRejections),
    Sabotage("law-is-the-targets", verifiers.AcceptsMore),
    Sabotage("law-is-the-targets", verifiers.AtTemperatureOne),
    Sabotage("law-is-the-targets", verifiers.OneRandomNumber),
    Sabotage("law-is-the-targets", verifiers.KeepsTheLaw),
    Sabotage("law-is-the-targets", verifiers.ReusesUniforms),
    Sabotage("law-is-the-targets", verifiers.ResidualByLogarithms),
    Sabotage("law-is-the-targets", verifiers.LongestSurvivor),
    Sabotage("siblings-in-any-order", verifiers.FirstChildOnly),
    Sabotage("judges-without-memory", verifiers.Cautious),
    Sabotage("judges-without-memory", verifiers.Scribbles),
    Sabotage("judges-without-memory", verifiers.TossesForTies),
    Sabotage("node-sees-its-path", policies.CountsFromTheNewest),
    Sabotage("visible-by-position-alone", policies.CountsFromTheNewest),
    Sabotage("visible-by-position-alone", policies.Fades),
    Sabotage("visible-by-position-alone", policies.Weighs),
    Sabotage("sees-at-most-its-budget", policies.TwiceItsBudget),
    Sabotage("hidden-stays-hidden", policies.SeesAgain),
    Sabotage("tokens-equal-ar", policies.HidesNothing, caught="inconclusive"),
    Sabotage("schedule-does-not-matter", H2O, eviction.rejected_nodes_score),
    Sabotage("schedule-does-not-matter", H2O, eviction.evicts_per_pass),
    Sabotage("schedule-does-not-matter", H2O, eviction.clock_counts_passes),
    Sabotage("schedule-does-not-matter", H2O, eviction.lag_ignored),
    Sabotage("schedule-does-not-matter", KNORM, eviction.ties_by_chance),
    Sabotage("protected-rows-stay", H2O, eviction.budget_off_by_one),
    Sabotage("protected-rows-stay", H2O, eviction.recent_evicted),
    Sabotage("requests-are-independent", eviction.RemembersScores),
    Sabotage("scores-are-probabilities", cascades.SumOfLogprobs),
    Sabotage("stops-alike-again", cascades.TossesToStop),
    Sabotage("answers-every-prompt", cascades.KnowsTwoStages),
    Sabotage("answers-every-prompt", cascades.SaysNothing),
    Sabotage("quality-rises-with-lambda", cascades.TurnedLambda),
    Sabotage("grades-are-read-of-stages-that-ran", cascades.ReadsTheLastGrade),
)
