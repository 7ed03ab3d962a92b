"""Models of Pythia's sizes for the GPU bench, and what decodes with them: ours and the library's."""

from __future__ import annotations

import statistics
from collections import Counter
from time import perf_counter
from typing import Any

from attrs import define, field
from gpu_goals import AGAINST, COST, OVERHEAD, SHARE
from gpu_results import Results

PROMPTS = (
    "Once upon a time there was a little",
    "The old sailor looked at the sea and",
    "In the middle of the forest",
)
OTHER_PROMPTS = ("The king said to his daughter", "It was a cold morning", "She opened the door")
PYTHIA = {  # the shipped model of that function, width, and layers
    "70m": ("stories-1m", 512, 6),
    "410m": ("stories-11m", 1024, 24),
    "2.8b": ("stories-11m", 2560, 32),
}
REHEARSED = {"70m": ("stories-1m", 192, 3)} | dict.fromkeys(
    ("410m", "2.8b"), ("stories-3m", 256, 5)
)
VOCABULARY = 50304
ENOUGH = 60.0  # seconds after which arms begin no other prompt


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
        name, width, layers = (REHEARSED if results.rehearse else PYTHIA)[size]
        found: Any = pool.find(name)
        small = AutoModelForCausalLM.from_pretrained(found.path, dtype=torch.float32)
        vocabulary = 4224 if results.rehearse else VOCABULARY
        large = enlarge(small.to(results.device), width=width, layers=layers, vocabulary=vocabulary)
        for weight in large.parameters():  # not the buffers: they hold the rotary frequencies
            weight.data = weight.data.to(pool.torch_dtype)
        large.config.dtype = pool.torch_dtype
        pool.modules[f"pythia-{size}-alike"] = large
        texts = PROMPTS[:1] if results.rehearse else PROMPTS
        prompts = {text: found.tokenizer(text)["input_ids"] for text in texts}
    return pool, prompts


def planned_growmap(results: Results, pool: Any, nodes: int = 32, depth: int = 6) -> str:
    """The spec of a growmap with the best map of so many nodes and levels for the pair, by how often
    each draw is accepted after other prompts than those that are measured."""
    from toolkit import GrowMap, Pipeline
    from toolkit.cli.growmap import accepted_draws

    named: dict[str, Any] = {"target": "pythia-2.8b-alike", "drafter": "model:pythia-70m-alike"}
    pipeline = Pipeline(**named, shaper="growmap:tree=8", pool=pool, ignore_eos=True)
    tokenizer = pool.find(PYTHIA["2.8b"][0]).tokenizer
    counts: Counter[int] = Counter()
    for text in OTHER_PROMPTS:
        ids = tokenizer(text)["input_ids"]
        counts += accepted_draws(pipeline, ids, 16 if results.rehearse else 64, seed=0)
    vector = GrowMap.smooth([counts[draw] / counts.total() for draw in range(8)])
    shares = " ".join(f"{share:.3f}" for share in vector)
    results.add("acceptance of each draw", "shares", None, note=shares)
    file = results.folder / "growmap.json"
    GrowMap.best(vector, nodes, depth).write(file)
    return f"growmap:tree={file}"


def read_bytes(module: Any) -> int:
    """Bytes of weights that a pass reads: all but the input embedding."""
    weights = sum(weight.nbytes for weight in module.parameters())
    return int(weights - module.get_input_embeddings().weight.nbytes)


@define
class Ours:
    """One of our pipelines as an arm."""

    pipeline: Any

    def warm_up(self, prompts: dict[str, list[int]], tokens: int) -> None:
        """Decode every prompt, so that no graph is recorded later."""
        for prompt in prompts.values():
            self.decode(prompt, tokens)

    def decode(self, prompt: list[int], tokens: int) -> tuple[list[int], float, Any]:
        """The new tokens, the seconds from the first to the last, and the generation."""
        stream = self.pipeline.stream(prompt, max_new_tokens=tokens)
        times = [perf_counter() for _ in stream.decode()]
        return stream.result.token_ids, times[-1] - times[0], stream.result


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


def note_executor(results: Results, name: str, executor: Any) -> None:
    """How a model's passes run: with which linears and which attention."""
    results.add(name, "executor", None, note=executor.why)
    results.add(name, "linears", None, note=executor.linears)
    if executor.captured is not None and executor.captured.attends:
        from toolkit.runtime.compute.executors.stock_attention import keeps_bits

        stock = "keeps" if keeps_bits(executor.captured) else "does not keep"
        note = f"{executor.captured.attention}; PyTorch's {stock} a row's bits"
        results.add(name, "attention", None, note=note)


def choose_attention(results: Results, name: str, executor: Any, module: Any) -> None:
    """Let a model's graphs hold the faster attention for each bucket of rows, whatever its bits."""
    if executor.captured is None:
        return
    from toolkit.runtime.compute.executors.fastest import module_key
    from toolkit.runtime.compute.executors.stock_attention import find_stock_rows

    captured = executor.captured
    captured.stock_rows = find_stock_rows(captured, module_key(module), keep_bits=False)
    results.add(name, "attention", None, note=captured.attention)


def note_fallbacks(results: Results, name: str, executor: Any) -> None:
    """Say so where a model's passes are no graphs on a GPU."""
    if results.rehearse:
        return
    if executor.captured is None or executor.captured.failure is not None:
        results.add(name, "fell back", None, note=executor.why)


def note_general_steps(results: Results, arm: str, generation: Any) -> None:
    """Say so where no step of a generation ran as one graph on a GPU."""
    general = generation.steps_run.partition(" ")[0] in ("0", "pass")
    if general and not results.rehearse:
        results.add(arm, "fell back", None, note=generation.steps_run)


def note_cost(
    results: Results, name: str, speeds: dict[str, dict[int, float]], levels: dict[str, str]
) -> None:
    """What level bitwise costs an arm. Without that level there is nothing to compare: say so."""
    with results.surviving(f"{name}, {COST}"):
        if levels[name] == "bitwise":
            cost = 100 * (gain(speeds[f"{name}, tie"], speeds[name]) - 1)
            results.add(name, COST, cost, "%", "tie over bitwise, prompt by prompt")
        elif not results.rehearse:
            results.add(name, "fell back", None, note=f"level {levels[name]} instead of bitwise")


def gain(ours: dict[int, float], theirs: dict[int, float]) -> float:
    """The geometric mean of one arm's speeds over another's, of the prompts that both decoded."""
    return statistics.geometric_mean(ours[each] / theirs[each] for each in ours.keys() & theirs.keys())


@define
class Decoded:
    """What an arm has decoded: speeds by prompt, results of ours, and how often it gave AR's tokens."""

    speeds: dict[int, float] = field(factory=dict)
    made: list[Any] = field(factory=list)
    equal: int = 0


def measure_arms(
    results: Results,
    arms: dict[str, Any],
    prompts: list[list[int]],
    tokens: int,
    limit: float,
    target: str = "",
) -> tuple[dict[str, dict[int, float]], dict[str, str]]:
    """Decode each prompt with each arm in turn, and compare their speeds with AR's: in whole steps
    where it has these. Returns the arms' speeds by prompt, and the levels of ours; rows have the
    target's name before the arm's. They are kept where the stage is interrupted, too."""
    decoded = {name: Decoded() for name in arms}
    try:
        _decode_in_turn(results, arms, prompts, tokens, decoded)
    finally:
        whole = decoded.get("AR, whole step", Decoded()).speeds
        for name, of in decoded.items():
            if of.speeds:
                _add_speed(results, target + name, of, limit)
                note = f"AR: AR{', whole step' if whole else ''}"
                with results.surviving(f"{target}{name} against AR"):
                    ratio = gain(of.speeds, whole or decoded["AR"].speeds)
                    results.add(target + name, AGAINST, ratio, note=note, dtype=results.dtype)
    speeds = {name: of.speeds for name, of in decoded.items()}
    return speeds, {name: of.made[0].numerics for name, of in decoded.items() if of.made}


def _decode_in_turn(
    results: Results,
    arms: dict[str, Any],
    prompts: list[list[int]],
    tokens: int,
    decoded: dict[str, Decoded],
) -> None:
    began, names = perf_counter(), list(arms)
    for index, prompt in enumerate(prompts):
        if perf_counter() - began > ENOUGH:
            break
        reference: list[int] | None = None
        for name in ["AR", *names[index + 1 :], *names[1 : index + 1]]:
            of = decoded[name]
            with results.surviving(name):
                ids, seconds, generation = arms[name].decode(prompt, tokens)
                reference = ids if name == "AR" else reference
                of.speeds[index] = (len(ids) - 1) / seconds
                of.equal += ids == reference
                of.made += [generation] if generation else []
            if reference is None:
                break  # the others' tokens could not be compared


def _add_speed(results: Results, arm: str, of: Decoded, limit: float) -> None:
    """The rows of an arm: speeds, parts of a step, τ and memory."""
    speed = statistics.median(of.speeds.values())
    same = f"AR's tokens in {of.equal} of {len(of.speeds)}"
    results.add(arm, "speed", speed, "tokens/s", same, results.dtype)
    results.add(arm, SHARE, 100 * speed / limit, "%", dtype=results.dtype)
    steps = [step for generation in of.made for step in generation.steps]
    if not steps:
        return
    whole = sum(step.total_ms for step in steps)
    for part in ("draft_ms", "verify_ms", "commit_ms", "shape_ms"):
        mean = sum(getattr(step, part) for step in steps) / len(steps)
        results.add(arm, part, mean, "ms a step", dtype=results.dtype)
    rest = sum(step.shape_ms + step.commit_ms for step in steps) / whole
    results.add(arm, OVERHEAD, 100 * rest, "% of a step")
    first = of.made[0]
    tau = statistics.mean(generation.tau for generation in of.made)
    results.add(arm, "τ", tau, note=first.steps_run, dtype=results.dtype)
    if arm.endswith("whole step"):
        note_general_steps(results, arm, first)
    if of.equal < len(of.speeds) and first.numerics == "bitwise":
        results.add(arm, "failed", None, note="other tokens than AR's at level bitwise")
    peak = max(generation.peak_memory_bytes or 0 for generation in of.made) / 1e9
    results.add(arm, "peak memory", peak, "GB", note=f"level {first.numerics}")
