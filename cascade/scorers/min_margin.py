"""The smallest margin of the answer."""

from __future__ import annotations

from math import exp

import attrs

from toolkit import Evidence, Scorer


@attrs.define(eq=False)
class MinMargin(Scorer):
    """Least margin: 1 − exp(−m) of the smallest margin m between the first and the second likeliest
    token, in log-probability."""

    name = "min-margin"

    def score(self, answer: Evidence) -> float:
        return 1 - exp(-min(answer.margins)) if answer.margins else 0.0
