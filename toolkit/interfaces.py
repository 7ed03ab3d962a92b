"""The four interfaces: what a strategy author implements, and the little that they may lean on.

A strategy is an attrs class: its fields are its options, declared with `option`. One object serves
one request and is thrown away, so there is no `reset`: state that is set up in `start`, or in
attrs fields with `init=False`, cannot leak into the next request. Inherit once, from the interface;
share code by functions.

Letters: N tree nodes, F frontier nodes, K candidates per node, V vocabulary, P prompt length,
L cached length (committed tokens whose KV is stored). The root, node 0 of every tree, is committed
but not yet cached: its position is L.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal, Protocol

import attrs
import torch
from torch import Tensor

from toolkit.tree import Candidates, TokenTree, Verdict

Expand = Callable[[TokenTree, Tensor, int], Candidates]
Exactness = Literal["greedy", "distribution", "lossy"]
Proposal = Literal["fixed", "sampled"]
Kind = Literal["drafter", "shaper", "verifier", "kv"]


def option(default: Any = attrs.NOTHING, help: str = "", **rules: Any) -> Any:  # noqa: A002
    """An option of a strategy: an attrs field with one line of help.

    `validator=` takes attrs validators. `model=True` says that the option names a model: it is
    found, checked against the target's vocabulary and loaded before decoding. `kind="drafter"` (or
    another kind) says that it holds a strategy, written `[spec]` in a spec string.
    """
    metadata = {"help": help, "model": rules.pop("model", False), "kind": rules.pop("kind", None)}
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

    def prefill(self, tokens: Tensor) -> Tensor:
        """Forward and commit `tokens[T]` in fixed chunks; returns the last token's logits [V]."""

    def forward(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """Forward `tokens[N]` as scratch rows; returns logits [N, V].

        `parents[N]` are scratch rows, counted from the last commit over all forwards since; −1
        hangs a row on the committed prefix. A row sees the prefix, its ancestors and itself.
        """

    def commit(self, rows: Tensor) -> None:
        """Keep `rows[A]`, a path of scratch rows from the prefix down, and forget the others."""


class Runtime(Protocol):
    """What a drafter may ask of the machine."""

    @property
    def vocabulary(self) -> int:
        """The target's V: only ids below it may be proposed."""

    def session(self, model: str) -> Session:
        """A fresh session of a model by name, folder or hub id; weights are loaded once."""


class Strategy(ABC):
    """What the four interfaces share: a name, a kind, and options that are attrs fields."""

    name: ClassVar[str]
    kind: ClassVar[Kind]


class Drafter(Strategy):
    """What may come next after these tree nodes, and how likely?

    State is a function of the committed tokens alone: whatever was drafted and rejected must not
    change a later answer.
    """

    kind = "drafter"
    proposals: ClassVar[frozenset[Proposal]] = frozenset({"fixed"})
    """How it can choose candidates: `fixed`, without chance (top-k, look-up), or `sampled`."""

    @abstractmethod
    def start(self, prompt: Tensor, runtime: Runtime) -> None:
        """Called once, after the target's prefill, with `prompt[P]` int64, all of it committed."""

    @abstractmethod
    def expand(self, tree: TokenTree, frontier: Tensor, k: int) -> Candidates:
        """Propose up to `k` tokens after each of `frontier[F]` (ascending node ids).

        Called once per level. Within a step the tree only grows: ids keep their meaning, and a
        node comes into a frontier after its parent did.
        """

    @abstractmethod
    def commit(self, tokens: Tensor) -> None:
        """Called once per step with the tokens [A] whose KV is now cached: root first, then the
        accepted drafts. The next tree's root is the token that follows them."""


class TreeShaper(Strategy):
    """Which nodes to grow, which to send to verification, when to stop?

    A shaper can be slow or useless, but under `greedy` verification never make the output wrong.
    """

    kind = "shaper"
    prunes: ClassVar[bool] = True
    """Whether it may drop, stop at or reorder candidates once it has seen them."""

    @property
    @abstractmethod
    def nodes(self) -> int:
        """The most nodes, root included, that `grow` may return: an option or a property."""

    @abstractmethod
    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        """Grow a tree by asking `expand(tree, frontier, k)` level by level; return what to verify.

        Near the end of a request `expand` answers with no candidates (K = 0): stop there.
        """

    def observe(self, tree: TokenTree, verdict: Verdict) -> None:
        """Feedback after verification; the only optional method. `verdict.path` is what was kept."""


class Verifier(Strategy):
    """Given the target's logits at every node, which path is committed, and which token follows?"""

    kind = "verifier"
    exactness: ClassVar[Exactness]
    """`greedy`: token-identical to AR; `distribution`: the law of sampling; `lossy`: neither."""
    assumes: ClassVar[frozenset[Proposal]]
    """The proposals that its proof covers."""

    @abstractmethod
    def judge(self, tree: TokenTree, logits: Tensor, rng: torch.Generator) -> Verdict:
        """Judge a tree by `logits[N, V]`. Pure: no state; randomness comes from `rng` alone.

        Also asked for the first token, with the prompt's last token as a tree of one node.
        """


class KVPolicy(Strategy):
    """Which cached positions stay visible?"""

    kind = "kv"

    @abstractmethod
    def visible(self, query_pos: Tensor, key_pos: Tensor) -> Tensor:
        """Whether queries at `query_pos[Q, 1]` may see keys at `key_pos[1, C]`: bool [Q, C].

        A function of positions alone, asked for every layer and every query, the prompt's too;
        causality and the tree are the engine's, and a query always sees itself.
        """


KINDS: dict[str, type[Strategy]] = {
    base.kind: base for base in (Drafter, TreeShaper, Verifier, KVPolicy)
}
