"""Proposer: makes candidates of a drafter's logits, in the way that the verifier's proof covers."""

from __future__ import annotations

from math import exp, log
from typing import TYPE_CHECKING, Literal

from attrs import evolve, field, frozen

from toolkit.likeliest import MOST, likeliest
from toolkit.logits_processing import PathProcessor
from toolkit.randomness import make_generator, noise_of
from toolkit.sampling import Sampling, invert
from toolkit.transfer import fetch, send
from toolkit.tree import Candidates, TokenTree

if TYPE_CHECKING:
    from torch import Tensor

Proposal = Literal["fixed", "sampled", "iid"]
"""How children are chosen: deterministically; drawn without replacement; drawn with replacement."""

LEAST = 1e-290  # what is less likely is never drawn: the precision of float64 ends near 1e-308

UNLIKELY = -1e30  # a logit; −inf for all tokens that a processor leaves would be no law


@frozen
class Proposer:
    """Makes the candidates of one request.

    `sampling` and `seed` are the request's. `how` is a proposal that the verifier's proof covers, or
    `matched` for a verifier that accepts the token that AR draws with this seed: the likeliest tokens
    after the noise of that very draw. So a drafter that agrees with the target proposes the drawn token
    (a coupling by common Gumbel noise; Daliri, Musco and Suresh 2025). `process` has the request's
    logits processors, which change the drafter's logits as they change the target's.
    """

    how: Literal[Proposal, "matched"] = "fixed"
    sampling: Sampling = Sampling()
    seed: int = 0
    process: PathProcessor = field(factory=PathProcessor)

    def candidates(
        self,
        tree: TokenTree,
        frontier: list[int],
        logits: Tensor,
        k: int,
        *,
        position: int,
        vocabulary: int,
        temperature: float = 0.0,
        fixed: int = 0,
    ) -> Candidates:
        """Up to `k` candidates after each of `frontier[F]`, by a drafter's `logits[F, ≤ V]`.

        `position` is the root's, `vocabulary` the target's V. Tokens are drawn at `temperature` (0: the
        target's); the `fixed` likeliest are chosen deterministically.
        """
        import torch

        if self.process.processor is not None:
            unknown = vocabulary - logits.shape[1]  # tokens that only the target knows
            wide = torch.nn.functional.pad(logits, (0, unknown), value=UNLIKELY)
            logits = self.process(tree, frontier, wide)
        if self.sampling.greedy or self.how == "fixed":
            return Candidates.top(logits, k)
        sampling = evolve(self.sampling, temperature=temperature) if temperature else self.sampling
        if self.how == "matched":
            positions = [position + tree.depths[node] + 1 for node in frontier]
            return _match(sampling, self.seed, positions, logits, k, vocabulary)
        laws = torch.softmax(sampling.scores(logits), -1, dtype=torch.double)
        torch.nn.functional.threshold(laws, LEAST, 0.0, inplace=True)
        if vocabulary > laws.shape[1]:  # tokens that only the target knows
            laws = torch.nn.functional.pad(laws, (0, vocabulary - laws.shape[1]))
        keys = [f"draft {self.seed} {position} {tree.path_tokens(node)[::-1]}" for node in frontier]
        uniforms = 1.0 - torch.stack(
            [torch.rand(k, k, dtype=torch.double, generator=make_generator(key)) for key in keys]
        )
        (uniforms,) = send(laws.device, uniforms)
        if self.how == "sampled":
            return Candidates.draw(laws, uniforms, fixed)
        tokens = invert(laws, uniforms[:, 0])
        drawn, logprobs = fetch(tokens, laws.gather(1, tokens).log())
        return Candidates(drawn.tolist(), logprobs.tolist(), laws)


def _match(
    sampling: Sampling, seed: int, positions: list[int], logits: Tensor, k: int, vocabulary: int
) -> Candidates:
    """The `k` likeliest tokens at `positions[F]` after the target's noise, by `logits[F, ≤ V]`.

    Where some tokens cannot be drawn, they are the likeliest of the `MOST` that are so without noise.
    """
    import torch

    device, width = logits.device, logits.shape[1]
    at = {place: noise_of(seed, place, vocabulary, device) for place in {*positions}}
    noise = at[positions[0]] if len(at) == 1 else torch.stack([at[place] for place in positions])
    if not sampling.excludes:
        return Candidates(*likeliest(logits, min(k, width), noise, sampling.temperature))
    highest, ids = logits.topk(min(MOST, width))
    found = fetch(highest, ids, noise.expand(len(logits), -1).gather(1, ids))
    lists = (part.tolist() for part in found)
    rows = [_order(sampling, k, *row) for row in zip(*lists, strict=True)]
    return Candidates([tokens for tokens, _ in rows], [logprobs for _, logprobs in rows])


def _order(
    sampling: Sampling, k: int, logits: list[float], ids: list[int], noise: list[float]
) -> tuple[list[int], list[float]]:
    """The `k` likeliest tokens after the noise, of those that can be drawn, and log-probabilities; by
    the likeliest ones' logits in descending order."""
    kept = logits[: sampling.count_kept(logits)]
    noisy = [logit + sampling.temperature * g for logit, g in zip(kept, noise, strict=False)]
    order = sorted(range(len(kept)), key=noisy.__getitem__, reverse=True)
    highest = noisy[order[0]]
    total = highest + log(sum(exp(each - highest) for each in noisy))
    return [ids[i] for i in order[:k]], [noisy[i] - total for i in order[:k]]
