"""Stream: one request being decoded, from its first event to its result."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from inspect import GEN_CLOSED, getgeneratorstate
from time import perf_counter

from attrs import define, field

from toolkit.engine import Event, Strategies, decode
from toolkit.generation import Generation, StopReason
from toolkit.interfaces import KVPolicy
from toolkit.limits import Limits
from toolkit.logits_processing import PathProcessor
from toolkit.runtime.draft_runtime import DraftRuntime
from toolkit.runtime.machine.memory import (
    LESS_FOR_REQUESTS,
    forget_peaks,
    name_lack_of_memory,
    peak_memory,
)
from toolkit.runtime.models.detokenize import Detokenizer
from toolkit.runtime.models.pieces import Pieces
from toolkit.runtime.numerics import find_level
from toolkit.runtime.session import ModelSession
from toolkit.runtime.static_step import StaticStep, static_step_of
from toolkit.sampling import Sampling
from toolkit.stopping import Ending, TextUntil
from toolkit.strategy_errors import name_failed_strategy


@define(eq=False)
class Stream:
    """One request being decoded. Iterating yields pieces of text as their tokens are committed.

    A request is decoded once: a second iteration continues where the first one stopped.
    """

    target: ModelSession
    drafts: DraftRuntime
    strategies: Strategies
    prompt: list[int]
    max_new_tokens: int
    stop_ids: frozenset[int]  # token ids that end the request
    stop: tuple[str, ...]  # stop strings
    sampling: Sampling
    seed: int
    specs: dict[str, str]  # of the pipeline, for the result
    process: PathProcessor  # changes logits, those of the drafter, too
    limits: Limits = Limits()
    record_nodes: bool = False  # whether the result has node rows
    events: list[Event] = field(factory=list, init=False)
    ttft_ms: float = field(default=0.0, init=False)
    _running: Generator[Event] = field(init=False)
    kept: int = field(init=False)  # prompt tokens that the target has cached from the turn before
    _handed_over: bool = field(default=False, init=False)
    _steps: StaticStep | str = field(default="none has begun", init=False)  # or why not as graphs
    _ended: bool = field(default=False, init=False)  # by itself, not by an interruption
    _text: TextUntil = field(init=False)
    _ending: Ending = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._running = self._decoding()
        self.kept = self.target.length
        self._text = self._new_text()
        self._ending = Ending(self.stop_ids, self._new_text())

    def _new_text(self) -> TextUntil:
        return TextUntil(Detokenizer(self.target.model.tokenizer, self.prompt), self.stop)

    def __iter__(self) -> Iterator[str]:
        for event in self._running:
            yield self._text.add(event.tokens)
        yield self._text.rest()

    def decode(self) -> Iterator[Event]:
        """The engine's events; `result` keeps them."""
        return self._running

    def _decoding(self) -> Generator[Event]:
        device, name = self.target.model.device, self.target.model.name
        task = f"for a request of {len(self.prompt)} prompt tokens to model {name!r}"
        with name_lack_of_memory(device, task, LESS_FOR_REQUESTS), name_failed_strategy():
            forget_peaks()
            began = perf_counter()
            for event in decode(
                self.target,
                self.drafts,
                self.strategies,
                self.prompt,
                max_new_tokens=self.max_new_tokens,
                ends=self._ending,
                sampling=self.sampling,
                seed=self.seed,
                record_nodes=self.record_nodes,
                process=self.process,
                limits=self.limits,
                whole_step=self._whole_step,
            ):
                if not self.events:
                    self.ttft_ms = 1e3 * (perf_counter() - began)
                self.events.append(event)
                yield event
            self._ended = True

    def _whole_step(self) -> StaticStep | None:
        """What runs steps as one graph; None where none may."""
        processed = self.process.processor is not None
        if processed or self.limits.cut_trees:
            self._steps = "logits are processed" if processed else "limits cut trees"
            return None
        self._steps = static_step_of(
            self.target, self.strategies, self.sampling, reads_logits=self.record_nodes
        )
        return self._steps if isinstance(self._steps, StaticStep) else None

    @property
    def _steps_run(self) -> str:
        """How steps ran, and why; also why passes could not be captured."""
        steps = self._steps
        said = (
            steps.description if isinstance(steps, StaticStep) else f"pass by pass, because {steps}"
        )
        found = dict.fromkeys(session.model.executor.failure for session in self._sessions)
        later = [f"capturing failed: {why}" for why in found if why and why not in said]
        return "; ".join([said, *later])

    @property
    def _sessions(self) -> list[ModelSession]:
        """The target's and the drafter's."""
        return [self.target, *self.drafts.sessions]

    def hand_over(self, prompt: list[int], policy: KVPolicy) -> ModelSession | None:
        """The target's session for the next request, rewound to what `prompt[P]` shares with this one,
        which ends here.

        None when the cache cannot serve it: this request was interrupted within a step, the policy
        has evicted something, the prompts begin differently, or the session was handed over before.
        """
        if self._handed_over or self._is_within_a_step:
            return None
        ids = self._emitted
        both = zip([*self.prompt, *ids][: self.target.length], prompt[:-1], strict=False)
        common = next((i for i, (ours, new) in enumerate(both) if ours != new), None)
        if common is None:
            common = min(self.target.length, len(prompt) - 1)
        if not common or not self.target.rewind(common, policy):
            return None
        self._handed_over = True
        self._running.close()
        return self.target

    @property
    def _is_within_a_step(self) -> bool:
        """Whether an exception ended the request, so that the cache may hold half a step."""
        return getgeneratorstate(self._running) == GEN_CLOSED and not self._ended

    @property
    def _emitted(self) -> list[int]:
        return [token for event in self.events for token in event.tokens]

    @property
    def result(self) -> Generation:
        """What was decoded so far."""
        model, ids = self.target.model, self._emitted
        return Generation(
            text=self._whole_text(),
            token_ids=ids,
            prompt_ids=self.prompt,
            stop_reason=self._stop_reason(ids),
            stop=self.stop,
            specs=self.specs,
            sampling=self.sampling,
            seed=self.seed,
            numerics=find_level(
                model, len(self.prompt) + len(ids), captured=self.target.cache.captured
            ).name,
            ttft_ms=self.ttft_ms,
            kv_bytes=self.target.cache.bytes,
            kv_peak_bytes=self.target.cache.peak,
            draft_kv_bytes=self.drafts.bytes,
            peak_memory_bytes=peak_memory(session.model.device for session in self._sessions),
            graphs_captured=sum(session.cache.graphs_captured for session in self._sessions),
            steps_run=self._steps_run,
            events=self.events,
            piece=Pieces(model.tokenizer),
        )

    def _whole_text(self) -> str:
        """The pieces that iterating yields, joined."""
        text = self._new_text()
        return "".join([text.add(event.tokens) for event in self.events] + [text.rest()])

    def _stop_reason(self, ids: list[int]) -> StopReason:
        if ids and ids[-1] in self.stop_ids:
            return "eos"
        if self._ending.text.found:
            return "stop"
        if len(ids) < self.max_new_tokens:
            return "time" if self._ended else "interrupted"
        full = len(self.prompt) + len(ids) > self.target.positions
        return "positions" if full else "length"
