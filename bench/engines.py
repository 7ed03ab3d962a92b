"""What decodes for an arm: our pipeline here, Hugging Face's own `generate` in `hf`."""

from __future__ import annotations

from time import perf_counter
from typing import Protocol

from attrs import frozen

from toolkit import Generation, Pipeline, Request, Run, request_record


@frozen
class Decoded:
    """One decoded request."""

    request: Request
    wall_ms: float  # from the call to the last token
    first_tokens: int  # tokens of the first target forward
    generation: Generation | None  # None where the steps are not known


class Engine(Protocol):
    """Decodes one prompt at a time."""

    def run(
        self, run: Run, number: int, prompt: list[int], max_new_tokens: int, seed: int
    ) -> Decoded:
        """Decode and measure a prompt. `run` and `number` go into the request's row; `seed` is that of
        sampled tokens."""


@frozen
class PipelineEngine:
    """Decodes with a pipeline of the toolkit."""

    pipeline: Pipeline
    record_nodes: bool

    def run(
        self, run: Run, number: int, prompt: list[int], max_new_tokens: int, seed: int
    ) -> Decoded:
        began = perf_counter()
        stream = self.pipeline.stream(
            prompt, max_new_tokens=max_new_tokens, seed=seed, record_nodes=self.record_nodes
        )
        for _ in stream.decode():
            pass
        wall_ms = 1e3 * (perf_counter() - began)
        generation = stream.result
        return Decoded(request_record(run, number, generation), wall_ms, 1, generation)
