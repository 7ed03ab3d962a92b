"""Times of what a GPU does, for the GPU bench."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter


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
