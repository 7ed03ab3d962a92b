"""Teacher forcing under a KV policy: the target's logits after every token of a given text.

Each pass reads as many tokens as a commit may keep. The cache does not depend on the schedule, so the
logits are those of AR, computed in far fewer passes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from toolkit.pipeline import Pipeline

if TYPE_CHECKING:
    from torch import Tensor


@frozen(eq=False)
class TeacherForced:
    """Logits [T, V] at the last token of the prompt and at each later token except the last one of the
    text; bytes of KV held at the end, and at most."""

    logits: Tensor
    kv_bytes: int
    kv_peak_bytes: int


def teacher_force(pipeline: Pipeline, ids: list[int], prompt: int) -> TeacherForced:
    """The target's logits on `ids[P + T]`, of which the first P = `prompt` tokens are the prompt.

    Row t predicts token P + t, under the pipeline's KV policy.
    """
    import torch

    session = pipeline.session()
    rows, rest = [session.prefill(pipeline.encode(ids[:prompt]))[None]], ids[prompt:-1]
    while rest:
        count = session.max_draft_depth + 1
        chunk, rest = rest[:count], rest[count:]
        chain = list(range(len(chunk)))
        rows.append(session.forward(chunk, [row - 1 for row in chain]))
        session.commit(chain)
    return TeacherForced(torch.cat(rows), session.cache.bytes, session.cache.peak)
