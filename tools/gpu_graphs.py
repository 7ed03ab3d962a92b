"""Times of passes as graphs, without the host, for the GPU bench."""

from __future__ import annotations

from functools import partial
from typing import Any

from gpu_goals import LEVEL
from gpu_results import Results
from gpu_timing import least_ms


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
