"""A logistic regression on what is known of the answer."""

from __future__ import annotations

from math import exp

import attrs
import numpy as np
from attrs.validators import gt

from toolkit import Evidence, Scorer, option
from toolkit.extras import require_extra

FEATURES = ("mean", "least", "tenth", "margin", "least margin", "length", "prompt")


@attrs.define(eq=False)
class Logistic(Scorer):
    """Logistic regression (scikit-learn) on log-probabilities, margins and lengths of the answer,
    fitted to its grades."""

    name = "logistic"
    c: float = option(1.0, help="inverse strength of the L2 penalty", validator=gt(0))
    _weights: list[float] = attrs.field(init=False, factory=lambda: [0.0] * len(FEATURES))
    _means: list[float] = attrs.field(init=False, factory=lambda: [0.0] * len(FEATURES))
    _scales: list[float] = attrs.field(init=False, factory=lambda: [1.0] * len(FEATURES))
    _bias: float = attrs.field(init=False, default=0.0)

    def fit(self, answers: list[Evidence], qualities: list[float]) -> Logistic:
        require_extra("the scorer logistic", "cascade", "sklearn")
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

        good = [quality >= 0.5 for quality in qualities]
        fitted = Logistic(c=self.c)
        if len({*good}) < 2:
            fitted._bias = 9.0 if all(good) else -9.0
            return fitted
        rows = np.array([features_of(answer) for answer in answers])
        scaler = StandardScaler().fit(rows)
        model = LogisticRegression(C=self.c).fit(scaler.transform(rows), good)
        fitted._weights, fitted._bias = model.coef_[0].tolist(), float(model.intercept_[0])
        fitted._means, fitted._scales = scaler.mean_.tolist(), scaler.scale_.tolist()
        return fitted

    def score(self, answer: Evidence) -> float:
        rows = zip(features_of(answer), self._means, self._scales, self._weights, strict=True)
        total = self._bias + sum(w * (x - mean) / scale for x, mean, scale, w in rows)
        return 1 / (1 + exp(-max(min(total, 30.0), -30.0)))


def features_of(answer: Evidence) -> list[float]:
    """The values of `FEATURES`."""
    if not answer.logprobs:
        return [0.0] * len(FEATURES)
    logprobs, margins = np.asarray(answer.logprobs), np.asarray(answer.margins)
    return [
        float(logprobs.mean()),
        float(logprobs.min()),
        float(np.quantile(logprobs, 0.1)),
        float(margins.mean()),
        float(margins.min()),
        float(np.log1p(len(logprobs))),
        float(np.log1p(answer.prompt_tokens)),
    ]
