"""The mean log-probability of the answer."""

from __future__ import annotations

from math import exp

import attrs

from toolkit import Evidence, Scorer


@attrs.define(eq=False)
class MeanLogprob(Scorer):
    """Mean log-probability: the geometric mean of the probabilities of the answer's tokens."""

    name = "mean-logprob"

    def score(self, answer: Evidence) -> float:
        return exp(sum(answer.logprobs) / len(answer.logprobs)) if answer.logprobs else 0.0
