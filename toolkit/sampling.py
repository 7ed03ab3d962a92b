"""Sampling: the settings of the target's sampling. Sampler: the law and random numbers of one step."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from itertools import pairwise
from math import exp, inf, isfinite
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from toolkit.errors import SpecError
from toolkit.likeliest import likeliest_and_margins, margin
from toolkit.randomness import add_noise, draw_noisy, make_generator, noise_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LOWEST = 1e-5  # logits over a lower temperature may be too large for float32
FEW = 128  # likeliest tokens, among which `top_p` mostly ends
CLOSE = 1e-6  # probabilities that differ by less, relatively, may be equal but for rounding
DOUBT = 1e-4  # more than sums of float32 probabilities are off


@frozen
class Sampling:
    """How the target's next token follows from its logits.

    At temperature 0 it is the most likely one. Otherwise it is drawn from the softmax of the logits
    after transformers' processors, in their order: `temperature` divides them; `top_k` keeps the k
    highest (0: all); `top_p` keeps the most likely tokens that together have probability `top_p`, and
    at least one (1: all); `min_p` keeps tokens that have at least `min_p` times the highest
    probability (0: all). Raises `SpecError` for values out of range.
    """

    temperature: float = field(default=0.0, converter=float)
    top_k: int = field(default=0)
    top_p: float = field(default=1.0, converter=float)
    min_p: float = field(default=0.0, converter=float)

    @temperature.validator
    def _require_temperature(self, _: object, value: float) -> None:
        if not isfinite(value) or (value != 0 and value < LOWEST):
            raise SpecError(
                f"temperature={value}: expected 0 (greedy) or a finite number from {LOWEST} up"
            )

    @top_k.validator
    def _require_count(self, _: object, value: int) -> None:
        if not isinstance(value, int) or value < 0:
            raise SpecError(
                f"top_k={value}: expected a whole number, at least 1, or 0 for all tokens"
            )

    @top_p.validator
    def _require_share(self, _: object, value: float) -> None:
        if not 0 < value <= 1:
            raise SpecError(f"top_p={value}: expected a number above 0 and at most 1")

    @min_p.validator
    def _require_fraction(self, _: object, value: float) -> None:
        if not 0 <= value <= 1:
            raise SpecError(f"min_p={value}: expected a number from 0 to 1")

    def __attrs_post_init__(self) -> None:
        for name, nothing in (("top_k", 0), ("top_p", 1), ("min_p", 0)):
            if self.greedy and getattr(self, name) != nothing:
                raise SpecError(
                    f"{name}={getattr(self, name)} changes nothing at temperature 0: give a "
                    f"temperature above 0, too, or leave it out"
                )

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken and nothing is drawn."""
        return self.temperature == 0

    @classmethod
    def settle(cls, given: Sampling | Mapping[str, Any] | None) -> Sampling | dict[str, Any]:
        """A `Sampling` where that needs no model: it is given, or the temperature is 0. Otherwise the
        settings that replace a model's own, checked. Raises `SpecError`."""
        if isinstance(given, Sampling):
            return given
        settings = dict(given or {})
        if settings.get("temperature") == 0:
            return cls(**settings)
        cls(**{"temperature": 1.0, **settings})
        return settings

    @property
    def excludes(self) -> bool:
        """Whether some tokens cannot be drawn."""
        return bool(self.top_k or self.top_p < 1 or self.min_p)

    def scores(self, logits: Tensor) -> Tensor:
        """What the processors make of `logits[R, V]`: float32 (float64 for float64), −inf where a
        token cannot be drawn. The law is their softmax. For temperatures above 0."""
        scores = logits if logits.dtype.itemsize > 4 else logits.float()
        scores = scores / self.temperature
        if self.top_k:
            least = scores.topk(min(self.top_k, scores.shape[-1])).values[..., -1:]
            scores = scores.masked_fill(scores < least, -inf)
        if self.top_p < 1:
            scores = scores.masked_fill(self._beyond_top_p(scores), -inf)
        if self.min_p:
            shares = scores.softmax(-1)
            least = self.min_p * shares.amax(-1, keepdim=True)
            scores = scores.masked_fill(shares < least, -inf)
        return scores

    def surely_keeps(self, logits: Tensor, token: int) -> bool:
        """Whether a token can be drawn after `logits[V]` beyond doubt. False where only `scores`, which
        may take longer, can tell. For temperatures above 0."""
        import torch

        shares = (logits.float() / self.temperature).softmax(-1)
        share, least, whole = float(shares[token]), 0.0, 1.0
        if self.top_k:
            few = shares.topk(min(self.top_k, len(shares))).values
            least, whole = float(few[-1]), float(few.sum())
        if self.min_p:
            least = max(least, self.min_p * float(shares.max()))
        likelier = torch.nn.functional.threshold(shares, share * (1 - CLOSE), 0.0)  # or as likely
        before = float(likelier.sum()) - share
        return share >= least * (1 + CLOSE) and before < self.top_p * whole - DOUBT

    def count_kept(self, logits: list[float]) -> int:
        """How many of the likeliest tokens can be drawn, by their logits in descending order, as if
        there were no others. For temperatures above 0."""
        highest = logits[0]
        weights = [exp((each - highest) / self.temperature) for each in logits[: self.top_k or None]]
        room = self.top_p * sum(weights)
        for count, weight in enumerate(weights):
            if room <= 0 or weight < self.min_p:
                return count
            room -= weight
        return len(weights)

    def _beyond_top_p(self, scores: Tensor) -> Tensor:
        """Which tokens `top_p` excludes: bool, as `scores[R, V]`. On the CPU the few likeliest tokens
        say so where they leave no doubt of transformers' answer, because its sort takes ten times as
        long; a GPU would have to wait for them."""
        if scores.device.type == "cpu":
            shares = scores.softmax(-1)
            few = shares.topk(min(FEW, shares.shape[-1])).values
            found = [_least_kept(row, self.top_p) for row in few[None].flatten(0, -2).tolist()]
            known = [least for least in found if least is not None]
            if len(known) == len(found):
                return shares < shares.new_tensor(known).view(*few.shape[:-1], 1)
        ascending, order = scores.sort(-1)
        unlikely = ascending.softmax(-1).cumsum(-1) <= 1 - self.top_p
        unlikely[..., -1] = False
        return unlikely.scatter(-1, order, unlikely)

    def __str__(self) -> str:
        """The settings that say something, as `temperature=0.8,top_p=0.9`."""
        return ",".join(
            f"{name}={value:g}"
            for name, value, nothing in (
                ("temperature", self.temperature, None),
                ("top_k", self.top_k, 0),
                ("top_p", self.top_p, 1),
                ("min_p", self.min_p, 0),
            )
            if value != nothing
        )


@frozen(eq=False, slots=False)
class Sampler:
    """The target's law and the random numbers of one step, for a verifier.

    There is one for each step, made from the request's `seed` and the `position` of the tree's root.
    `token` is for verifiers that give AR's tokens: its random numbers depend on the seed and on the
    drawn token's position alone. `accepts` and `draw` are for verifiers that keep AR's distribution:
    every call has a random number of its own.
    """

    sampling: Sampling = field(factory=Sampling)
    seed: int = 0
    position: int = 0  # of the root
    known: tuple[list[int], list[float]] | None = None  # what `likeliest` and `margin` give, by row
    _margins: list[float] = field(init=False, factory=list)  # that `likeliest` found on its way

    @cached_property
    def _generator(self) -> torch.Generator:
        """The generator of `accepts` and `draw`, made at their first call."""
        return make_generator(f"step {self.seed} {self.position}")

    def likeliest(self, logits: Tensor) -> list[int]:
        """The likeliest token after each row of `logits[N, V]`; the lowest id where several are."""
        tokens, self._margins[:] = self.known or likeliest_and_margins(logits)
        return tokens

    def margin(self, logits: Tensor, row: int) -> float:
        """The first logit less the second one in a row of `logits[N, V]`, those that were judged."""
        return self._margins[row] if self._margins else margin(logits[row])

    def law(self, logits: Tensor) -> Tensor:
        """The target's probabilities after `logits[R, V]`: float64 [R, V]."""
        if self.sampling.greedy:
            likeliest = logits.max(-1, keepdim=True).indices
            return logits.new_zeros(logits.shape).double().scatter_(-1, likeliest, 1.0)
        return self.sampling.scores(logits).double().softmax(-1)

    def token(self, logits: Tensor, depth: int) -> int:
        """The token that AR draws from `logits[V]`, those of a node of this depth.

        The argmax of `perturbed`, ties to the lowest id: a draw from the law (the Gumbel-max trick,
        Gumbel 1954). AR perturbs the same logits in the same way, so it draws the same token.
        """
        if self.sampling.greedy:
            return int(logits.max(-1).indices)
        if self.sampling.top_p < 1 and logits.device.type == "cpu":
            token = draw_noisy(logits, self._noise(logits, depth), self.sampling.temperature)
            if self.sampling.surely_keeps(logits, token):  # then it is no matter which others are
                return token
        possible = self._possible(logits)
        return draw_noisy(possible, self._noise(logits, depth), self.sampling.temperature)

    def perturbed(self, logits: Tensor, depth: int) -> Tensor:
        """`logits[V]` of a node of this depth plus temperature times `noise_of`: float64, −inf where a
        token cannot be drawn. Unchanged at temperature 0."""
        if self.sampling.greedy:
            return logits
        noise = self._noise(logits, depth)
        return add_noise(self._possible(logits), noise, self.sampling.temperature)

    def _possible(self, logits: Tensor) -> Tensor:
        """`logits[V]`, −inf where a token cannot be drawn."""
        if not self.sampling.excludes:
            return logits
        return self.sampling.scores(logits) * self.sampling.temperature

    def _noise(self, logits: Tensor, depth: int) -> Tensor:
        return noise_of(self.seed, self.position + depth + 1, len(logits), logits.device)

    def accepts(self, probability: float) -> bool:
        """True with this probability: never at 0, always at 1."""
        return self._uniform() < probability

    def first_accepted(self, shares: list[Tensor]) -> int | None:
        """The first of several, tried in turn, each accepted with its share as probability; None for
        none. `shares` are scalars on the device, which come to the host in one copy."""
        import torch

        known = torch.stack(shares).tolist() if shares else []
        return next((i for i, share in enumerate(known) if self.accepts(share)), None)

    def draw(self, weights: Tensor) -> int:
        """An index, drawn in proportion to `weights[V]`: at least 0, not all of them 0."""
        return int(invert(weights.double(), 1.0 - self._uniform()))

    def _uniform(self) -> float:
        import torch

        return float(torch.rand((), dtype=torch.double, generator=self._generator))


def _least_kept(shares: list[float], top_p: float) -> float | None:
    """The least probability that `top_p` keeps, by the highest ones in descending order; None where
    these do not reach it, or rounding or equal probabilities may decide."""
    likelier = 0.0
    for share, following in pairwise(shares):
        likelier += share
        if likelier > top_p - DOUBT:
            return share if likelier > top_p + DOUBT and following < share else None
    return None


def invert(weights: Tensor, uniforms: Tensor | float) -> Tensor:
    """Indices [R, K], each drawn in proportion to a row of `weights[R, V]` by one of `uniforms[R, K]`.

    Weights are float64, and random numbers in (0, 1], so that no index of weight 0 is drawn unless the
    row has no other. One row alone may be `weights[V]`, with one number; the result is [1].
    """
    import torch

    sums = weights.cumsum(-1)
    return torch.searchsorted(sums, sums[..., -1:] * uniforms)
