"""Hugging Face's own `generate` as arms: plain, assisted by a small model, and by prompt look-up.

They run on the same checkpoint as ours, in the same dtype, through stock attention and caches: the
baselines that a reader would otherwise use. This is the bench's only module that knows transformers.
"""

from __future__ import annotations

import copy
import hashlib
from time import perf_counter
from typing import Any, cast

import torch
from attrs import define, field
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from toolkit import Pipeline, Pool, Request, Run

from .arms import Arm
from .engines import Outcome

UNKNOWN = (
    "acceptance nodes_mean draft_share verify_share commit_share peak_memory_bytes verdict ties"
).split()


def whole(pool: Pool, name: str) -> PreTrainedModel:
    """A model as the library loads it, on the pool's device and in its dtype. The pool's own may
    have given its weights to packed copies; one that was given in memory is as it was."""
    if name in pool.modules:
        return pool.modules[name]
    found = cast("Any", pool.find(name))
    module = AutoModelForCausalLM.from_pretrained(
        found.place, dtype=pool.torch_dtype or "auto", local_files_only=found.local
    )
    return cast("PreTrainedModel", module.to(pool.torch_device).eval())


def twin(module: PreTrainedModel, stop_ids: frozenset[int], k: int | None) -> PreTrainedModel:
    """The same weights in a module of its own, greedy, with the library's attention, not ours.

    `k`: tokens that it drafts as an assistant, at every turn; None leaves the library's default.
    """
    shared = {id(tensor): tensor for tensor in [*module.parameters(), *module.buffers()]}
    copied = cast("PreTrainedModel", copy.deepcopy(module, shared))
    copied.set_attn_implementation("sdpa")
    copied.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=sorted(stop_ids) or None,
        pad_token_id=min(stop_ids, default=0),
    )
    if k is not None:
        copied.generation_config.num_assistant_tokens = k
        copied.generation_config.num_assistant_tokens_schedule = "constant"
        copied.generation_config.assistant_confidence_threshold = 0.0
    return copied


@define(eq=False)
class Clock(BaseStreamer):
    """Notes when tokens come and how many: `generate` gives it the prompt first."""

    began: float
    counts: list[int] = field(factory=list)
    times: list[float] = field(factory=list)

    def put(self, value: torch.Tensor) -> None:
        self.counts.append(value.numel())
        self.times.append(perf_counter())

    def end(self) -> None:
        """`generate` calls it; there is nothing to flush."""


@define(eq=False)
class Theirs:
    """An arm of the library. `pipeline` holds its target and drafter, checked to fit; `library` what
    is loaded of its models, which arms share."""

    arm: Arm
    pipeline: Pipeline
    library: dict[str, PreTrainedModel] = field(factory=dict)
    _models: tuple[PreTrainedModel, PreTrainedModel | None] | None = None

    @property
    def models(self) -> tuple[PreTrainedModel, PreTrainedModel | None]:
        """Target and assistant, made on first use."""
        if self._models is None:
            given, drafter = self.arm.specs.get("k"), None
            if self.arm.engine == "hf:assisted":
                module = self._whole(self.pipeline.drafter["id"])
                drafter = twin(module, self.stop_ids, int(given) if given else None)
            self._models = twin(self._whole(self.pipeline.target), self.stop_ids, None), drafter
        return self._models

    def _whole(self, name: str) -> PreTrainedModel:
        if name not in self.library:
            self.library[name] = whole(self.pipeline.pool, name)
        return self.library[name]

    @property
    def stop_ids(self) -> frozenset[int]:
        if self.pipeline.ignore_eos:
            return frozenset()
        return self.pipeline.pool.load(self.pipeline.target).stop_ids

    def run(self, run: Run, number: int, prompt: list[int], max_new_tokens: int) -> Outcome:
        target, drafter = self.models
        ids = torch.tensor([prompt], device=target.device)
        cuda = ids.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats(ids.device)
        forwards: list[None] = []
        hook = target.register_forward_pre_hook(lambda *_: forwards.append(None))
        clock = Clock(perf_counter())
        try:
            with torch.inference_mode():
                out: Any = target.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    streamer=clock,
                    max_new_tokens=max_new_tokens,
                    return_dict_in_generate=True,
                    **self._how(drafter),
                )
            tokens = out.sequences[0, len(prompt) :].tolist()
            wall_ms = 1e3 * (perf_counter() - clock.began)
        finally:
            hook.remove()
        row = self._row(clock, tokens, len(forwards) - 1, wall_ms)
        row |= {
            "run_id": run.run_id,
            "request_id": number,
            "prompt_id": hashlib.sha256(",".join(map(str, prompt)).encode()).hexdigest()[:16],
            "prompt_tokens": len(prompt),
            "kv_bytes": _bytes(out.past_key_values),
            "kv_peak_bytes": None,
        }
        if cuda:
            row["peak_memory_bytes"] = torch.cuda.max_memory_allocated(ids.device)
        request, steps = Request(**row), row["steps"]
        path = row["accepted"] / steps if steps else None
        return Outcome(request, wall_ms, clock.counts[1], path, None, None, None)

    def _how(self, drafter: PreTrainedModel | None) -> dict[str, Any]:
        if drafter is not None:
            return {"assistant_model": drafter}
        if self.arm.engine == "hf:lookup":
            return {"prompt_lookup_num_tokens": int(self.arm.specs.get("k", 10))}
        return {}

    def _row(self, clock: Clock, tokens: list[int], steps: int, wall_ms: float) -> dict[str, Any]:
        """What can be known from outside; `later` tokens came after the first forward's."""
        ttft_ms = 1e3 * (clock.times[1] - clock.began)
        decode_ms, later = wall_ms - ttft_ms, len(tokens) - clock.counts[1]
        tokenizer = self.pipeline.pool.find(self.pipeline.target).tokenizer
        nothing_drafted = 0 if self.arm.engine == "hf:generate" else None
        return dict.fromkeys(UNKNOWN) | {
            "token_ids": tokens,
            "text": tokenizer.decode(tokens) if tokenizer else "",
            "stop_reason": "eos" if tokens[-1] in self.stop_ids else "length",
            "steps": steps,
            "tau": later / steps if steps else None,
            "ttft_ms": ttft_ms,
            "decode_ms": decode_ms,
            "tokens_per_s": 1e3 * later / decode_ms if steps else None,
            "tokens_per_s_end_to_end": 1e3 * len(tokens) / wall_ms,
            "tpot_ms": decode_ms / later if later else None,
            "accepted": later - steps,
            "drafted": nothing_drafted,
            "draft_kv_bytes": nothing_drafted,
        }


def _bytes(cache: Any) -> int | None:
    """Of a cache's keys and values; None when there is none to look into."""
    layers = getattr(cache, "layers", None)
    if not layers:
        return None
    return sum(t.numel() * t.element_size() for layer in layers for t in (layer.keys, layer.values))
