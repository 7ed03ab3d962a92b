"""Properties of one part at a time: what a drafter, a shaper, a verifier, a policy owes by itself."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import attrs
import torch
from torch import Tensor

from toolkit.conformance.properties import Broken
from toolkit.interfaces import Drafter, KVPolicy, TreeShaper, Verifier
from toolkit.spec import options_of
from toolkit.tree import Candidates, TokenTree, Verdict

PATIENCE = 1000  # questions in one `grow`, after which it will not end


def candidates_in_order(drafter: Drafter, tree: TokenTree, k: int, vocabulary: int) -> None:
    """Candidates are at most k known tokens a node, likeliest first and together at most certain;
    the tree that was shown stays as it is."""
    before = [t.clone() for t in _tensors(tree)]
    for level in range(tree.depth + 1):
        frontier = (tree.depths == level).nonzero().flatten()
        answer = drafter.expand(tree, frontier, k)
        tokens, logprobs = answer.tokens, answer.logprobs
        if tokens.shape != logprobs.shape or tokens.ndim != 2 or len(tokens) != len(frontier):
            raise Broken(
                f"{len(frontier)} nodes were asked about; the answer has tokens of shape "
                f"{[*tokens.shape]} and log-probabilities of shape {[*logprobs.shape]}"
            )
        if tokens.shape[1] > k:
            raise Broken(f"{tokens.shape[1]} candidates a node, {k} asked for")
        for row, ps in zip(tokens.tolist(), logprobs.tolist(), strict=True):
            _in_order(row, ps, vocabulary)
    if not all(map(torch.equal, before, _tensors(tree))):
        raise Broken("the tree was changed: its tensors are shared, make your own")


def _in_order(tokens: list[int], logprobs: list[float], vocabulary: int) -> None:
    shown = f"tokens {tokens}, log-probabilities {[round(p, 3) for p in logprobs]}"
    given = [(t, p) for t, p in zip(tokens, logprobs, strict=True) if p != -torch.inf]
    if not all(p <= 1e-6 for _, p in given):  # NaN is not either
        raise Broken(f"a log-probability above 0: {shown}")
    if any(not 0 <= t < vocabulary for t, _ in given):
        raise Broken(f"a token that is not below {vocabulary}, the target's vocabulary: {shown}")
    if logprobs != sorted(logprobs, reverse=True):
        raise Broken(f"not likeliest first: {shown}")
    total = float(torch.tensor(list(dict(reversed(given)).values())).exp().sum())
    if total > 1.001:
        raise Broken(f"probabilities that add up to {total:.3g}: {shown}")


@attrs.define
class Answers:
    """`expand` without a drafter: K candidates by `widths` in turn, then none; tokens by `seed`.

    `gaps` leaves slots without a candidate.
    """

    widths: Sequence[int]
    seed: int
    gaps: bool = True
    questions: list[tuple[list[int], int]] = attrs.field(factory=list)
    proposed: int = 0

    def __call__(self, tree: TokenTree, frontier: Tensor, k: int) -> Candidates:
        nodes, count = frontier.tolist(), len(self.questions)
        if nodes != sorted(set(nodes)) or any(not 0 <= n < len(tree) for n in nodes) or k < 1:
            raise Broken(
                f"asked for {k} candidates after nodes {nodes} of {len(tree)}: a frontier is ascending "
                f"node ids, and k at least 1"
            )
        if count >= PATIENCE:
            raise Broken(f"{PATIENCE} questions, and `grow` does not end")
        self.questions.append((nodes, k))
        width = min(k, self.widths[count]) if count < len(self.widths) else 0
        rng, shape = random.Random(f"{self.seed} {count}"), (len(nodes), width)
        tokens = [rng.randrange(7) for _ in range(len(nodes) * width)]
        weights = [0, 1, 1, 2, 9][not self.gaps :]
        shares = torch.tensor([rng.choice(weights) for _ in tokens]).reshape(shape)
        parts = shares / (shares.sum(1, keepdim=True) + rng.choice([0, 1])).clamp(min=1)
        self.proposed += int((parts > 0).sum())
        order = parts.sort(1, descending=True).values
        return Candidates(torch.tensor(tokens, dtype=torch.long).reshape(shape), order.log())


def any_answer_grows_a_tree(
    shaper: TreeShaper, steps: Sequence[tuple[Sequence[int], int]]
) -> list[TokenTree]:
    """Whatever the drafter answers, nothing included, a shaper ends with a tree on its root and
    within its budget; returns the trees."""
    trees = []
    for widths, seed in steps:
        root = TokenTree.root(torch.tensor(seed % 7))
        tree = shaper.grow(root, Answers(widths, seed))
        if not tree.sound() or int(tree.tokens[0]) != int(root.tokens[0]):
            raise Broken(f"parents {tree.parents.tolist()} are no tree on the root that was given")
        if len(tree) > shaper.nodes:
            raise Broken(f"{len(tree)} nodes, {shaper.nodes} declared, the root among them")
        path = tree.ancestors()[random.Random(seed).randrange(len(tree))].nonzero().flatten()
        shaper.observe(tree, Verdict(path, torch.tensor(seed % 5)))
        trees.append(tree)
    return trees


def draws_are_all_kept(make: Callable[[], TreeShaper], widths: Sequence[int]) -> int:
    """A shaper that declares `prunes = False` keeps every candidate and asks the same questions,
    whatever the candidates turn out to be; returns how many there were."""
    asked, first = [], 0
    for seed in (1, 2):
        answers = Answers(widths, seed, gaps=False)
        tree = make().grow(TokenTree.root(torch.tensor(0)), answers)
        asked.append((answers.questions, tree.parents.tolist()))
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
        tree.tokens[order],
        torch.tensor([where.get(int(tree.parents[old]), -1) for old in order]),
        *(t[order] for t in (tree.depths, tree.logprobs, tree.path_logprobs)),
    )
    ours = verifier.judge(tree, logits, torch.Generator())
    theirs = verifier.judge(mirror, logits[order], torch.Generator())
    said = [*tree.tokens[ours.path].tolist(), int(ours.bonus)]
    mirrored = [*mirror.tokens[theirs.path].tolist(), int(theirs.bonus)]
    if said != mirrored:
        raise Broken(
            f"commits {said}, in another order {mirrored}; parents {tree.parents.tolist()}"
        )


def _shuffled(tree: TokenTree, rng: random.Random) -> list[int]:
    """Node ids in another order that still has parents first."""
    order, waiting = [0], list(range(1, len(tree)))
    while waiting:
        pick = rng.choice([n for n in waiting if int(tree.parents[n]) in order])
        order.append(pick)
        waiting.remove(pick)
    return order


def judges_without_memory(
    make: Callable[[], Verifier], cases: Sequence[tuple[TokenTree, Tensor]]
) -> None:
    """A verdict depends on the tree, the logits and the generator alone, and changes none of the
    tensors that it was shown."""
    used = make()
    for tree, logits in cases:
        before = [t.clone() for t in (*_tensors(tree), logits)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            ours = used.judge(tree, logits, torch.Generator().manual_seed(3))
        if not all(map(torch.equal, before, (*_tensors(tree), logits))):
            raise Broken("judging changed the tree or the logits: they are shared, make your own")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            fresh = make().judge(tree, logits, torch.Generator().manual_seed(3))
        if ours.path.tolist() != fresh.path.tolist() or int(ours.bonus) != int(fresh.bonus):
            raise Broken(
                f"path {ours.path.tolist()} and bonus {int(ours.bonus)}; judged afresh, path "
                f"{fresh.path.tolist()} and bonus {int(fresh.bonus)}"
            )


def visible_by_position_alone(make: Callable[[], KVPolicy], queries: Tensor, keys: Tensor) -> int:
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


def sees_at_most_its_budget(policy: KVPolicy, length: int) -> int:
    """No query sees more positions than the option `budget` says, itself included; returns how many
    pairs are hidden."""
    seen, past = _table(policy, length)
    budget = budget_of(policy)
    worst = int(seen.sum(1).argmax())
    if budget is not None and int(seen[worst].sum()) > budget:
        raise Broken(f"position {worst} sees {int(seen[worst].sum())} positions, budget {budget}")
    return int((past & ~seen).sum())


def hidden_stays_hidden(policy: KVPolicy, length: int) -> int:
    """A position that one query does not see, no later query sees, because it may be freed; returns
    how many pairs are hidden."""
    seen, past = _table(policy, length)
    again = past & seen & ((past & ~seen).cumsum(0) > 0)
    again &= ~torch.eye(length, dtype=torch.bool)
    if bool(again.any()):
        query, key = again.nonzero()[0].tolist()
        raise Broken(f"position {query} sees {key}, which an earlier one did not")
    return int((past & ~seen).sum())


def hidden_pairs(policy: KVPolicy, length: int) -> int:
    """How many earlier positions are hidden from the `length` first queries."""
    seen, past = _table(policy, length)
    return int((past & ~seen).sum())


def _table(policy: KVPolicy, length: int) -> tuple[Tensor, Tensor]:
    """What each of the first positions sees, and what is not after it: bool [length, length]."""
    positions = torch.arange(length)
    past = positions[None, :] <= positions[:, None]
    visible = policy.visible(positions[:, None], positions[None, :])
    return (visible | torch.eye(length, dtype=torch.bool)) & past, past


def budget_of(policy: KVPolicy) -> int | None:
    """The option `budget` of a policy, where it has one."""
    named = any(f.name == "budget" for f in options_of(type(policy)))
    return getattr(policy, "budget", None) if named else None


def is_mask(cls: type) -> bool:
    """Whether a policy is a mask over positions: it says itself what is `visible`."""
    return getattr(cls, "visible", None) is not KVPolicy.visible


def _tensors(tree: TokenTree) -> list[Tensor]:
    return [tree.tokens, tree.parents, tree.depths, tree.logprobs, tree.path_logprobs]
