"""The four interfaces: what a strategy author implements, and the little that they may lean on.

A strategy is an attrs class: its fields are its options, declared with `option`. One object serves
one request and is thrown away, so there is no `reset`: state that is set up in `start`, or in
attrs fields with `init=False`, cannot leak into the next request. Inherit once, from the interface;
share code by functions.

Letters: N tree nodes, F frontier nodes, K candidates per node, V vocabulary, P prompt length,
L cached length (committed tokens whose KV was stored). The root, node 0 of every tree, is committed
but not yet cached: its position is L. Token ids, node ids and their probabilities are lists on the
host; logits, keys and values are tensors on the model's device.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import attrs

from toolkit.cascade_interfaces import Scorer, StopPolicy
from toolkit.choice import Choice, Strategy
from toolkit.proposer import Proposal
from toolkit.tree import Candidates, TokenTree, Verdict

if TYPE_CHECKING:
    from torch import Tensor

    from toolkit.costs import Costs
    from toolkit.growmap import GrowMap
    from toolkit.kv_view import KVView
    from toolkit.sampling import Sampler

Expand = Callable[[TokenTree, list[int], int], Candidates]
Exactness = Literal["greedy", "token", "distribution", "lossy"]
TOKEN_IDENTICAL: tuple[Exactness, ...] = ("greedy", "token")
"""What promises AR's tokens, not only their law."""


def option(default: Any = attrs.NOTHING, help: str = "", **rules: Any) -> Any:  # noqa: A002
    """An option of a strategy: an attrs field with one line of help.

    `validator=` takes attrs validators. `model=True` says that the option names a model: it is
    found, checked against the target's vocabulary and loaded before decoding. With `translates=True` it
    may have another tokenizer; see `Runtime.translation`. `kind="drafter"` (or another kind) says that
    it holds a strategy, written `[spec]` in a spec string, or with a type of
    `tuple[Choice[Drafter], ...]` several, written `[spec]+[spec]`. `timed=True` says that trees depend
    on the clock unless the option has its default: they need not repeat then.
    """
    metadata = {
        "help": help,
        "model": rules.pop("model", False),
        "translates": rules.pop("translates", False),
        "kind": rules.pop("kind", None),
        "timed": rules.pop("timed", False),
    }
    return attrs.field(default=default, metadata=metadata, **rules)


class Session(Protocol):
    """One model decoding one request: shared weights, a cache of its own."""

    @property
    def length(self) -> int:
        """Cached length: committed tokens whose KV is stored."""

    @property
    def scratch(self) -> int:
        """Rows forwarded since the last commit."""

    @property
    def vocabulary(self) -> int:
        """V, the width of the logits."""

    @property
    def positions(self) -> int:
        """How many positions the model can address."""

    @property
    def max_draft_depth(self) -> int:
        """The most drafted tokens that the next commit may keep: a tree need not be deeper."""

    def prefill(self, tokens: list[int]) -> Tensor:
        """Forward and commit `tokens[T]` in fixed chunks; returns the last token's logits [V]."""

    def forward(self, tokens: list[int], parents: list[int]) -> Tensor:
        """Forward `tokens[N]` as scratch rows; returns logits [N, V].

        `parents[N]` are scratch rows, counted from the last commit over all forwards since; −1
        hangs a row on the committed prefix. A row sees the prefix, its ancestors and itself.
        """

    def commit(self, rows: list[int]) -> None:
        """Keep `rows[A]`, a path of scratch rows from the prefix down, and forget the others."""


class Translation(Protocol):
    """From a target's tokens to those of a model with another tokenizer, and back, by text."""

    @property
    def first(self) -> int:
        """The id that the model reads before every text."""

    @property
    def shared(self) -> tuple[list[int], list[int]] | None:
        """The target's ids [M] and the model's ids [M] of tokens that are the same text; None where
        they are too few to draft from."""

    def target_text(self, before: list[int], ids: list[int]) -> str:
        """The text that target ids add to that of the ids `before`; special tokens have none."""

    def target_ids(self, before: str, text: str) -> list[int]:
        """The target's ids of a text that follows `before`."""

    def draft_text(self, before: list[int], ids: list[int]) -> str:
        """As `target_text`, for the model's ids."""

    def draft_ids(self, before: str, text: str) -> list[int]:
        """As `target_ids`, for the model's ids."""


class Runtime(Protocol):
    """What a drafter may ask of the machine."""

    @property
    def vocabulary(self) -> int:
        """The target's V: only ids below it may be proposed."""

    def candidates(
        self,
        tree: TokenTree,
        frontier: list[int],
        logits: Tensor,
        k: int,
        *,
        temperature: float = 0.0,
        fixed: int = 0,
    ) -> Candidates:
        """Up to `k` candidates after each of `frontier[F]`, by a drafter's `logits[F, V]` there.

        V may be narrower than the target's. The request's logits processors change the logits first, by
        the tokens before each node and on its path. The candidates are chosen as the verifier needs
        them: the likeliest at temperature 0; for `sampler-match` the likeliest after the noise with
        which the target draws its token; for verifiers whose proof covers draws, draws by
        softmax(logits / `temperature`) (0: the target's temperature), the `fixed` likeliest first.
        """

    def session(self, model: str) -> Session:
        """A fresh session of a model by name, folder or hub id; weights are loaded once."""

    def translation(self, model: str) -> Translation | None:
        """How to translate between the target's tokens and a model's; None where they are the same.

        For models that an option names with `translates=True`; others have the target's tokens.
        """

    def target_session(self) -> Session:
        """A fresh session of the target itself, under its own KV policy."""

    def shared_session(self, kv: Choice[KVPolicy]) -> Session:
        """A session of the target itself under another KV policy: shared weights, shared K/V.

        Its committed rows are copies of the target's. `commit` drops all scratch rows and copies what
        the target has committed since; it cannot keep a scratch row.
        """


class Drafter(Strategy):
    """What may come next after these tree nodes, and how likely?

    State is a function of the committed tokens alone: whatever was drafted and rejected must not
    change a later answer.
    """

    kind = "drafter"
    proposals: ClassVar[frozenset[Proposal]] = frozenset({"fixed"})
    """How it can choose candidates: `fixed`, deterministically (top-k, look-up); `sampled`, drawn
    without replacement; `iid`, drawn with replacement. `Runtime.candidates` does all three."""

    counts_start: ClassVar[bool] = True
    """Whether the time of `start` belongs to the first step; False only for measuring instruments."""

    @abstractmethod
    def start(self, prompt: list[int], runtime: Runtime) -> None:
        """Called once, after the target's prefill, with `prompt[P]`, all of it committed."""

    @abstractmethod
    def expand(self, tree: TokenTree, frontier: list[int], k: int) -> Candidates:
        """Propose up to `k` tokens after each of `frontier[F]` (ascending node ids).

        Called once per level. Within a step the tree only grows: ids keep their meaning, and a
        node comes into a frontier after its parent did or together with it.
        """

    @property
    def draft_session(self) -> object:
        """The `DraftSession` whose likeliest tokens `expand` proposes at temperature 0; optional. With
        a shaper that has a `shape`, it lets a GPU run a whole step as one graph."""
        return None

    @abstractmethod
    def commit(self, tokens: list[int]) -> None:
        """Called once per step with the tokens [A] whose KV is now cached: root first, then the
        accepted drafts. The next tree's root is the token that follows them."""


class TreeShaper(Strategy):
    """Which nodes to grow, which to send to verification, when to stop?

    A shaper can be slow or useless, but under `greedy` and `sampler-match` never make the output wrong.
    """

    kind = "shaper"
    prunes: ClassVar[bool] = True
    """Whether it may drop or reorder candidates, or stop at one, after reading them."""

    @property
    @abstractmethod
    def nodes(self) -> int:
        """The most nodes, root included, that `grow` may return: an option or a property."""

    @property
    def shape(self) -> GrowMap | None:
        """The shape of every tree that is not cut short, where it does not depend on what was drafted:
        each node has the first candidates as children, in order. Optional."""
        return None

    def plan(self, costs: Costs, length: int) -> None:
        """What passes and levels cost on this machine; optional. Called once, before the first
        `grow`, with the cached length L after the prompt. Only for a shaper that defines it are
        costs measured."""

    @abstractmethod
    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        """Grow a tree by asking `expand(tree, frontier, k)` level by level; return what to verify.

        Near the end of a request `expand` answers with no candidates (K = 0): stop there.
        """

    def observe(self, tree: TokenTree, verdict: Verdict) -> None:
        """Feedback after the verification of a tree that `grow` returned; optional. `verdict.path` is
        what was kept."""


class Verifier(Strategy):
    """Given the target's logits at every node, which path is committed, and which token follows?"""

    kind = "verifier"
    exactness: ClassVar[Exactness]
    """What its tokens are. `greedy`: AR's, at temperature 0 and only there; `token`: AR's with the same
    seed, at any temperature; `distribution`: others with the law of AR's; `lossy`: neither."""
    assumes: ClassVar[frozenset[Proposal]]
    """The proposals that its proof covers."""

    @abstractmethod
    def judge(self, tree: TokenTree, logits: Tensor, sampler: Sampler) -> Verdict:
        """Judge a tree by `logits[N, V]`, as the model gives them.

        Pure: no state; `sampler` has the target's law, as temperature and the like make it of logits,
        and all random numbers. Also asked for the first token, with the prompt's last token as a tree
        of one node.
        """


class KVPolicy(Strategy):
    """Which cached positions stay visible? The base of `MaskPolicy` and `ScorePolicy`.

    Inherit from one of the two: from `MaskPolicy` where positions alone decide, from `ScorePolicy`
    where keys, values or attention do. A policy decides at fixed committed lengths: at the end of the
    prompt P, with effect at once, then at P+W, P+2W, … (W is `epoch`), with effect W tokens later, so
    that a tree that crosses one of these lengths knows both sets of rows. It reads committed tokens
    alone, so AR and every speculation schedule see the same cache.
    """

    kind = "kv"
    budget: int  # visible positions, or positions kept per KV head; an option of yours
    sinks: int = 0  # first positions, always kept
    epoch: int = 64

    def __attrs_post_init__(self) -> None:
        if self.epoch < 2:
            raise ValueError(f"epoch={self.epoch}: at least 2 tokens, or nothing can be drafted")
        if self.sinks < 0:
            raise ValueError(f"sinks={self.sinks}: cannot be below 0")


class MaskPolicy(KVPolicy):
    """A KV policy that decides by position alone.

    The mask holds for every query, those of the prompt too. Positions that are hidden when the policy
    decides are freed.
    """

    @property
    def reindexes(self) -> bool:
        """Whether the keys of the first `sinks` positions move up to the window as it advances, so
        that a text may outgrow the model's positions. For rotary models only."""
        return False

    @abstractmethod
    def visible(self, query_pos: Tensor, key_pos: Tensor) -> Tensor:
        """Whether queries at `query_pos[Q, 1]` may see keys at `key_pos[1, C]`: bool [Q, C].

        A function of the two positions only; asked for every layer. A key that is hidden from one
        query must be hidden from all later ones. The engine adds causality and the tree, and lets
        every query see itself.
        """


class ScorePolicy(KVPolicy):
    """A KV policy that scores the rows of each layer and keeps the best.

    At each decision `capacity` positions stay per KV head: the first `sinks`, the last `recent`, then
    those with the highest scores. Scores are rounded, and of equal ones the newer position stays. The
    prompt attends to itself in full before the first decision. Layers with a sliding window of their
    own keep to that window and are not scored.
    """

    recent: int = 0  # last positions, always kept
    once: ClassVar[bool] = False
    """Whether it decides at the end of the prompt only."""
    logs: ClassVar[bool] = True
    """Whether `score` reads queries (`rows`, `colsum`, `queries`); False spares the log of them."""
    rotates: ClassVar[bool] = False
    """Whether `score` calls `view.rotate`."""

    @property
    def headwise(self) -> bool:
        """Whether `score` scores each KV head by its own rows and queries, or by `mean_over_heads`.
        Then one view may cover several layers, which takes less time than a view of each."""
        return False

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if self.recent < 0:
            raise ValueError(f"recent={self.recent}: cannot be below 0")
        if not isinstance(getattr(self, "budget", None), int):
            raise TypeError("a policy that scores needs an option `budget`, a whole number")
        epoch = 0 if self.once else self.epoch
        if self.sinks + self.recent + epoch > self.budget:
            raise ValueError(
                f"sinks={self.sinks}, recent={self.recent} and epoch={epoch} do not fit into "
                f"budget={self.budget}: raise the budget or lower them"
            )

    @abstractmethod
    def score(self, view: KVView) -> Tensor:
        """The worth of each row: float [H_kv, C], or [1, C] for all heads of a layer alike unless the
        policy is `headwise`. The highest scores stay."""

    def capacity(self, view: KVView) -> int | Tensor:
        """Positions to keep in this layer: one number, or int64 [H_kv] for each KV head. By default
        `budget`."""
        return self.budget


INTERFACES: tuple[type[Strategy], ...] = (
    Drafter,
    TreeShaper,
    Verifier,
    MaskPolicy,
    ScorePolicy,
    Scorer,
    StopPolicy,
)
"""What a strategy inherits from: exactly one of these."""
