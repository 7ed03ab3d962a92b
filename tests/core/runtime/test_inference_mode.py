"""A request may go on outside the inference mode in which it began, and so may the one after it."""

import copy

import pytest
import torch

from toolkit import Pipeline, Pool
from toolkit.conformance.models import noisy, tiny

PROMPT = [5, 9, 33, 4]
ARMS = [
    {"drafter": "model:small"},
    {"drafter": "model:small", "kv": "streaming:budget=8"},
    {"drafter": "model:small", "kv": "h2o:budget=12,epoch=4,recent=4"},
    {"drafter": "self"},
    {"drafter": "none"},
]


@pytest.mark.parametrize("executor", ["auto", "module"])
@pytest.mark.parametrize("arm", ARMS, ids=str)
def test_requests_cross_the_end_of_an_inference_mode(arm, executor):
    modules = {"it": copy.deepcopy(tiny("llama")), "small": noisy("llama", noise=0.02)}
    made = Pipeline("it", pool=Pool(modules=modules, executor=executor), **arm)
    expected = made.generate(PROMPT, max_new_tokens=30).token_ids
    stream = made.stream(PROMPT, max_new_tokens=30)
    events = stream.decode()
    with torch.inference_mode():
        first = [*next(events).tokens, *next(events).tokens]
    assert [*first, *(token for event in events for token in event.tokens)] == expected
    longer = [*PROMPT, *expected, 7]
    wanted = made.generate(longer, max_new_tokens=20).token_ids
    with torch.inference_mode():
        before = made.stream(PROMPT, max_new_tokens=30)
        list(before.decode())
    after = made.stream(longer, max_new_tokens=20, after=before)
    assert [token for event in after.decode() for token in event.tokens] == wanted
