"""AR, the reference of every other test, is itself what transformers' own `generate` gives."""

import pytest
import torch

from toolkit import Pipeline, Pool, Registry
from toolkit.conformance.models import FAMILIES, noisy, tiny

REGISTRY = Registry.installed()
PROMPTS = ([5, 9, 33, 4], [1], list(range(1, 25)))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_greedy_generate_gives_the_same_tokens(family):
    theirs = tiny.__wrapped__(family, 1)  # a module of its own: ours gets our attention
    theirs.set_attn_implementation("eager" if family == "gemma2" else "sdpa")
    pool = Pool(modules={"noisy": noisy(family, 1)})
    pipeline = Pipeline(
        tiny(family, 1), drafter="model:noisy", shaper="budget", pool=pool, registry=REGISTRY
    )
    for prompt in PROMPTS:
        wanted = theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=40,
            do_sample=False,
            eos_token_id=0,
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        for arm in (pipeline.autoregressive, pipeline):
            assert arm.generate(prompt, max_new_tokens=40).token_ids == wanted
