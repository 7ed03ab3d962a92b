"""decode(): the loop of draft, verify and commit.

AR uses the same loop with a drafter that proposes nothing, so that every tree is only its root.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from time import perf_counter
from types import UnionType
from typing import TYPE_CHECKING, Protocol

from attrs import asdict, define, field, frozen

from toolkit.errors import StrategyError
from toolkit.interfaces import Drafter, Runtime, Session, TreeShaper, Verifier
from toolkit.limits import Limits
from toolkit.logits_processing import PathProcessor
from toolkit.sampling import Sampler, Sampling
from toolkit.strategy_errors import require_type
from toolkit.target_scores import TargetScores
from toolkit.tree import Candidates, TokenTree, Verdict

if TYPE_CHECKING:
    from torch import Tensor


@frozen
class Strategies:
    """The strategy objects of one request."""

    drafter: Drafter
    shaper: TreeShaper
    verifier: Verifier


@frozen
class Step:
    """The record of one pass over the target. Times are wall-clock milliseconds."""

    length: int = field(metadata={"help": "cached length L before the step"})
    nodes: int = field(metadata={"help": "tree size N, root included"})
    depth: int = field(metadata={"help": "depth of the deepest node"})
    accepted: int = field(metadata={"help": "drafted tokens accepted"})
    committed: int = field(metadata={"help": "tokens emitted: accepted drafts and the bonus"})
    draft_ms: float = field(
        metadata={
            "help": "time in the drafter, in the first step with its prefill; else 0 in a step that "
            "ran as one graph, whose time is in verify_ms"
        }
    )
    shape_ms: float = field(metadata={"help": "time in the shaper, without the drafter"})
    verify_ms: float = field(
        metadata={
            "help": "time of the target's forward and the verifier; in a step that ran as one graph, "
            "of the drafter as well. Of a step that began before it was asked for: the wait for it, "
            "and what it ran while the caller did something else"
        }
    )
    commit_ms: float = field(
        metadata={"help": "time of committing the accepted path, and of feedback"}
    )
    margin: float = field(
        metadata={"help": "target's highest logit less the second, at the path's end"}
    )

    @property
    def total_ms(self) -> float:
        return self.draft_ms + self.shape_ms + self.verify_ms + self.commit_ms

    def _repr_html_(self) -> str:
        """What a notebook shows: a table of one row."""
        names = "".join(f"<th>{name}</th>" for name in asdict(self))
        values = "".join(f"<td>{value:.6g}</td>" for value in asdict(self).values())
        return f"<table><tr>{names}</tr><tr>{values}</tr></table>"


@frozen(eq=False)
class Event:
    """The result of one pass over the target. The event of the prefill has one token and no step.

    `scores` is None unless nodes are recorded.
    """

    tokens: list[int]
    step: Step | None = None
    tree: TokenTree | None = None
    verdict: Verdict | None = None
    scores: TargetScores | None = None


@frozen(eq=False)
class Verified:
    """A tree that was drafted and verified in one graph."""

    tree: TokenTree
    logits: Tensor  # [N, V], the target's; without values (meta) if the next step may run by now
    likeliest: tuple[list[int], list[float]]  # the target's tokens after each node, and margins [N]
    ahead_ms: float = 0.0  # how long a device ran it, if that began before it was asked for


class WholeStep(Protocol):
    """Drafts and verifies a step's tree in one graph."""

    def run(self, committed: list[int], depth: int) -> Verified | None:
        """Draft and verify a tree of at most `depth` on the last of `committed`; None, and nothing has
        changed, where the general loop must run the step."""


def decode(
    target: Session,
    runtime: Runtime,
    strategies: Strategies,
    prompt: list[int],
    *,
    max_new_tokens: int,
    ends: Callable[[int], bool],
    sampling: Sampling,
    seed: int,
    record_nodes: bool = False,
    limits: Limits = Limits(),  # noqa: B008 it is immutable
    process: PathProcessor | None = None,
    whole_step: Callable[[], WholeStep | None] = lambda: None,
) -> Iterator[Event]:
    """Decode `prompt[P]` and yield one event per target pass, until `max_new_tokens` are emitted,
    `ends` is true or the time of `limits` is over.

    `ends(token)` is called once for each emitted token, in order; it is true where the request ends
    after the token, as after a stop id. Prompt tokens that the target has cached are not forwarded
    again. Between events the target's cache holds all emitted tokens but the last, which is the next
    root. `record_nodes` adds the target's scores of all nodes; no step's times include their
    computation. `limits` also cut trees. `process`, made with the prompt, changes the target's logits
    before the verifier and the record see them. `whole_step` is called once the drafter has started;
    what it returns runs the steps that it can, whose time counts as the target's.
    """
    began = perf_counter()
    drafter, shaper, verifier = strategies.drafter, strategies.shaper, strategies.verifier
    last, sampler = TokenTree.root(prompt[-1]), Sampler(sampling, seed, len(prompt) - 1)
    process = process or PathProcessor(list(prompt))
    logits = target.prefill(prompt[target.length :])[None]
    judged = verifier.judge(last, process(last, [0], logits), sampler)
    require_path(judged, last, verifier)
    root = judged.bonus
    process.committed.append(root)
    yield Event([root])
    draft, emitted, ended = TimedDrafter(drafter, target.vocabulary, limits), 1, ends(root)
    away_ms = 0.0  # since the last event, before the next one was asked for
    if emitted < max_new_tokens and not ended:
        draft.start(prompt, runtime)
        whole = whole_step()
    while emitted < max_new_tokens and not ended and not limits.ends(perf_counter() - began):
        clock, length = Clock(), target.length
        depth = min(max_new_tokens - emitted - 1, target.max_draft_depth)
        verified = whole.run(process.committed, depth) if whole is not None else None
        if verified is not None:
            tree, logits, known = verified.tree, verified.logits, verified.likeliest
            draft.ms, clock.ms["draft"] = 0.0, 0.0
        else:
            tree, known = draft.tree(shaper, root, depth), None
            clock.lap("draft")
            logits = target.forward(tree.tokens, tree.parents)
            logits = process(tree, range(len(tree)), logits)
        sampler = Sampler(sampling, seed, length, known)
        judged = verifier.judge(tree, logits, sampler)
        require_path(judged, tree, verifier)
        verdict, tokens, ended = cut_verdict(judged, tree, max_new_tokens - emitted, ends)
        margin = sampler.margin(logits, verdict.path[-1])
        clock.lap("verify")
        scores = None
        if record_nodes:
            law = logits if sampling.greedy else sampling.scores(logits)
            scores = TargetScores.of(tree, verdict, law)
        clock.lap("record")
        target.commit(verdict.path)
        drafter.commit([tree.tokens[node] for node in verdict.path])
        if verified is None:
            shaper.observe(tree, verdict)
        clock.lap("commit")
        step = Step(
            length=length,
            nodes=len(tree),
            depth=tree.depth,
            accepted=len(verdict.path) - 1,
            committed=len(tokens),
            draft_ms=draft.ms + (draft.start_ms if length == len(prompt) else 0.0),
            shape_ms=clock.ms["draft"] - draft.ms,
            verify_ms=clock.ms["verify"] + (min(away_ms, verified.ahead_ms) if verified else 0.0),
            commit_ms=clock.ms["commit"],
            margin=margin,
        )
        root, emitted = verdict.bonus, emitted + len(tokens)
        process.committed += tokens
        left = perf_counter()
        yield Event(tokens, step, tree, verdict, scores)
        away_ms = 1e3 * (perf_counter() - left)


def require_path(judged: Verdict, tree: TokenTree, verifier: Verifier) -> None:
    """Raise `StrategyError` unless a verifier returned a verdict whose path descends from the root."""
    require_type(judged, Verdict, verifier, "judge")
    path = judged.path
    ids = not _find_other_type(path, int) and path[:1] == [0] and path[-1] < len(tree)
    if not ids or any(above >= below for above, below in pairwise(path)):
        raise StrategyError(
            f"verifier {verifier.name!r} gave path {path} in a tree of {len(tree)} nodes: expected "
            f"plain numbers, the node ids from the root, 0, down to the last accepted node"
        )


def cut_verdict(
    judged: Verdict, tree: TokenTree, room: int, ends: Callable[[int], bool]
) -> tuple[Verdict, list[int], bool]:
    """Cut a verdict to `room` tokens and to where the request ends; return it, the tokens that it
    emits, and whether the request ends with them.

    A cut verdict's bonus is its last emitted token, so that the cache holds the tokens that AR's
    would.
    """
    tokens = [*(tree.tokens[node] for node in judged.path[1:]), judged.bonus]
    last = next((i for i, token in enumerate(tokens[:room]) if ends(token)), None)
    tokens = tokens[: room if last is None else last + 1]
    path, beyond = judged.path[: len(tokens)], judged.path[len(tokens) + 1 :]
    coins = {node: coin for node, coin in judged.coins.items() if node not in beyond}
    return Verdict(path, tokens[-1], coins), tokens, last is not None


@define(eq=False)
class TimedDrafter:
    """Calls a drafter for a shaper, measures its time, and asks for nothing deeper than can be
    emitted."""

    drafter: Drafter
    vocabulary: int
    limits: Limits = Limits()
    depth: int = 0
    start_ms: float = 0.0  # time of the drafter's own prefill
    ms: float = 0.0  # time in the drafter since the step began

    def start(self, prompt: list[int], runtime: Runtime) -> None:
        began = perf_counter()
        self.drafter.start(list(prompt), runtime)  # a copy: a plugin may change it
        if self.drafter.counts_start:
            self.start_ms = 1e3 * (perf_counter() - began)

    def tree(self, shaper: TreeShaper, root: int, depth: int) -> TokenTree:
        """Grow one step's tree, at most `depth` deep. Raises `StrategyError` when it is not a tree on
        this root, has more nodes than the shaper declares, or has tokens outside the target's V."""
        self.ms, self.depth = 0.0, self.limits.depth(depth)
        tree = shaper.grow(TokenTree.root(root), self)
        require_type(tree, TokenTree, shaper, "grow")
        if not tree.is_valid() or tree.tokens[0] != root:
            raise StrategyError(
                f"shaper {shaper.name!r} returned no tree on the root that it was given: grow it with "
                f"`TokenTree.grow` and cut it with `best`, `first`, `within` or `subtree`"
            )
        if len(tree) > shaper.nodes:
            raise StrategyError(
                f"shaper {shaper.name!r} grew {len(tree)} nodes, but declares at most {shaper.nodes} "
                f"(root included): drop nodes before returning the tree"
            )
        self._require_known_tokens(tree)
        return self.limits.cut(tree.within(self.depth))

    def __call__(self, tree: TokenTree, frontier: list[int], k: int) -> Candidates:
        """Expand a frontier; no candidates where none of them could be emitted."""
        if all(tree.depths[node] >= self.depth for node in frontier):
            return Candidates.none(len(frontier))
        began = perf_counter()
        candidates = self.drafter.expand(tree, frontier, k)
        require_type(candidates, Candidates, self.drafter, "expand")
        self.ms += 1e3 * (perf_counter() - began)
        return candidates

    def _require_known_tokens(self, tree: TokenTree) -> None:
        """Raise `StrategyError` for tokens outside the target's V, and for anything but numbers."""
        odd = _find_other_type(tree.tokens, int) or _find_other_type(tree.logprobs, float | int)
        if odd is not None:
            raise StrategyError(
                f"drafter {self.drafter.name!r} proposed a {odd} where a plain number is expected: "
                f"tensors and arrays have `tolist()`"
            )
        unknown = next((token for token in tree.tokens if not 0 <= token < self.vocabulary), None)
        if unknown is not None:
            raise StrategyError(
                f"drafter {self.drafter.name!r} proposed token {unknown}, but the target "
                f"knows ids from 0 to {self.vocabulary - 1}: see runtime.vocabulary"
            )


def _find_other_type(values: Sequence[object], wanted: type | UnionType) -> str | None:
    """The name of a type among `values` other than `wanted`; None where there is none."""
    kinds = set(map(type, values))
    return next((kind.__name__ for kind in kinds if not issubclass(kind, wanted)), None)


@define
class Clock:
    """Milliseconds between laps, by name."""

    ms: dict[str, float] = field(factory=dict)
    _last: float = field(factory=perf_counter)

    def lap(self, name: str) -> None:
        now = perf_counter()
        self.ms[name], self._last = 1e3 * (now - self._last), now
