"""Trust: how often the target accepts what the drafter finds likely, learned from verdicts."""

from __future__ import annotations

import json
from math import exp, inf, log
from pathlib import Path

import attrs
import numpy as np
from numpy.typing import NDArray

from toolkit.files import open_atomically
from toolkit.tree import TokenTree, Verdict

Floats = NDArray[np.float64]
Judged = tuple[
    float, bool, bool
]  # a node: its log-probability, whether first child, whether accepted

CLIP = 1e-4  # a drafter's probabilities are clipped to this and to 1 minus this
MEMORY = 0.99  # weight of earlier nodes in the fit, per node judged
LEARN_EVERY = 8  # verdicts per update, because each update has a fixed cost
WEIGHTS_MIN = np.array([-30.0, 0.1, 0.0])  # b > 0 and c ≥ 0: a likelier or first child is no worse
WEIGHTS_MAX = np.array([30.0, 30.0, 30.0])
FILE_KIND = "planned:trust, 2"  # marks trust files


@attrs.define(eq=False)
class Trust:
    """The probability of acceptance where the drafter says q: σ(a + b·logit q, + c for a first child).

    1 / b is the temperature at which the drafter's law should be read. Fitted by Newton steps with a
    memory of about 100 nodes. At the start a = 0, b = 1 and c = 1: a greedy target does not draw, so it
    accepts the drafter's first choice more often than q says.
    """

    _weights: list[float] = attrs.field(factory=lambda: [0.0, 1.0, 1.0])
    _prior: Floats = attrs.field(factory=lambda: np.diag([1.0, 8.0, 1.0]))
    _precision: Floats = attrs.field(factory=lambda: np.diag([1.0, 8.0, 1.0]))
    _unlearned: list[tuple[TokenTree, Verdict]] = attrs.field(init=False, factory=list)

    def __call__(self, above: float, logprobs: list[float], least: float) -> list[float]:
        """Worths of a node's candidates, likeliest first, down to `least`; `above`: its own."""
        a, b, c = self._weights
        against, likely = exp(-a), least / above
        first, found = exp(-a - c), list[float]()
        for logprob in logprobs:
            q = _clip_probability(logprob)
            accepted = 1 / (1 + (against if found else first) * (1 / q - 1) ** b)
            if not accepted >= likely or logprob == -inf:
                break
            found.append(above * accepted)
        return found

    def observe(self, tree: TokenTree, verdict: Verdict, *, at_once: bool = False) -> bool:
        """Keep a step, and learn from all that were kept when they are eight, or at once. Whether it
        has learned."""
        if len(tree) > 1:
            self._unlearned.append((tree, verdict))
        if not self._unlearned or (len(self._unlearned) < LEARN_EVERY and not at_once):
            return False
        self.learn([node for step in self._unlearned for node in _list_judged(*step)])
        self._unlearned = []
        return True

    def learn(self, judged: list[Judged]) -> None:
        """Update the weights by nodes whose parents were accepted."""
        rows = np.array([(1.0, _logit(logprob), first) for logprob, first, _ in judged])
        expected = 0.5 + 0.5 * np.tanh(0.5 * rows @ self._weights)
        doubt = (rows * (expected * (1 - expected))[:, None]).T @ rows
        kept = MEMORY ** len(rows)
        self._precision = kept * self._precision + (1 - kept) * self._prior + doubt
        error = np.array([accepted for *_, accepted in judged]) - expected
        step = np.linalg.solve(self._precision, rows.T @ error)
        self._weights = np.clip(self._weights + step, WEIGHTS_MIN, WEIGHTS_MAX).tolist()

    @classmethod
    def read(cls, path: Path) -> Trust:
        """Read what `write` wrote. Raises `ValueError` for any other file."""
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            weights, precision = np.array(kept["weights"]), np.array(kept["precision"])
            np.linalg.cholesky(precision)  # raises unless it is positive definite, as updates need
            finite = np.isfinite(weights).all() and np.isfinite(precision).all()
            fits = weights.shape == (3,) and precision.shape == (3, 3)
            held = ((weights >= WEIGHTS_MIN) & (weights <= WEIGHTS_MAX)).all()
            if not (kept["kind"] == FILE_KIND and finite and fits and held):
                raise ValueError(kept["kind"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"trust={path} is damaged, or no file that `planned` wrote: remove it or name another"
            ) from error
        return cls(weights.tolist(), precision=precision)

    def write(self, path: Path) -> None:
        """Write to a file atomically: a process that reads it meanwhile sees the old contents."""
        state = {
            "kind": FILE_KIND,
            "weights": self._weights,
            "precision": self._precision.tolist(),
        }
        with open_atomically(path, sync=False) as file:  # so often that fsync is too slow
            file.write(json.dumps(state).encode())


def _clip_probability(logprob: float) -> float:
    """The probability, clipped so that it is neither 0 nor 1."""
    return min(max(exp(min(logprob, 0.0)), CLIP), 1 - CLIP)


def _logit(logprob: float) -> float:
    q = _clip_probability(logprob)
    return log(q / (1 - q))


def _list_judged(tree: TokenTree, verdict: Verdict) -> list[Judged]:
    """List the nodes whose parents were accepted."""
    accepted, parents = set(verdict.path), tree.parents
    return [
        (tree.logprobs[node], parents[node] != parents[node - 1], node in accepted)
        for node in range(1, len(tree))
        if parents[node] in accepted
    ]
