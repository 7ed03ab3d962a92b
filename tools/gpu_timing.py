"""Times of what a GPU does, for the GPU bench."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

from gpu_goals import LEVEL
from gpu_results import Results


def least_ms(run: Callable[[], object], times: int = 1) -> float:
    """The least time of four that the GPU takes for what a function launches, in milliseconds by
    events; of one call among several, one after the other."""
    import torch

    found = []
    for _ in range(4):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        for _ in range(times):
            run()
        ended.record()
        torch.cuda.synchronize()
        found.append(began.elapsed_time(ended) / times)
    return min(found)


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


def measure_graphs(results: Results, name: str, executor: Any) -> None:
    """What the GPU needs for a pass, without the host: replays one after the other."""
    if executor.captured is None:
        return  # nothing is captured on a CPU
    for rows in (1, 5, 16, 64):
        graph = executor.captured.chain_graph(list(range(5, 5 + rows)))
        time = 1e3 * least_ms(graph.replay, 10)
        results.add(f"{name}, a pass of {rows} nodes as a graph", "time", time, "µs")


def measure_level(results: Results, drafter: Any, target: Any) -> None:
    """A level of the drafter, a pass and its likeliest tokens, over a pass of the target."""
    from toolkit.runtime.kernels.triton.top_tokens import packed_top_tokens

    if drafter.captured is None or target.captured is None:
        return
    level, verify = (each.captured.chain_graph([5]) for each in (drafter, target))
    find, _ = drafter.captured.recorder.record(partial(packed_top_tokens, level.logits[:1], 4))
    time = least_ms(lambda: (level.replay(), find()), 10)
    over = time / least_ms(verify.replay, 10)
    results.add(f"{LEVEL}, as graphs", "ratio", over, note="1 row, the 4 likeliest tokens")
