"""What a drafter can ask of the machine: sessions of models that are loaded once."""

from __future__ import annotations

from typing import Any, cast

from attrs import define, evolve, field
from torch import Tensor

from toolkit.choice import Choice
from toolkit.interfaces import KVPolicy, Translation
from toolkit.proposer import Proposer
from toolkit.runtime.models.pool import Pool
from toolkit.runtime.models.supported import require_shareable
from toolkit.runtime.session import ModelSession
from toolkit.runtime.shared_session import SharedSession
from toolkit.tree import Candidates, TokenTree


@define(eq=False)
class DraftRuntime:
    """Implements `interfaces.Runtime`: opens a drafter's sessions under the draft KV policy."""

    pool: Pool
    target: ModelSession
    draft_kv: Choice[KVPolicy]
    proposer: Proposer = Proposer()
    sessions: list[ModelSession] = field(factory=list, init=False)

    @property
    def vocabulary(self) -> int:
        return self.target.vocabulary

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
        return self.proposer.candidates(
            tree,
            frontier,
            logits.to(self.target.model.device),  # where the target's law and processors are
            k,
            position=self.target.length,
            vocabulary=self.target.vocabulary,
            temperature=temperature,
            fixed=fixed,
        )

    def session(self, model: str) -> ModelSession:
        self.sessions.append(ModelSession(self.pool.load(model), self.draft_kv.build()))
        return self.sessions[-1]

    def translation(self, model: str) -> Translation | None:
        return self.pool.translation(self.target.model.name, model)

    def target_session(self) -> ModelSession:
        return ModelSession(self.target.model, evolve(cast("Any", self.target.policy)))

    def shared_session(self, kv: Choice[KVPolicy]) -> SharedSession:
        require_shareable(kv)
        session = SharedSession(self.target.model, kv.build(), target=self.target)
        self.sessions.append(session)
        return session

    @property
    def bytes(self) -> int:
        """Bytes of KV that all sessions hold."""
        return sum(session.cache.bytes for session in self.sessions)
