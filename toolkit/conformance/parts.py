"""Properties of one part at a time: what a drafter, a shaper, a verifier, a policy owes by itself."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from math import exp, inf, log

import attrs
import torch
from torch import Tensor

from toolkit.choice import options_of
from toolkit.conformance.nodes import level, path_to
from toolkit.conformance.properties import Broken
from toolkit.interfaces import Drafter, MaskPolicy, TreeShaper, Verifier
from toolkit.tree import Candidates, TokenTree, Verdict

PATIENCE = 1000  # questions in one `grow`, after which it will not end


def candidates_in_order(drafter: Drafter, tree: TokenTree, k: int, vocabulary: int) -> None:
    """Candidates are at most k known tokens a node, likeliest first and together at most certain;
    the tree that was shown stays as it is."""
    before = attrs.astuple(tree)
    for depth in range(tree.depth + 1):
        frontier = level(tree, depth)
        answer = drafter.expand(tree, frontier, k)
        _row_by_row(answer, len(frontier), k)
        for tokens, logprobs in zip(answer.tokens, answer.logprobs, strict=True):
            _in_order(tokens, logprobs, vocabulary)
    if attrs.astuple(tree) != before:
        raise Broken("the tree was changed: its lists are shared, make your own")


def _row_by_row(answer: Candidates, count: int, k: int) -> None:
    """One row of tokens and one of log-probabilities a node, equally long, and at most k."""
    if not all(isinstance(row, list) for row in (*answer.tokens, *answer.logprobs)):
        raise Broken("a row of candidates is no list: `tolist()` what is a tensor")
    tokens, logprobs = [*map(len, answer.tokens)], [*map(len, answer.logprobs)]
    if tokens != logprobs or len(tokens) != count:
        raise Broken(
            f"{count} nodes were asked about; the answer has rows of {tokens} tokens and of "
            f"{logprobs} log-probabilities"
        )
    if max(tokens) > k:
        raise Broken(f"{max(tokens)} candidates a node, {k} asked for")


def _in_order(tokens: list[int], logprobs: list[float], vocabulary: int) -> None:
    shown = f"tokens {tokens}, log-probabilities {[round(p, 3) for p in logprobs]}"
    given = [(t, p) for t, p in zip(tokens, logprobs, strict=True) if p != -inf]
    if not all(p <= 1e-6 for _, p in given):  # NaN is not either
        raise Broken(f"a log-probability above 0: {shown}")
    if any(not 0 <= t < vocabulary for t, _ in given):
        raise Broken(f"a token that is not below {vocabulary}, the target's vocabulary: {shown}")
    if logprobs != sorted(logprobs, reverse=True):
        raise Broken(f"not likeliest first: {shown}")
    total = sum(map(exp, dict(reversed(given)).values()))
    if total > 1.001:
        raise Broken(f"probabilities that add up to {total:.3g}: {shown}")


@attrs.define
class Answers:
    """`expand` without a drafter: K candidates by `widths` in turn, then none; tokens by `seed`.

    `gaps` leaves slots without a candidate, or rows of different lengths.
    """

    widths: Sequence[int]
    seed: int
    gaps: bool = True
    questions: list[tuple[list[int], int]] = attrs.field(factory=list)
    proposed: int = 0

    def __call__(self, tree: TokenTree, frontier: list[int], k: int) -> Candidates:
        nodes, count = list(frontier), len(self.questions)
        if nodes != sorted(set(nodes)) or any(not 0 <= n < len(tree) for n in nodes) or k < 1:
            raise Broken(
                f"asked for {k} candidates after nodes {nodes} of {len(tree)}: a frontier is ascending "
                f"node ids, and k at least 1"
            )
        if count >= PATIENCE:
            raise Broken(f"{PATIENCE} questions, and `grow` does not end")
        self.questions.append((nodes, k))
        width = min(k, self.widths[count]) if count < len(self.widths) else 0
        rng = random.Random(f"{self.seed} {count}")
        logprobs = self._logprobs(rng, len(nodes), width)
        self.proposed += sum(logprob > -inf for row in logprobs for logprob in row)
        return Candidates([[rng.randrange(7) for _ in row] for row in logprobs], logprobs)

    def _logprobs(self, rng: random.Random, count: int, width: int) -> list[list[float]]:
        """Log-probabilities [count][≤width], descending; some rows leave room for other tokens."""
        weights, other = [0, 1, 1, 2, 9][not self.gaps :], rng.choice([0, 1])
        shares = [sorted(rng.choices(weights, k=width), reverse=True) for _ in range(count)]
        if self.gaps and rng.choice([True, False]):
            shares = [[share for share in row if share] for row in shares]
        return [
            [log(share / (sum(row) + other)) if share else -inf for share in row] for row in shares
        ]


def any_answer_grows_a_tree(
    shaper: TreeShaper, steps: Sequence[tuple[Sequence[int], int]]
) -> list[TokenTree]:
    """Whatever the drafter answers, nothing included, a shaper ends with a tree on its root and
    within its budget; returns the trees."""
    trees = []
    for widths, seed in steps:
        root = TokenTree.root(seed % 7)
        tree = shaper.grow(root, Answers(widths, seed))
        if not tree.sound() or tree.tokens[0] != root.tokens[0]:
            raise Broken(f"parents {tree.parents} are no tree on the root that was given")
        if len(tree) > shaper.nodes:
            raise Broken(f"{len(tree)} nodes, {shaper.nodes} declared, the root among them")
        path = path_to(tree, random.Random(seed).randrange(len(tree)))
        shaper.observe(tree, Verdict(path, seed % 5))
        trees.append(tree)
    return trees


def draws_are_all_kept(make: Callable[[], TreeShaper], widths: Sequence[int]) -> int:
    """A shaper that declares `prunes = False` keeps every candidate and asks the same questions,
    whatever the candidates turn out to be; returns how many there were."""
    asked, first = [], 0
    for seed in (1, 2):
        answers = Answers(widths, seed, gaps=False)
        tree = make().grow(TokenTree.root(0), answers)
        asked.append((answers.questions, tree.parents))
        first = answers.proposed
        if len(tree) - 1 != answers.proposed:
            raise Broken(f"{answers.proposed} candidates came, {len(tree) - 1} became nodes")
    if asked[0] != asked[1]:
        raise Broken("other candidates, and it asked or kept otherwise: it looks at what it draws")
    return first


def siblings_in_any_order(
    verifier: Verifier, tree: TokenTree, logits: Tensor, rng: random.Random
) -> None:
    """A tree and the same tree with its nodes in another order commit the same tokens."""
    order = _shuffled(tree, rng)
    where = {old: new for new, old in enumerate(order)}
    mirror = TokenTree(
        [tree.tokens[old] for old in order],
        [where.get(tree.parents[old], -1) for old in order],
        [tree.depths[old] for old in order],
        [tree.logprobs[old] for old in order],
        [tree.path_logprobs[old] for old in order],
    )
    ours = verifier.judge(tree, logits, torch.Generator())
    theirs = verifier.judge(mirror, logits[order], torch.Generator())
    said = [*(tree.tokens[node] for node in ours.path), ours.bonus]
    mirrored = [*(mirror.tokens[node] for node in theirs.path), theirs.bonus]
    if said != mirrored:
        raise Broken(f"commits {said}, in another order {mirrored}; parents {tree.parents}")


def _shuffled(tree: TokenTree, rng: random.Random) -> list[int]:
    """Node ids in another order that still has parents first."""
    order, waiting = [0], list(range(1, len(tree)))
    while waiting:
        pick = rng.choice([n for n in waiting if tree.parents[n] in order])
        order.append(pick)
        waiting.remove(pick)
    return order


def judges_without_memory(
    make: Callable[[], Verifier], cases: Sequence[tuple[TokenTree, Tensor]]
) -> None:
    """A verdict depends on the tree, the logits and the generator alone, and changes nothing that it
    was shown."""
    used = make()
    for tree, logits in cases:
        before = attrs.astuple(tree), logits.clone()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            ours = used.judge(tree, logits, torch.Generator().manual_seed(3))
        if attrs.astuple(tree) != before[0] or not torch.equal(logits, before[1]):
            raise Broken("judging changed the tree or the logits: they are shared, make your own")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            fresh = make().judge(tree, logits, torch.Generator().manual_seed(3))
        if attrs.astuple(ours) != attrs.astuple(fresh):
            raise Broken(
                f"path {ours.path} and bonus {ours.bonus}; judged afresh, path {fresh.path} and "
                f"bonus {fresh.bonus}"
            )


def visible_by_position_alone(make: Callable[[], MaskPolicy], queries: Tensor, keys: Tensor) -> int:
    """What a query sees depends on its position and the key's, on nothing else that is asked with
    them or was asked before; returns how many of the keys are hidden."""
    used = make()
    table = used.visible(queries[:, None], keys[None, :])
    if table.dtype != torch.bool or table.shape != (len(queries), len(keys)):
        raise Broken(
            f"{table.dtype} of shape {[*table.shape]}; {len(queries)} queries and {len(keys)} keys "
            f"want torch.bool of shape {[len(queries), len(keys)]}"
        )
    for row, query in enumerate(queries.tolist()):
        for column, key in enumerate(keys.tolist()):
            alone = bool(make().visible(torch.tensor([[query]]), torch.tensor([[key]])))
            if alone != bool(table[row, column]) and key < query:
                raise Broken(
                    f"position {query} {'sees' if alone else 'does not see'} {key} when asked alone, "
                    f"and the reverse among queries {queries.tolist()} and keys {keys.tolist()}"
                )
    again = used.visible(queries[:, None], keys[None, :])
    if not torch.equal(again, table):
        raise Broken(f"asked twice, answered otherwise: queries {queries.tolist()}")
    return int((~table & (keys[None, :] < queries[:, None])).sum())


def sees_at_most_its_budget(policy: MaskPolicy, length: int) -> int:
    """No query sees more positions than the option `budget` says, itself included; returns how many
    pairs are hidden."""
    seen, past = _table(policy, length)
    budget = budget_of(policy)
    worst = int(seen.sum(1).argmax())
    if budget is not None and int(seen[worst].sum()) > budget:
        raise Broken(f"position {worst} sees {int(seen[worst].sum())} positions, budget {budget}")
    return int((past & ~seen).sum())


def hidden_stays_hidden(policy: MaskPolicy, length: int) -> int:
    """A position that one query does not see, no later query sees, because it may be freed; returns
    how many pairs are hidden."""
    seen, past = _table(policy, length)
    again = past & seen & ((past & ~seen).cumsum(0) > 0)
    again &= ~torch.eye(length, dtype=torch.bool)
    if bool(again.any()):
        query, key = again.nonzero()[0].tolist()
        raise Broken(f"position {query} sees {key}, which an earlier one did not")
    return int((past & ~seen).sum())


def hidden_pairs(policy: MaskPolicy, length: int) -> int:
    """How many earlier positions are hidden from the `length` first queries."""
    seen, past = _table(policy, length)
    return int((past & ~seen).sum())


def _table(policy: MaskPolicy, length: int) -> tuple[Tensor, Tensor]:
    """What each of the first positions sees, and what is not after it: bool [length, length]."""
    positions = torch.arange(length)
    past = positions[None, :] <= positions[:, None]
    visible = policy.visible(positions[:, None], positions[None, :])
    return (visible | torch.eye(length, dtype=torch.bool)) & past, past


def budget_of(policy: MaskPolicy) -> int | None:
    """The option `budget` of a policy, where it has one."""
    named = any(f.name == "budget" for f in options_of(type(policy)))
    return getattr(policy, "budget", None) if named else None
