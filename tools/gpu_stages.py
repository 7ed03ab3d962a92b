"""The stages of the GPU bench, in processes of their own: see `bench_gpu.py`."""

from __future__ import annotations

import itertools
import statistics
from time import perf_counter
from typing import Any

from attrs import evolve
from gpu_arms import (
    PROMPTS,
    Library,
    Ours,
    choose_attention,
    gain,
    make_models,
    measure_arms,
    note_cost,
    note_executor,
    note_fallbacks,
    note_general_steps,
    planned_growmap,
    read_bytes,
)
from gpu_goals import AGAINST, COPIES, LEVEL, PAGEABLE, STATIC
from gpu_kernels import run_kernels
from gpu_results import Results
from gpu_timing import copy_bandwidth, measure_graphs, measure_level, microseconds

__all__ = [
    "run_compiled", "run_exact", "run_kernels", "run_llama", "run_machine", "run_profile", "run_speed",
]  # fmt: skip
SHAPERS = ("chain:k=4", "fixed", "adaptive", "budget", "growmap", "planned")
WHOLE = ("AR", *STATIC)  # whose steps are one graph, when asked for
POLICIES = (
    "streaming:budget=32",
    "h2o:budget=32,epoch=8,recent=8",
    "window:budget=32",
    "knorm:budget=32,epoch=8",
)


def run_machine(results: Results) -> None:
    """The card, its versions, its bandwidth, what a launch costs, and whether our kernels run."""
    import torch
    import transformers

    from toolkit.runtime.kernels.triton import jit

    device = results.device
    name = "CPU" if device == "cpu" else torch.cuda.get_device_name()
    versions = f"PyTorch {torch.__version__}, Transformers {transformers.__version__}"
    results.add(name, "versions", None, note=f"{versions}, CUDA {torch.version.cuda}")
    results.add("copy", "bandwidth", copy_bandwidth(device) / 1e9, "GB/s", "read and written")
    one = torch.zeros(1, device=device)
    results.add("a kernel in a graph", "time", microseconds(lambda: one.add_(1), device), "µs")
    began = perf_counter()
    for _ in range(1000):
        one.add_(1)
    results.add("a launch from Python", "time", 1e3 * (perf_counter() - began), "µs")
    if not results.rehearse and not jit.runs(one):
        results.add("Triton", "fell back", None, note="cannot launch our kernels: see log.txt")


def run_exact(results: Results) -> None:
    """Every kind of part with the shipped models, in each dtype, against its own AR pass by pass."""
    from toolkit import Pipeline, Pool
    from toolkit.exactness import compare_with_ar

    arms: list[dict[str, Any]] = [{"drafter": "model", "shaper": shaper} for shaper in SHAPERS]
    arms += [{"drafter": "ngram"}, {"drafter": "self"}]
    arms += [{"drafter": "model", "kv": policy} for policy in POLICIES]
    whole = [{"drafter": "none"}, *({"drafter": "model", "shaper": shaper} for shaper in STATIC)]
    for executor, dtype in itertools.product(
        ("functional", "auto"), ("fp32",) if results.rehearse else ("fp32", "bf16", "fp16")
    ):
        pool = Pool(device=results.device, dtype=dtype, executor=executor)
        for arm in arms if executor == "functional" else whole:
            what = " ".join(f"{key}={value}" for key, value in arm.items())
            what += ", whole step" * (executor == "auto")
            with results.surviving(f"{what} {dtype}"):
                pipeline = Pipeline(**arm, pool=pool)
                made = pipeline.generate(PROMPTS[0], max_new_tokens=16 if results.rehearse else 64)
                found = compare_with_ar(pipeline, made.prompt_ids, made.token_ids)
                note = f"{found.verdict}, {found.ties} ties, level {made.numerics}; {made.steps_run}"
                results.add(what, "τ", made.tau, note=note, dtype=dtype)
                if found.verdict == "divergent":
                    results.add(what, "failed", None, note="its tokens are not AR's", dtype=dtype)
                if executor == "auto":
                    note_general_steps(results, what, made)


def run_speed(results: Results) -> None:
    """AR, every shaper and the library's `generate` on a pair of Pythia's sizes, prompt by prompt. Then
    AR and one shaper on a smaller target."""
    from toolkit import Pipeline

    pool, prompts = make_models(results, ("70m", "410m", "2.8b"))
    target, drafter = pool.modules["pythia-2.8b-alike"], pool.modules["pythia-70m-alike"]
    for name, module in pool.modules.items():
        results.add(name, "parameters", module.num_parameters() / 1e6, "M")
        with results.surviving(name):
            note_executor(results, name, pool.load(name).executor)
    with results.surviving("graphs"):
        for name in pool.modules:
            measure_graphs(results, name, pool.load(name).executor)
        pair = (pool.load(f"pythia-{size}-alike").executor for size in ("70m", "2.8b"))
        measure_level(results, *pair)
    limit = copy_bandwidth(results.device) / read_bytes(target)
    results.add("bandwidth limit", "speed", limit, "tokens/s", "weights once a token, by a copy")
    arms: dict[str, Any] = {}
    named: dict[str, Any] = {"target": "pythia-2.8b-alike", "pool": pool, "ignore_eos": True}
    choices: dict[str, dict[str, Any]] = {"AR": {"drafter": "none"}} | {
        shaper: {"drafter": "model:pythia-70m-alike", "shaper": shaper}
        for shaper in dict.fromkeys((*SHAPERS, *STATIC))
    }
    for policy in POLICIES[:2]:  # whose masks are in the graphs
        choices[f"budget, {policy}"] = choices["budget"] | {"kv": policy}
    whole = {"pool": evolve(pool, executor="auto")}
    choices |= {f"{name}, whole step": choices[name] | whole for name in WHOLE}
    choices["default, whole step"] = {"drafter": "model:pythia-70m-alike"} | whole
    with results.surviving("planned growmap"):
        planned = {"shaper": planned_growmap(results, pool)}
        choices["growmap of 32 nodes, whole step"] = choices["growmap"] | planned | whole
    tokens = 16 if results.rehearse else 128
    for name, choice in choices.items():
        with results.surviving(name):
            arms[name] = Ours(Pipeline(**{**named, **choice}))
            arms[name].warm_up(prompts, tokens)
    with results.surviving("default"):
        default = arms["default, whole step"].pipeline
        results.add("default", "shaper", None, note=f"{default.shaper}, {default.reasons['shaper']}")
    # The same weights at level tie: no linear is padded to keep a row's bits, attention is the faster.
    loose = evolve(pool)
    for name, module in (("pythia-2.8b-alike", target), ("pythia-70m-alike", drafter)):
        executor: Any = loose.load(name).executor
        executor.maps.rule.row_multiple, executor.batch_invariant = 1, False
        with results.surviving(f"{name}, tie"):
            choose_attention(results, f"{name}, tie", executor, module)
    for name in ("AR", "budget"):
        with results.surviving(f"{name}, tie"):
            arms[f"{name}, tie"] = Ours(Pipeline(**{**named, **choices[name], "pool": loose}))
            arms[f"{name}, tie"].warm_up(prompts, tokens)
    for k in (None, 8, 16):
        arms["generate" if k is None else f"assisted, k = {k}"] = Library(target, drafter, k)
    speeds, levels = measure_arms(results, arms, list(prompts.values()), tokens, limit)
    for name in ("AR", "budget"):
        note_cost(results, name, speeds, levels)
    for name in WHOLE:
        with results.surviving(f"{name}, gain of whole steps"):
            ratio = gain(speeds[f"{name}, whole step"], speeds[name])
            results.add(name, "whole step × general loop", ratio, note="prompt by prompt")
    with results.surviving("costs"):
        costs = arms["planned"].pipeline.costs(fresh=True)
        one = costs.target[0][0]
        results.add("a pass of 1 node", "time", one, "ms")
        results.add(LEVEL, "ratio", costs.draft[0][0] / one, note="pass by pass, with the host")
        for rows, time in zip(costs.rows, costs.target[0], strict=True):
            results.add(f"a pass of {rows} nodes", "over one of 1", time / one)
    with results.surviving("410m"):
        named["target"] = "pythia-410m-alike"
        limit *= read_bytes(target) / read_bytes(pool.modules["pythia-410m-alike"])
        smaller: dict[str, Any] = {}
        for name in ("AR", "budget"):
            smaller[name] = Ours(Pipeline(**named, **choices[name]))
            smaller[name].warm_up(prompts, tokens)
        measure_arms(results, smaller, list(prompts.values()), tokens, limit, "410m ")
    for each, name in itertools.product((pool, whole["pool"]), pool.modules):  # what failed on the way
        note_fallbacks(results, name, each.load(name).executor)


def run_llama(results: Results) -> None:
    """The sizes of Llama 3 8B with random weights: times alone mean something."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from toolkit import Pipeline, Pool

    small = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2}
    large = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
    sizes: dict[str, Any] = small if results.rehearse else large
    heads = sizes["hidden_size"] // 128
    config = LlamaConfig(
        **sizes, num_attention_heads=heads, num_key_value_heads=max(1, heads // 4),
        vocab_size=4096 if results.rehearse else 128256, max_position_embeddings=8192,
    )  # fmt: skip
    pool = Pool(device=results.device, dtype=results.dtype)
    with torch.device(results.device):
        module = LlamaForCausalLM._from_config(config, dtype=pool.torch_dtype).eval()
    results.add("llama-8b-alike", "parameters", module.num_parameters() / 1e6, "M")
    limit = copy_bandwidth(results.device) / read_bytes(module)
    pipeline = Pipeline(module, drafter="none", pool=pool, ignore_eos=True)
    executor = pipeline.session().model.executor
    note_executor(results, "llama-8b-alike", executor)
    for length in (64,) if results.rehearse else (512, 3000):
        session = pipeline.session()
        session.prefill([1 + i % 1000 for i in range(length)])
        for rows in (1, 16, 64):
            times = []
            for _ in range(4 if results.rehearse else 12):
                began = perf_counter()
                logits = session.forward([5] * rows, [-1, *([0] * (rows - 1))])
                logits[0].argmax().item()
                session.commit([0])
                times.append(1e3 * (perf_counter() - began))
            time = statistics.median(times[2:])
            note = f"{100e3 / time / limit:.0f} % of the bandwidth limit" if rows == 1 else ""
            what = f"a pass of {rows} nodes after {length} tokens"
            results.add(what, "time", time, "ms", note, results.dtype)
    note_fallbacks(results, "llama-8b-alike", executor)


def run_profile(results: Results) -> None:
    """Kernels, launches, copies and the GPU's time, of steps in the middle of a request."""
    from torch.profiler import ProfilerActivity, profile

    from toolkit import Pipeline

    pool, prompts = make_models(results)
    named: dict[str, Any] = {"target": "pythia-2.8b-alike", "pool": pool, "ignore_eos": True}
    drafted: dict[str, Any] = {"drafter": "model:pythia-70m-alike", "shaper": "budget"}
    arms: dict[str, dict[str, Any]] = {"AR": {"drafter": "none"}, "budget": drafted}
    arms |= {shaper: drafted | {"shaper": shaper} for shaper in STATIC}
    whole = {"pool": evolve(pool, executor="auto")}
    arms |= {f"{name}, whole step": arms[name] | whole for name in WHOLE}
    kinds = [ProfilerActivity.CPU] + ([] if results.rehearse else [ProfilerActivity.CUDA])
    most, prompt = 3 if results.rehearse else 12, list(prompts.values())[-1]
    tables = results.folder / "profiles.txt"
    tables.unlink(missing_ok=True)
    for name, choice in arms.items():
        with results.surviving(name):
            arm = Ours(Pipeline(**{**named, **choice}))
            arm.decode(prompt, 8 * (most + 8))  # graphs are captured
            events = arm.pipeline.stream(prompt, max_new_tokens=8 * (most + 8)).decode()
            for _ in range(4):
                next(events)
            with profile(activities=kinds) as seen:
                made = [event.step for event in itertools.islice(events, most)]
            events.close()
            steps, averages = len(made), seen.key_averages()
            key = "self_cpu_time_total" if results.rehearse else "self_cuda_time_total"
            with tables.open("a") as file:
                file.write(f"== {name}\n{averages.table(sort_by=key, row_limit=40)}\n")
            launches = sum(a.count for a in averages if "Launch" in a.key)
            kernels = [a for a in averages if a.device_type.name == "CUDA"]
            busy = sum(kernel.self_device_time_total for kernel in kernels) / 1e3
            count = sum(kernel.count for kernel in kernels)
            results.add(name, "kernels", count / steps, "a step")
            results.add(name, "launches", launches / steps, "a step", "graphs count once")
            results.add(name, "GPU busy", busy / steps, "ms a step")
            if not results.rehearse:
                levels = 0.0 if name.startswith("AR") else sum(step.depth for step in made) / steps
                _count_copies(results, name, kernels, steps, levels)


def _count_copies(
    results: Results, name: str, averages: list[Any], steps: int, levels: float
) -> None:
    """Copies between host and device in a step, as the profiler names them. Raises `RuntimeError`
    where it saw nothing of the GPU: then none were counted."""
    if not averages:
        raise RuntimeError("the profiler saw no work of the GPU")
    way = {w: sum(a.count for a in averages if w in a.key) / steps for w in ("HtoD", "DtoH")}
    pageable = sum(a.count for a in averages if "Pageable" in a.key) / steps
    note = f"{way['HtoD']:.3g} to the device, {way['DtoH']:.3g} to the host; {levels:.3g} levels"
    results.add(name, "copies", sum(way.values()), "a step", note)
    results.add(name, PAGEABLE, pageable, "a step")
    if "whole step" not in name:
        results.add(name, COPIES, max(way.values()) - levels, "a step", "of the direction with more")


def run_compiled(results: Results) -> None:
    """The library's `generate` with its static cache, which it compiles, and our AR beside it."""
    from toolkit import Pipeline

    pool, prompts = make_models(results)
    name, tokens, ratios = "pythia-2.8b-alike", 8 if results.rehearse else 128, []
    whole = evolve(pool, executor="auto")
    ours = Ours(Pipeline(name, drafter="none", pool=whole, ignore_eos=True))
    arm = Library(pool.modules[name], static=True)
    for prompt in list(prompts.values())[:2]:
        began = perf_counter()
        ids, seconds, _ = arm.decode(prompt, tokens)
        took = f"{perf_counter() - began:.0f} s with compiling and warming up"
        speed = (len(ids) - 1) / seconds
        results.add("generate, static cache", "speed", speed, "tokens/s", took)
        ours.decode(prompt, tokens)  # graphs are captured
        known, seconds, _ = ours.decode(prompt, tokens)
        ratios.append(speed * seconds / (len(known) - 1))
        mean, note = statistics.geometric_mean(ratios), f"AR's tokens: {ids == known}"
        results.add("generate, static cache", AGAINST, mean, note=f"{note}, {len(ratios)} prompts")
