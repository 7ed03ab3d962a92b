"""Generation: the result of one request, and all figures that are derived from it.

A figure has one definition, here, and one name everywhere: in the panel, in JSON and in Parquet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from attrs import asdict, evolve, frozen

from toolkit.engine import Event, Step
from toolkit.errors import ToolkitError
from toolkit.sampling import Sampling
from toolkit.stats import Acceptance
from toolkit.words import shorten

if TYPE_CHECKING:
    from toolkit.nodes import Fate
    from toolkit.show.recording import RecordedRequest

Outcome = Literal["exact", "tie", "divergent", "inconclusive"]
StopReason = Literal["eos", "stop", "length", "positions", "time", "interrupted"]


@frozen
class Difference:
    """The first token where our output and AR's differ; a token of −1 means that the output had ended.

    `margin`: AR's logit of its own token minus that of ours.
    """

    index: int
    our_token: int
    ar_token: int
    margin: float
    allowed: float  # the largest margin that counts as a numerical tie


@frozen
class Verification:
    """The comparison with AR: `exact`, `tie`, `divergent`, or `inconclusive` (nothing drafted)."""

    verdict: Outcome
    ties: int = 0
    first: Difference | None = None
    ar_tokens_per_s: float | None = None


@frozen(eq=False, repr=False)
class Generation:
    """One request's output and measurements. Times are wall-clock; see `metrics` for units."""

    text: str
    token_ids: list[int]
    prompt_ids: list[int]
    stop_reason: StopReason
    stop: tuple[str, ...]  # texts that end the request
    specs: dict[str, str]
    sampling: Sampling
    seed: int
    numerics: str
    ttft_ms: float
    kv_bytes: int
    kv_peak_bytes: int
    draft_kv_bytes: int
    peak_memory_bytes: int | None
    graphs_captured: int  # CUDA graphs of passes and of whole steps
    steps_run: str  # as one graph each or pass by pass, and why
    events: list[Event]
    piece: Callable[[int], str]  # the text of one token
    verification: Verification | None = None

    @property
    def steps(self) -> list[Step]:
        """One record per target forward, the prefill excluded."""
        return [event.step for event in self.events if event.step is not None]

    @property
    def tau(self) -> float | None:
        """Accepted length τ: tokens committed per target forward, bonus included, prefill excluded."""
        return self._rates["tau"]

    @property
    def decode_ms(self) -> float:
        """Time of all steps: after the first token, until the last."""
        return sum(step.total_ms for step in self.steps)

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens after the first, per second of decoding."""
        return self._rates["tokens_per_s"]

    @property
    def verdict(self) -> Outcome | None:
        return self.verification.verdict if self.verification else None

    def __repr__(self) -> str:
        return f"<Generation: {self.line}>\n{shorten(self.text)!r}"

    @property
    def line(self) -> str:
        """The main figures, in one line."""
        count = len(self.token_ids)
        figures = [f"{count} token{'s' * (count != 1)}"]
        if self.tau is not None and self.tokens_per_s is not None:
            figures += [f"τ {self.tau:.2f}", f"{self.tokens_per_s:.1f} tokens/s"]
        end = self.stop_reason if self.stop_reason == "interrupted" else self.verdict
        return ", ".join([*figures, end] if end else figures)

    @property
    def metrics(self) -> dict[str, float | None]:
        """The derived figures, by their Parquet names."""
        steps, decode_ms, rates = self.steps, self.decode_ms, self._rates
        drafted = sum(step.nodes - 1 for step in steps)
        return {
            "decode_ms": decode_ms,
            "tpot_ms": rates["tpot_ms"],
            "tokens_per_s_end_to_end": rates["tokens_per_s_end_to_end"],
            "target_forwards": len(steps),
            "target_forwards_saved": len(self.token_ids) - 1 - len(steps),
            "drafted": drafted,
            "accepted": sum(step.accepted for step in steps),
            "acceptance": _ratio(sum(s.accepted for s in steps), sum(s.depth for s in steps)),
            "nodes_mean": _ratio(sum(s.nodes for s in steps), len(steps)),
            "draft_share": _ratio(sum(s.draft_ms for s in steps), decode_ms),
            "verify_share": _ratio(sum(s.verify_ms for s in steps), decode_ms),
            "commit_share": _ratio(sum(s.shape_ms + s.commit_ms for s in steps), decode_ms),
            "kv_bytes": self.kv_bytes,
            "kv_peak_bytes": self.kv_peak_bytes,
            "draft_kv_bytes": self.draft_kv_bytes,
            "peak_memory_bytes": self.peak_memory_bytes,
            "graphs_captured": self.graphs_captured,
        }

    @property
    def acceptance(self) -> Acceptance:
        """What was accepted at which position, by vLLM's definitions."""
        return Acceptance.of(self.steps)

    @property
    def recorded(self) -> RecordedRequest | None:
        """The nodes of every step, as `toolkit show` reads them from disk; None unless recorded."""
        from toolkit.nodes import list_nodes
        from toolkit.show.recording import RecordedRequest, RecordedStep

        steps: list[RecordedStep] = []
        for e in self.events:
            if e.step and e.tree and e.verdict and e.scores:
                nodes = [*list_nodes(e.tree, e.verdict, e.scores, self.piece)]
                steps.append(RecordedStep(len(steps), nodes, asdict(e.step)))
        return RecordedRequest(0, "this request", self.specs, steps) if steps else None

    def to_frame(self) -> Any:
        """The steps as a table with the columns of `Step`: a pandas DataFrame, or a polars one if only
        polars is installed. Raises `ToolkitError` without both."""
        for name in ("pandas", "polars"):
            if find_spec(name) is not None:
                return import_module(name).DataFrame([asdict(step) for step in self.steps])
        raise ToolkitError("a table of steps needs pandas or polars: pip install pandas")

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from toolkit.show.notebook import draw_output

        return draw_output(label_pieces(self.events, self.piece), self.line, self.recorded)

    @property
    def _rates(self) -> dict[str, float | None]:
        return compute_rates(len(self.token_ids), 1, len(self.steps), self.ttft_ms, self.decode_ms)

    def with_verification(self, verification: Verification) -> Generation:
        """This generation with its comparison to AR."""
        return evolve(self, verification=verification)


def label_pieces(events: list[Event], piece: Callable[[int], str]) -> Iterator[tuple[str, Fate]]:
    """Label the pieces of an output: each is an accepted draft or the target's own bonus."""
    for event in events:
        *drafted, own = map(piece, event.tokens)
        yield from ((text, "accepted") for text in drafted)
        yield own, "bonus"


def compute_rates(
    tokens: int, first: int, steps: int, ttft_ms: float, decode_ms: float
) -> dict[str, float | None]:
    """The figures that follow from counts and times alone, by their Parquet names.

    `tokens`: emitted tokens, `first` of them by the target's forward over the prompt. `steps`: target
    forwards after it. A figure whose divisor is 0 is None.
    """
    later = tokens - first
    return {
        "tau": _ratio(later, steps),
        "decode_ms": decode_ms,
        "tokens_per_s": _ratio(1e3 * later, decode_ms if steps else 0.0),
        "tokens_per_s_end_to_end": _ratio(1e3 * tokens, ttft_ms + decode_ms),
        "tpot_ms": _ratio(decode_ms, later),
    }


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
