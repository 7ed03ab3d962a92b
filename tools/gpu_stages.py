"""The stages of the GPU bench, in processes of their own: see `bench_gpu.py`."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

from attrs import evolve
from gpu_arms import (
    PROMPTS,
    VOCABULARY,
    Library,
    Ours,
    least_ms,
    make_models,
    measure_arms,
    measure_graphs,
    planned_growmap,
    read_bytes,
)
from gpu_results import Results

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
SHAPERS = ("chain:k=4", "fixed", "adaptive", "budget", "growmap", "planned")
STATIC = ("chain:k=4", "fixed:threshold=0", "growmap")
WHOLE = ("AR", *STATIC)  # whose steps are one graph, when asked for
POLICIES = (
    "streaming:budget=32",
    "h2o:budget=32,epoch=8,recent=8",
    "window:budget=32",
    "knorm:budget=32,epoch=8",
)
LINEARS = {  # inputs and outputs of a layer's products
    "2.8b qkv": (2560, 7680), "2.8b out": (2560, 2560), "2.8b up": (2560, 10240),
    "2.8b down": (10240, 2560), "8b qkv": (4096, 6144), "8b gate and up": (4096, 28672),
    "8b down": (14336, 4096),
}  # fmt: skip


def microseconds(run: Callable[[], object], device: str, repeats: int = 20) -> float:
    """The time of one call: in a CUDA graph of several, by events; on the CPU by the clock."""
    import torch

    run()
    if device == "cpu":
        began = perf_counter()
        run()
        return 1e6 * (perf_counter() - began)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            run()
    return 1e3 * least_ms(graph.replay) / repeats


def copy_bandwidth(device: str) -> float:
    """Bytes read and written a second by the faster of a copy and a kernel that copies."""
    import torch

    size = 1 << (22 if device == "cpu" else 29)
    source = torch.zeros(size, device=device)
    target = torch.empty_like(source)
    if device != "cpu":
        for _ in range(3):  # the first ones map memory
            target.copy_(source)
    ways = (lambda: target.copy_(source), lambda: torch.add(source, 0.0, out=target))
    return 2e6 * source.nbytes / min(microseconds(way, device, 3) for way in ways)


def run_machine(results: Results) -> None:
    """The card, its versions, its bandwidth, and what a launch costs."""
    import torch
    import transformers

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


def run_kernels(results: Results) -> None:
    """Triton kernels against their plain forms, cuBLAS beside the skinny linear, and their bits."""
    import torch

    from toolkit.runtime.kernels.triton import attention, norms, rotary, top_tokens

    device, rows = results.device, 16
    slots = torch.arange(rows, dtype=torch.int32, device=device)
    length = torch.tensor([900], dtype=torch.int32, device=device)
    path = torch.arange(900, 964, dtype=torch.int32, device=device).expand(rows, -1)
    for name, dtype in DTYPES.items():
        draw: Any = partial(torch.randn, device=device, dtype=getattr(torch, dtype))
        cache, qkv, angles = draw(2, 32, 1024, 80), draw(3, rows, 32, 80), draw(2, 128, 20)
        x, logits = draw(3, rows, 2560), draw(rows, VOCABULARY)
        pairs: dict[str, tuple[Any, Any, tuple[Any, ...]]] = {
            "tree attention": (
                attention.tree_attention,
                attention.tree_attention_plain,
                (qkv[0], *cache, length, slots, torch.minimum(path, length + slots[:, None]), 0.1),
            ),
            "rotation and KV write": (
                rotary.rotate_and_store,
                rotary.rotate_and_store_plain,
                (*qkv, *angles, slots, slots, *cache),
            ),
            "two additions and a norm": (
                lambda *given: norms.add_and_norm(*given)[1],
                lambda *given: norms.add_and_norm_plain(*given)[1],
                (x[0], (x[1], x[2]), ((x[0, 0], x[1, 0]),), 1e-5, False),
            ),
            "top 2 of 50304": (
                lambda *given: top_tokens.top_tokens(*given)[0],
                lambda *given: top_tokens.top_tokens_plain(*given)[0],
                (logits, 2),
            ),
        }
        for what, (kernel, plain, given) in pairs.items():
            with results.surviving(what):
                expected = plain(*given).double()
                error = float((kernel(*given).double() - expected).norm() / expected.norm())
                results.add(what, "difference from plain", error, dtype=name)
                if name == results.dtype:
                    time = microseconds(partial(kernel, *given), device)
                    results.add(what, "time", time, "µs", f"{rows} rows", name)
    for what, (inputs, outputs) in list(LINEARS.items())[: 2 if results.rehearse else None]:
        with results.surviving(what):
            _measure_linear(results, what, inputs, outputs)


def _measure_linear(results: Results, what: str, inputs: int, outputs: int) -> None:
    """GB/s of weights, and whether a row has the same bits in passes of other sizes."""
    import torch
    from torch.nn import functional

    from toolkit.runtime.kernels.triton.linear import SkinnyLinear

    count = 1 if results.rehearse else max(1, 300_000_000 // (2 * inputs * outputs))  # beyond caches
    shape = count, outputs, inputs
    weights = torch.randn(shape, device=results.device, dtype=torch.bfloat16) * inputs**-0.5
    kinds: dict[str, list[Callable[[Any], Any]]] = {
        "cuBLAS": [partial(functional.linear, weight=weight) for weight in weights],
        "skinny": [SkinnyLinear.of(weight) for weight in weights],
    }
    x = torch.randn(64, inputs, device=results.device, dtype=torch.bfloat16)
    for kind, linears in kinds.items():
        for rows in (1, 16, 64):
            part = x[:rows].contiguous()
            calls = partial(_call_each, linears, part)
            time = microseconds(calls, results.device, max(1, 20 // count))
            rate = weights.nbytes / time / 1e3
            results.add(f"{what}, {rows} rows, {kind}", "weights read", rate, "GB/s", dtype="bf16")
        whole = linears[0](x)
        same = [m for m in (1, 2, 8, 9, 16, 17, 32, 48) if linears[0](x[:m]).equal(whole[:m])]
        note = f"counts of rows with the bits of 64: {same}"
        results.add(f"{what}, {kind}", "bits", None, note=note, dtype="bf16")


def _call_each(linears: list[Any], x: Any) -> None:
    for linear in linears:
        linear(x)


def run_exact(results: Results) -> None:
    """Every kind of part with the shipped models, in each dtype, against its own AR pass by pass."""
    from toolkit import Pipeline, Pool
    from toolkit.exactness import compare_with_ar

    arms: list[dict[str, Any]] = [{"drafter": "model", "shaper": shaper} for shaper in SHAPERS]
    arms += [{"drafter": "ngram"}, {"drafter": "self"}]
    arms += [{"drafter": "model", "kv": policy} for policy in POLICIES]
    whole = [{"drafter": "none"}, *({"drafter": "model", "shaper": shaper} for shaper in STATIC)]
    for executor, dtype in itertools.product(
        ("functional", "auto"), ("fp32",) if results.rehearse else DTYPES
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


def run_speed(results: Results) -> None:
    """AR, every shaper and the library's `generate` on a pair of Pythia's sizes, prompt by prompt. Then
    AR and one shaper on a smaller target."""
    from toolkit import Pipeline

    pool, prompts = make_models(results, ("70m", "410m", "2.8b"))
    target, drafter = pool.modules["pythia-2.8b-alike"], pool.modules["pythia-70m-alike"]
    for name, module in pool.modules.items():
        why = pool.load(name).executor.why
        results.add(name, "parameters", module.num_parameters() / 1e6, "M", why)
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
    with results.surviving("planned growmap"):
        planned = {"shaper": planned_growmap(results, pool)}
        choices["growmap of 32 nodes, whole step"] = choices["growmap"] | planned | whole
    tokens = 16 if results.rehearse else 128
    for name, choice in choices.items():
        with results.surviving(name):
            arms[name] = Ours(Pipeline(**{**named, **choice}))
            arms[name].warm_up(prompts, tokens)
    # The same weights at level tie, where no linear is padded to keep a row's bits.
    loose = evolve(pool)
    for name in pool.modules:
        executor: Any = loose.load(name).executor
        executor.maps.rule.row_multiple, executor.batch_invariant = 1, False
    for name in ("AR", "budget"):
        with results.surviving(f"{name}, tie"):
            arms[f"{name}, tie"] = Ours(Pipeline(**{**named, **choices[name], "pool": loose}))
            arms[f"{name}, tie"].warm_up(prompts, tokens)
    for k in (None, 4, 8):
        arms["generate" if k is None else f"assisted, k = {k}"] = Library(target, drafter, k)
    speeds = measure_arms(results, arms, list(prompts.values()), tokens, limit)
    for name in ("AR", "budget"):
        with results.surviving(f"{name}, cost of bitwise"):
            pairs = zip(speeds[f"{name}, tie"], speeds[name], strict=True)
            cost = 100 * (statistics.geometric_mean(tie / ours for tie, ours in pairs) - 1)
            results.add(name, "cost of bitwise", cost, "%", "tie over bitwise, prompt by prompt")
    for name in WHOLE:
        with results.surviving(f"{name}, gain of whole steps"):
            pairs = zip(speeds[f"{name}, whole step"], speeds[name], strict=True)
            gain = statistics.geometric_mean(ours / general for ours, general in pairs)
            results.add(name, "whole step × general loop", gain, note="prompt by prompt")
    with results.surviving("costs"):
        costs = arms["planned"].pipeline.costs(fresh=True)
        one = costs.target[0][0]
        results.add("a pass of 1 node", "time", one, "ms")
        results.add("drafter level over target pass", "ratio", costs.draft[0][0] / one)
        for rows, time in zip(costs.rows, costs.target[0], strict=True):
            results.add(f"a pass of {rows} nodes", "over one of 1", time / one)
    with results.surviving("graphs"):
        for name in pool.modules:
            measure_graphs(results, name, pool.load(name).executor)
    with results.surviving("410m"):
        named["target"] = "pythia-410m-alike"
        limit *= read_bytes(target) / read_bytes(pool.modules["pythia-410m-alike"])
        smaller: dict[str, Any] = {}
        for name in ("AR", "budget"):
            smaller[name] = Ours(Pipeline(**named, **choices[name]))
            smaller[name].warm_up(prompts, tokens)
        measure_arms(results, smaller, list(prompts.values()), tokens, limit, "410m ")


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


def run_profile(results: Results) -> None:
    """Kernels, launches and the GPU's share of a step's time."""
    from torch.profiler import ProfilerActivity, profile

    from toolkit import Pipeline

    pool, prompts = make_models(results)
    named: dict[str, Any] = {"target": "pythia-2.8b-alike", "pool": pool, "ignore_eos": True}
    drafted: dict[str, Any] = {"drafter": "model:pythia-70m-alike", "shaper": "budget"}
    arms: dict[str, dict[str, Any]] = {"AR": {"drafter": "none"}, "budget": drafted}
    arms["growmap"] = drafted | {"shaper": "growmap"}
    for name in ("AR", "growmap"):
        arms[f"{name}, whole step"] = arms[name] | {"pool": evolve(pool, executor="auto")}
    kinds = [ProfilerActivity.CPU] + ([] if results.rehearse else [ProfilerActivity.CUDA])
    for name, choice in arms.items():
        with results.surviving(name):
            arm = Ours(Pipeline(**{**named, **choice}))
            prompt = prompts[PROMPTS[1]]
            arm.decode(prompt, 32)
            with profile(activities=kinds) as seen:
                made = arm.decode(prompt, 16)[2]
            steps = len(made.steps)
            averages = seen.key_averages()
            file = "-".join(["profile", *name.replace(",", "").split()])
            (results.folder / f"{file}.txt").write_text(
                averages.table(sort_by="self_cuda_time_total", row_limit=40)
                if not results.rehearse
                else averages.table(sort_by="self_cpu_time_total", row_limit=40)
            )
            launches = sum(a.count for a in averages if "Launch" in a.key)
            kernels = [a for a in averages if a.device_type.name == "CUDA"]
            busy = sum(kernel.self_device_time_total for kernel in kernels) / 1e3
            count = sum(kernel.count for kernel in kernels)
            results.add(name, "kernels", count / steps, "a step", f"{steps} steps, and a prompt")
            results.add(name, "launches", launches / steps, "a step", "graphs count once")
            results.add(name, "GPU busy", busy / steps, "ms a step", f"{steps} steps, and a prompt")


def run_compiled(results: Results) -> None:
    """The library's `generate` with its static cache, which it compiles."""
    pool, prompts = make_models(results)
    arm = Library(pool.modules["pythia-2.8b-alike"], static=True)
    tokens = 8 if results.rehearse else 128
    for prompt in list(prompts.values())[: 1 if results.rehearse else 2]:
        began = perf_counter()
        ids, seconds, _ = arm.decode(prompt, tokens)
        took = f"{perf_counter() - began:.0f} s with compiling and warming up"
        results.add("generate, static cache", "speed", (len(ids) - 1) / seconds, "tokens/s", took)
