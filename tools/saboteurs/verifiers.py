"""Broken verifiers."""

from __future__ import annotations

from collections.abc import Iterable

import attrs
import torch
from torch import Tensor

from toolkit.conformance.tree_paths import path_to
from toolkit.interfaces import Verifier
from toolkit.proposer import Proposal
from toolkit.sampling import Sampler, Sampling
from toolkit.tree import TokenTree, Verdict

ANY: frozenset[Proposal] = frozenset({"fixed", "sampled"})


def _right(tree: TokenTree, choice: list[int]) -> set[int]:
    """The root, and the nodes whose token the target says after their parent."""
    nodes = enumerate(zip(tree.tokens, tree.parents, strict=True))
    return {n for n, (token, parent) in nodes if parent < 0 or token == choice[parent]}


def _reached(tree: TokenTree, right: set[int]) -> list[int]:
    """Right nodes whose ancestors are all right."""
    return [node for node in range(len(tree)) if right.issuperset(path_to(tree, node))]


def _deepest(tree: TokenTree, nodes: Iterable[int]) -> int:
    """The deepest of some nodes, the first of equals."""
    return max(sorted(nodes), key=tree.depths.__getitem__)


def _last(tree: TokenTree, choice: list[int]) -> int:
    """The last node of the correct path."""
    return _deepest(tree, _reached(tree, _right(tree, choice)))


@attrs.define
class OneTooMany(Verifier):
    """Also accepts the first child of the last right node, whatever the target says."""

    name = "one-too-many"
    exactness = "greedy"
    assumes = frozenset({"fixed", "sampled"})

    def judge(self, tree: TokenTree, logits: Tensor, sampler: Sampler) -> Verdict:
        choice = logits.argmax(-1).tolist()
        last = _last(tree, choice)
        last = tree.parents.index(last) if last in tree.parents else last
        return Verdict(path_to(tree, last), choice[last])


@attrs.define
class BonusOfTheRoot(Verifier):
    """The bonus token is what the target says after the root, wherever the path ends."""

    name = "bonus-of-the-root"
    exactness = "greedy"
    assumes = ANY

    def judge(self, tree: TokenTree, logits: Tensor, sampler: Sampler) -> Verdict:
        choice = logits.argmax(-1).tolist()
        return Verdict(path_to(tree, _last(tree, choice)), choice[0])


@attrs.define
class ForgetsAncestors(Verifier):
    """Accepts a node that is right after its parent, even if the parent is wrong."""

    name = "forgets-ancestors"
    exactness = "greedy"
    assumes = ANY

    def judge(self, tree: TokenTree, logits: Tensor, sampler: Sampler) -> Verdict:
        choice = logits.argmax(-1).tolist()
        last = _deepest(tree, _right(tree, choice))
        return Verdict(path_to(tree, last), choice[last])


@attrs.define
class TiesToTheLast(Verifier):
    """Takes the last of equal logits, while AR takes the first."""

    name = "ties-to-the-last"
    exactness = "greedy"
    assumes = ANY

    def judge(self, tree: TokenTree, logits: Tensor, sampler: Sampler) -> Verdict:
        choice = (logits.shape[1] - 1 - logits.flip(-1).argmax(-1)).tolist()
        last = _last(tree, choice)
        return Verdict(path_to(tree, last), choice[last])


@attrs.define
class FirstChildOnly(Verifier):
    """Follows only first children, as a verifier for chains does."""

    name = "first-child-only"
    exactness = "greedy"
    assumes = ANY

    def judge(self, tree: TokenTree, logits: Tensor, sampler: Sampler) -> Verdict:
        choice, last = logits.argmax(-1).tolist(), 0
        while last in tree.parents:
            child = tree.parents.index(last)
            if tree.tokens[child] != choice[last]:
                break
            last = child
        return Verdict(path_to(tree, last), choice[last])


@attrs.define
class Cautious(Verifier):
    """Accepts less with every verdict."""

    name = "cautious"
    exactness = "greedy"
    assumes = ANY
    judged: int = 0

    def judge(self, tree: TokenTree, logits: Tensor, sampler: Sampler) -> Verdict:
        self.judged += 1
        choice = logits.argmax(-1).tolist()
        near = {node for node, depth in enumerate(tree.depths) if depth < 4 // self.judged}
        last = _deepest(tree, _reached(tree, _right(tree, choice) & {0, *near}))
        return Verdict(path_to(tree, last), choice[last])


@attrs.define
class Scribbles(Verifier):
    """Changes the logits in place."""

    name = "scribbles"
    exactness = "greedy"
    assumes = ANY

    def judge(self, tree: TokenTree, logits: Tensor, sampler: Sampler) -> Verdict:
        logits -= logits.max(-1, keepdim=True).values
        choice = logits.argmax(-1).tolist()
        last = _last(tree, choice)
        return Verdict(path_to(tree, last), choice[last])


@attrs.define
class TossesForTies(Verifier):
    """Draws among equal logits with the global random generator."""

    name = "tosses-for-ties"
    exactness = "greedy"
    assumes = ANY

    def judge(self, tree: TokenTree, logits: Tensor, sampler: Sampler) -> Verdict:
        choice = (logits + 1e-9 * torch.rand_like(logits)).argmax(-1).tolist()
        last = _last(tree, choice)
        return Verdict(path_to(tree, last), choice[last])


@attrs.define
class NoiseByNode(Verifier):
    """Draws what AR draws, but with noise that is keyed by a node's index instead of its depth."""

    name = "noise-by-node"
    exactness = "token"
    assumes = ANY

    def judge(self, tree: TokenTree, logits: Tensor, sampler: Sampler) -> Verdict:
        choice = [sampler.token(row, node) for node, row in enumerate(logits)]
        last = _last(tree, choice)
        return Verdict(path_to(tree, last), choice[last])


@attrs.define
class DrawsAnew(Verifier):
    """Has the right law, and promises AR's tokens: it draws each with a random number of its own."""

    name = "draws-anew"
    exactness = "token"
    assumes = ANY

    def judge(self, tree: TokenTree, logits: Tensor, sampler: Sampler) -> Verdict:
        choice = [sampler.draw(law) for law in sampler.law(logits)]
        last = _last(tree, choice)
        return Verdict(path_to(tree, last), choice[last])


@attrs.define
class OneByOne(Verifier):
    """Accepts each child with the target's probability of it; the base of verifiers that do more.

    After a child was rejected, its token is excluded (one-hot rejection sampling, as in EAGLE-2).
    """

    name = "one-by-one"
    exactness = "distribution"
    assumes = ANY

    def judge(self, tree: TokenTree, logits: Tensor, sampler: Sampler) -> Verdict:
        path = [0]
        while True:
            law = sampler.law(logits[path[-1]])
            for child in (n for n, parent in enumerate(tree.parents) if parent == path[-1]):
                share = float(law[tree.tokens[child]])
                if self.accepts(sampler, share):
                    path.append(child)
                    break
                law = self.residual(law, tree.tokens[child])
            else:
                return Verdict(path, self.bonus(sampler, law, logits[path[-1]]))

    def accepts(self, sampler: Sampler, share: float) -> bool:
        return sampler.accepts(share)

    def residual(self, law: Tensor, token: int) -> Tensor:
        rest = law.index_fill(0, torch.tensor([token]), 0.0)
        return rest / rest.sum()

    def bonus(self, sampler: Sampler, law: Tensor, logits: Tensor) -> int:
        return sampler.draw(law)


@attrs.define
class BonusFromTheLaw(OneByOne):
    """Rejects a child, and draws the bonus from the target's whole law, the child's token included."""

    name = "bonus-from-the-law"

    def bonus(self, sampler: Sampler, law: Tensor, logits: Tensor) -> int:
        return sampler.draw(sampler.law(logits))


@attrs.define
class ForgetsRejections(OneByOne):
    """Accepts a later sibling with the probability that it had before others were rejected."""

    name = "forgets-rejections"

    def residual(self, law: Tensor, token: int) -> Tensor:
        return law


@attrs.define
class AcceptsMore(OneByOne):
    """Accepts a child more often than the target says it: relaxed acceptance, which is lossy."""

    name = "accepts-more"

    def accepts(self, sampler: Sampler, share: float) -> bool:
        return sampler.accepts(share**0.5)


@attrs.define
class AtTemperatureOne(OneByOne):
    """Judges by the target's law at temperature 1, whatever the temperature is."""

    name = "at-temperature-one"

    def judge(self, tree: TokenTree, logits: Tensor, sampler: Sampler) -> Verdict:
        return OneByOne.judge(self, tree, logits, attrs.evolve(sampler, sampling=Sampling(1.0)))


@attrs.define
class OneRandomNumber(Verifier):
    """Accepts the first child by a random number, and draws the bonus after it by the same one."""

    name = "one-random-number"
    exactness = "distribution"
    assumes = ANY

    def judge(self, tree: TokenTree, logits: Tensor, sampler: Sampler) -> Verdict:
        if len(tree) == 1 or sampler.token(logits[0], 0) != tree.tokens[1]:
            rest = logits[0] if len(tree) == 1 else self._without(logits[0], tree.tokens[1])
            return Verdict([0], sampler.token(rest, 0))
        return Verdict([0, 1], sampler.token(logits[1], 1))

    def _without(self, logits: Tensor, token: int) -> Tensor:
        return logits.index_fill(0, torch.tensor([token]), float("-inf"))


@attrs.define
class InTurn(Verifier):
    """Sampling without replacement, done right; the base of verifiers that do it wrong."""

    name = "in-turn"
    exactness = "distribution"
    assumes = frozenset({"sampled"})

    def judge(self, tree: TokenTree, logits: Tensor, sampler: Sampler) -> Verdict:
        path = [0]
        while True:
            p = sampler.law(logits[path[-1]])
            q = tree.laws.get(path[-1], p)
            for child in (n for n, parent in enumerate(tree.parents) if parent == path[-1]):
                share = float(p[tree.tokens[child]] / q[tree.tokens[child]])
                rest = self.residual(p, q)
                if self.accepts(sampler, share) or not rest.any():
                    path.append(child)
                    break
                p, q = rest / rest.sum(), self.next_law(q, tree.tokens[child])
            else:
                return Verdict(path, sampler.draw(p))

    def accepts(self, sampler: Sampler, share: float) -> bool:
        return sampler.accepts(share)

    def residual(self, p: Tensor, q: Tensor) -> Tensor:
        return (p - q).clamp_min(0)

    def next_law(self, q: Tensor, token: int) -> Tensor:
        rest = q.index_fill(0, torch.tensor([token]), 0.0)
        return rest / rest.sum()


@attrs.define
class KeepsTheLaw(InTurn):
    """SpecInfer's multi-round rule on draws without replacement: the drafter's law stays as it was."""

    name = "keeps-the-law"

    def next_law(self, q: Tensor, token: int) -> Tensor:
        return q


@attrs.define
class ReusesUniforms(InTurn):
    """Accepts every node by one and the same random number."""

    name = "reuses-uniforms"

    def accepts(self, sampler: Sampler, share: float) -> bool:
        law = torch.tensor([max(0.0, 1 - share), min(share, 1.0)], dtype=torch.double)
        return attrs.evolve(sampler, sampling=Sampling(1.0)).token(law.log(), 0) == 1


@attrs.define
class ResidualByLogarithms(InTurn):
    """The residual as exp(log p + log(1 − q/p)) in bfloat16, which cancels."""

    name = "residual-by-logarithms"

    def residual(self, p: Tensor, q: Tensor) -> Tensor:
        p, q = p.bfloat16(), q.bfloat16()
        rest = (p.log() + torch.log1p(-(q / p))).exp()
        return rest.nan_to_num(0.0).double()


@attrs.define
class LongestSurvivor(InTurn):
    """Dynasurge's "enhanced" verification: tries later siblings of an accepted node, too, and keeps the
    longest path that survives; the bonus comes from the residual of that path's end."""

    name = "longest-survivor"

    def judge(self, tree: TokenTree, logits: Tensor, sampler: Sampler) -> Verdict:
        waiting, best, ends = [0], 0, {}
        while waiting:
            node = waiting.pop(0)
            p = sampler.law(logits[node])
            q = tree.laws.get(node, p)
            for child in (n for n, parent in enumerate(tree.parents) if parent == node):
                share = float(p[tree.tokens[child]] / q[tree.tokens[child]])
                if sampler.accepts(share):
                    waiting.append(child)
                    continue
                rest = self.residual(p, q)
                p = rest / rest.sum() if rest.any() else p
                q = self.next_law(q, tree.tokens[child])
            ends[node] = p
            if tree.depths[node] > tree.depths[best]:
                best = node
        return Verdict(path_to(tree, best), sampler.draw(ends[best]))
