"""What decodes for an arm: our pipeline here, Hugging Face's own `generate` in `hf`."""

from __future__ import annotations

from time import perf_counter
from typing import Protocol

from attrs import frozen

from toolkit import Generation, Pipeline, Request, Run, request_record

from .metrics import by_depth, path_length


@frozen
class Outcome:
    """One request as an arm gave it; `generation` where the steps are ours and known."""

    request: Request
    wall_ms: float
    first_tokens: int
    path_length: float | None
    reached: list[int] | None
    accepted: list[int] | None
    generation: Generation | None


class Engine(Protocol):
    """Decodes prompts one at a time."""

    def run(self, run: Run, number: int, prompt: list[int], max_new_tokens: int) -> Outcome:
        """Decode and measure. `run` and `number` go into the request's row."""


@frozen
class Ours:
    """An arm of the toolkit."""

    pipeline: Pipeline

    def run(self, run: Run, number: int, prompt: list[int], max_new_tokens: int) -> Outcome:
        began = perf_counter()
        stream = self.pipeline.stream(prompt, max_new_tokens=max_new_tokens)
        for _ in stream.decode():
            pass
        wall_ms = 1e3 * (perf_counter() - began)
        done = stream.result
        reached, accepted = by_depth(done.steps)
        return Outcome(
            request_record(run, number, done),
            wall_ms,
            1,
            path_length(done.steps),
            reached,
            accepted,
            done,
        )
