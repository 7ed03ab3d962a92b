"""Is an arm's output AR's? The same question as `toolkit.verify`, asked of rows already measured."""

from __future__ import annotations

from toolkit import Generation, Pipeline, verify

from .store import Row


def compared(row: Row, reference: Row, baseline: Pipeline, prompt: list[int]) -> tuple[str, int]:
    """Verdict and count of ties. Equal tokens are `exact`, and `inconclusive` where our own loop
    drafted nothing; a difference is decided by AR's own logits, as in `toolkit.verify`."""
    if row["token_ids"] == reference["token_ids"]:
        nothing = row["drafted"] == 0 and row["nodes_mean"] is not None
        return ("inconclusive" if nothing else "exact"), 0
    found = verify(baseline, _generation(row, baseline, prompt))
    cut_short = row["stop_reason"] != "eos" and len(row["token_ids"]) < row["max_new_tokens"]
    wrong = found.verdict == "divergent" or not found.ties or cut_short
    return ("divergent" if wrong else "tie"), found.ties


def _generation(row: Row, baseline: Pipeline, prompt: list[int]) -> Generation:
    """What `verify` needs of a request: prompt and tokens."""
    return Generation(
        text=row["text"],
        token_ids=row["token_ids"],
        prompt_ids=prompt,
        stop_reason=row["stop_reason"],
        specs=baseline.specs,
        numerics="",
        ttft_ms=row["ttft_ms"],
        kv_bytes=0,
        kv_peak_bytes=0,
        draft_kv_bytes=0,
        peak_memory_bytes=None,
        events=[],
    )
