"""Calibrated scores: a stage's scorer, and a map from its scores to the quality to expect."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import frozen

from toolkit import Evidence, Scorer
from toolkit.extras import require_extra


@frozen(eq=False)
class Calibrated:
    """A fitted scorer and an isotonic map (scikit-learn): `qualities` at rising `scores`, linear
    between them."""

    scorer: Scorer
    scores: list[float]
    qualities: list[float]

    @classmethod
    def fit(cls, scorer: Scorer, answers: list[Evidence], qualities: list[float]) -> Calibrated:
        """Fit both to graded answers of one stage."""
        require_extra("a fitted cascade", "cascade", "sklearn")
        from sklearn.isotonic import IsotonicRegression

        fitted = scorer.fit(answers, qualities)
        model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        model.fit([fitted.score(answer) for answer in answers], qualities)
        return cls(fitted, model.X_thresholds_.tolist(), model.y_thresholds_.tolist())

    def score(self, answer: Evidence) -> float:
        """The expected quality of an answer, in [0, 1]."""
        return float(np.interp(self.scorer.score(answer), self.scores, self.qualities))


def fit_scorers(
    scorer: Scorer, evidence: Sequence[list[Evidence]], qualities: Sequence[list[float]]
) -> list[Calibrated]:
    """Fit a scorer to each stage. `evidence[n][L]` and `qualities[n][L]` are of the fitting prompts."""
    stages = range(len(evidence[0]))
    return [
        Calibrated.fit(scorer, [row[s] for row in evidence], [row[s] for row in qualities])
        for s in stages
    ]
