"""Hugging Face's own `generate` as arms: plain, assisted by a small model, and with prompt lookup.

They run on the same checkpoint as our arms, in the same dtype, with the library's attention and caches.
No other module of the bench imports transformers.
"""

from __future__ import annotations

import copy
from time import perf_counter
from typing import Any, cast

import torch
from attrs import asdict, define, field
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from toolkit import Pipeline, Pool, Request, Run
from toolkit.generation import compute_rates
from toolkit.records import hash_prompt

from .arms import Arm
from .engines import Decoded

UNKNOWN = (
    "steps_run graphs_captured acceptance nodes_mean draft_share verify_share commit_share "
    "kv_peak_bytes verdict ties"
).split()


def load_module(pool: Pool, name: str) -> PreTrainedModel:
    """Load a model as the library does, on the pool's device and in its dtype.

    The pool's own module may have lost its weights to packed copies; one in memory has not.
    """
    if name in pool.modules:
        return pool.modules[name]
    found = cast("Any", pool.find(name))
    module = AutoModelForCausalLM.from_pretrained(
        found.path, dtype=pool.torch_dtype or "auto", local_files_only=found.local_only
    )
    return cast("PreTrainedModel", module.to(pool.torch_device).eval())


def copy_module(
    module: PreTrainedModel, stop_ids: frozenset[int], **options: Any
) -> PreTrainedModel:
    """A module with the same weights that decodes greedily with the library's attention.

    `options` are more of its generation config.
    """
    shared = {id(tensor): tensor for tensor in [*module.parameters(), *module.buffers()]}
    copied = cast("PreTrainedModel", copy.deepcopy(module, shared))
    copied.set_attn_implementation("sdpa")
    copied.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=sorted(stop_ids) or None,
        pad_token_id=min(stop_ids, default=0),
        **options,
    )
    return copied


@define(eq=False)
class TokenClock(BaseStreamer):
    """Records when tokens come and how many; `generate` puts the prompt first."""

    began: float
    counts: list[int] = field(factory=list)
    times: list[float] = field(factory=list)

    def put(self, value: torch.Tensor) -> None:
        self.counts.append(value.numel())
        self.times.append(perf_counter())

    def end(self) -> None:
        """Called by `generate` at the end."""


@define(eq=False)
class LibraryEngine:
    """Decodes with the library's `generate`.

    `pipeline` names target and assistant, checked to fit. `library`: the modules that are loaded, by
    name, which arms share.
    """

    arm: Arm
    pipeline: Pipeline
    library: dict[str, PreTrainedModel] = field(factory=dict)
    _models: tuple[PreTrainedModel, PreTrainedModel | None] | None = None

    @property
    def models(self) -> tuple[PreTrainedModel, PreTrainedModel | None]:
        """Target and assistant, loaded on first use."""
        if self._models is None:
            own, drafter = self.pipeline.defaults, None
            if self.arm.engine == "hf:assisted":
                module = self._load(self.pipeline.drafter["id"])
                drafter = copy_module(module, own.stop_ids, **self._schedule)
            target = copy_module(self._load(self.pipeline.target), own.stop_ids, **own.options)
            self._models = target, drafter
        return self._models

    @property
    def _schedule(self) -> dict[str, Any]:
        """How many tokens the assistant drafts per step: `k`, or as the library does by default.

        With the heuristic schedule, it drafts two more after a step that accepted all, and one less
        after any other; every request starts anew.
        """
        k, heuristic = self.arm.specs.get("k"), "schedule" in self.arm.specs
        if not k and not heuristic:
            return {}
        return {
            "num_assistant_tokens_schedule": "heuristic_transient" if heuristic else "constant",
            "assistant_confidence_threshold": 0.0,
            **({"num_assistant_tokens": int(k)} if k else {}),
        }

    def _load(self, name: str) -> PreTrainedModel:
        if name not in self.library:
            self.library[name] = load_module(self.pipeline.pool, name)
        return self.library[name]

    def run(
        self, run: Run, number: int, prompt: list[int], max_new_tokens: int, seed: int
    ) -> Decoded:
        target, drafter = self.models
        ids = torch.tensor([prompt], device=target.device)
        cuda = ids.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats(ids.device)
        forwards: list[None] = []
        hook = target.register_forward_pre_hook(lambda *_: forwards.append(None))
        torch.manual_seed(seed)
        clock = TokenClock(perf_counter())
        try:
            with torch.inference_mode():
                out: Any = target.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    streamer=clock,
                    max_new_tokens=max_new_tokens,
                    return_dict_in_generate=True,
                    **self._drafting(drafter),
                    **self._sampling,
                )
            tokens = out.sequences[0, len(prompt) :].tolist()
            wall_ms = 1e3 * (perf_counter() - clock.began)
        finally:
            hook.remove()
        request = Request(
            run_id=run.run_id,
            request_id=number,
            prompt_id=hash_prompt(prompt),
            prompt_tokens=len(prompt),
            seed=seed,
            kv_bytes=_count_bytes(out.past_key_values),
            peak_memory_bytes=torch.cuda.max_memory_allocated(ids.device) if cuda else None,
            **self._observe(clock, tokens, len(forwards) - 1, wall_ms),
        )
        return Decoded(request, wall_ms, clock.counts[1], None)

    @property
    def _sampling(self) -> dict[str, Any]:
        sampling = self.pipeline.sampling
        return {} if sampling.greedy else {"do_sample": True, **asdict(sampling)}

    def _drafting(self, drafter: PreTrainedModel | None) -> dict[str, Any]:
        if drafter is not None:
            return {"assistant_model": drafter}
        if self.arm.engine == "hf:lookup":
            return {"prompt_lookup_num_tokens": int(self.arm.specs.get("k", 10))}
        return {}

    def _observe(
        self, clock: TokenClock, tokens: list[int], steps: int, wall_ms: float
    ) -> dict[str, Any]:
        """The columns that can be observed from outside `generate`; the others are None."""
        ttft_ms, first = 1e3 * (clock.times[1] - clock.began), clock.counts[1]
        tokenizer = self.pipeline.pool.find(self.pipeline.target).tokenizer
        nothing_drafted = 0 if self.arm.engine == "hf:generate" else None
        return dict.fromkeys(UNKNOWN) | {
            "token_ids": tokens,
            "text": tokenizer.decode(tokens) if tokenizer else "",
            "stop_reason": "eos" if tokens[-1] in self.pipeline.defaults.stop_ids else "length",
            "steps": steps,
            "ttft_ms": ttft_ms,
            "accepted": len(tokens) - first - steps,
            "drafted": nothing_drafted,
            "draft_kv_bytes": nothing_drafted,
            **compute_rates(len(tokens), first, steps, ttft_ms, wall_ms - ttft_ms),
        }


def _count_bytes(cache: Any) -> int | None:
    """Bytes of a cache's keys and values; None for a cache that is not known."""
    layers = getattr(cache, "layers", None)
    if not layers:
        return None
    return sum(t.numel() * t.element_size() for layer in layers for t in (layer.keys, layer.values))
