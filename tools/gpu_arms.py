"""Models of Pythia's sizes for the GPU bench, and what decodes with them: ours and the library's."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from attrs import define
from gpu_results import Results

PROMPTS = (
    "Once upon a time there was a little",
    "The old sailor looked at the sea and",
    "In the middle of the forest",
)
PYTHIA = {  # the shipped model of that function, width, and layers
    "70m": ("stories-1m", 512, 6),
    "410m": ("stories-11m", 1024, 24),
    "2.8b": ("stories-11m", 2560, 32),
}
VOCABULARY = 50304


def make_models(
    results: Results, sizes: tuple[str, ...] = ("70m", "2.8b")
) -> tuple[Any, dict[str, list[int]]]:
    """A pool with models of Pythia's sizes that compute the shipped models' functions, and prompts."""
    import torch
    from enlarge import enlarge
    from transformers import AutoModelForCausalLM

    from toolkit import Pool, Registry

    pool = Pool(device=results.device, dtype=results.dtype, executor="functional")  # pass by pass
    pool.aliases |= Registry.installed().aliases
    prompts: dict[str, list[int]] = {}
    for size in sizes:
        name, width, layers = PYTHIA[size]
        found: Any = pool.find(name)
        small = AutoModelForCausalLM.from_pretrained(found.path, dtype=torch.float32)
        width, layers = (384, 8) if results.rehearse else (width, layers)
        vocabulary = 4224 if results.rehearse else VOCABULARY
        large = enlarge(small.to(results.device), width=width, layers=layers, vocabulary=vocabulary)
        for weight in large.parameters():  # not the buffers: they hold the rotary frequencies
            weight.data = weight.data.to(pool.torch_dtype)
        large.config.dtype = pool.torch_dtype
        pool.modules[f"pythia-{size}-alike"] = large
        prompts = {text: found.tokenizer(text)["input_ids"] for text in PROMPTS}
    return pool, prompts


def read_bytes(module: Any) -> int:
    """Bytes of weights that a pass reads: all but the input embedding."""
    weights = sum(weight.nbytes for weight in module.parameters())
    return int(weights - module.get_input_embeddings().weight.nbytes)


@define
class Ours:
    """One of our pipelines as an arm."""

    pipeline: Any

    def decode(self, prompt: list[int], tokens: int) -> tuple[list[int], float, Any]:
        """The new tokens, the seconds from the first to the last, and the generation."""
        began = perf_counter()
        made = self.pipeline.generate(prompt, max_new_tokens=tokens)
        return made.token_ids, perf_counter() - began - made.ttft_ms / 1e3, made


@define
class Library:
    """The library's `generate` as an arm: plain, compiled with a static cache, or assisted."""

    target: Any
    drafter: Any = None
    k: int | None = None
    static: bool = False
    warmed: int = 0

    def decode(self, prompt: list[int], tokens: int) -> tuple[list[int], float, None]:
        """As `Ours.decode`. The first time a prompt is decoded twice: shapes are planned once."""
        import torch

        ids = torch.tensor([prompt], device=self.target.device)
        options: dict[str, Any] = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        self.target.set_attn_implementation("sdpa")
        if self.k is not None:
            self.drafter.set_attn_implementation("sdpa")
            self.drafter.generation_config.num_assistant_tokens = self.k
            self.drafter.generation_config.num_assistant_tokens_schedule = "constant"
            options["assistant_model"] = self.drafter
        if self.static:
            options["cache_implementation"] = "static"
        mask = torch.ones_like(ids)
        for _ in range(2 if self.warmed < tokens else 1):
            times = []
            for count in (1, tokens):
                began = perf_counter()
                out = self.target.generate(
                    ids, attention_mask=mask, max_new_tokens=count, **options
                )
                new = out[0, len(prompt) :].tolist()
                times.append(perf_counter() - began)
        self.warmed = tokens
        return new, times[1] - times[0], None


def measure_graphs(results: Results, name: str, executor: Any) -> None:
    """What the GPU needs for a pass, without the host: replays one after the other."""
    import torch

    if executor.captured is None:
        return  # nothing is captured on a CPU
    for rows in (1, 5, 16, 64):
        graph = executor.captured.chain_graph(torch.arange(rows) + 5)
        best = float("inf")
        for _ in range(4):
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            began.record()
            for _ in range(10):
                graph.replay()
            ended.record()
            torch.cuda.synchronize()
            best = min(best, began.elapsed_time(ended) * 100)
        results.add(f"{name}, a pass of {rows} nodes as a graph", "time", best, "µs")
