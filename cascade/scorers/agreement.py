"""Agreement with the answer of the stage before."""

from __future__ import annotations

import attrs

from toolkit import Evidence, Scorer


@attrs.define(eq=False)
class Agreement(Scorer):
    """Agreement: the share of words, F1, that an answer has in common with that of the stage before
    (AutoMix and FrugalGPT use agreement as a signal). The first stage has nothing to agree with: 0."""

    name = "agreement"

    def score(self, answer: Evidence) -> float:
        return answer.agreement or 0.0
