"""Teacher forcing under a KV policy: what the target says after every token of a given text.

A pass takes as many tokens as a commit may keep. The cache does not depend on the schedule, so this
is what AR would compute one token at a time, in a fraction of the passes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from toolkit.pipeline import Pipeline

if TYPE_CHECKING:
    from torch import Tensor


@frozen(eq=False)
class Forced:
    """Logits [T, V] at the prompt's last token and after each later one but the text's last; KV in
    bytes, at the end and at most."""

    logits: Tensor
    kv_bytes: int
    kv_peak_bytes: int


def forced(pipeline: Pipeline, ids: list[int], prompt: int) -> Forced:
    """The target's logits over `ids[P + T]` after a prompt of P = `prompt` tokens.

    Row t is what the target gives for token P + t, under the pipeline's KV policy.
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
    return Forced(torch.cat(rows), session.cache.bytes, session.cache.peak)
