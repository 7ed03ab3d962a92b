"""A low quantile of the answer's log-probabilities."""

from __future__ import annotations

from math import exp

import attrs
import numpy as np
from attrs.validators import and_, ge, le

from toolkit import Evidence, Scorer, option


@attrs.define(eq=False)
class QuantileLogprob(Scorer):
    """Quantile of log-probabilities (Gupta et al. 2024): the probability that a share of the answer's
    tokens is below. Few doubtful tokens weigh more than in the mean."""

    name = "quantile-logprob"
    share: float = option(0.1, help="of the tokens", validator=and_(ge(0), le(1)))

    def score(self, answer: Evidence) -> float:
        return exp(float(np.quantile(answer.logprobs, self.share))) if answer.logprobs else 0.0
