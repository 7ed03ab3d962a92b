"""Tests of `coin` by name, in a pipeline, on a tiny model."""

from __future__ import annotations

import copy
from math import log

import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from toolkit import Candidates, Pipeline, Pool, Registry, TokenTree, ToolkitError, verify
from toolkit.conformance import conforms

VOCABULARY = 61
test_coin = conforms("coin:depth=3")  # one test for each property of a tree shaper


@pytest.fixture(scope="module")
def registry():
    """The strategies of all installed packages, so also of this one."""
    return Registry.installed()


@pytest.fixture(scope="module")
def large():
    """A random float64 model whose weights have a large variance, so that its choices are clear."""
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = GPTNeoXForCausalLM(config).double()
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.data.normal_(0.0, 0.35)
    return model


@pytest.fixture(scope="module")
def small(large):
    """The large model with noise on its weights: a drafter that is sometimes right."""
    model, rng = copy.deepcopy(large), torch.Generator().manual_seed(8)
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=rng).double()
    return model


@pytest.fixture
def decode(registry, large, small):
    """`decode(shaper, prompt)` returns a pipeline and its generation after the prompt."""

    def decode(shaper, prompt):
        pipeline = Pipeline(
            large,
            drafter="model:small",
            shaper=shaper,
            pool=Pool(device="cpu", dtype="fp64", modules={"small": small}),
            registry=registry,
        )
        return pipeline, pipeline.generate(prompt, max_new_tokens=40)

    return decode


@pytest.mark.parametrize("depth", [1, 3, 8])
@pytest.mark.parametrize("prompt", [[3], [5, 8, 13, 21], list(range(40))])
def test_the_output_is_that_of_plain_decoding(decode, depth, prompt):
    pipeline, generation = decode(f"coin:depth={depth}", prompt)
    plain = pipeline.autoregressive.generate(prompt, max_new_tokens=40)
    assert generation.token_ids == plain.token_ids
    assert verify(pipeline, generation).verdict == "exact"


def test_some_drafts_are_accepted_and_some_are_not(decode):
    """Otherwise the test above would show nothing."""
    _, generation = decode("coin:depth=3", [5, 8, 13, 21])
    assert any(step.accepted for step in generation.steps)
    assert any(step.accepted < step.depth for step in generation.steps)


def test_two_children_per_level_under_the_likelier(registry):
    two = Candidates([[1, 2]], [[log(0.6), log(0.3)]])
    coin = registry.resolve("shaper", "coin:depth=3").build()
    tree = coin.grow(TokenTree.root(0), lambda *_: two)
    assert tree.parents == [-1, 0, 0, 1, 1, 3, 3]
    assert len(tree) == coin.nodes


def test_it_stops_when_there_is_nothing_to_draft(registry):
    coin = registry.resolve("shaper", "coin").build()
    tree = coin.grow(TokenTree.root(0), lambda *_: Candidates.none(1))
    assert len(tree) == 1


def test_a_bad_option_is_rejected(registry):
    with pytest.raises(ToolkitError, match="'depth' must be >= 1"):
        registry.resolve("shaper", "coin:depth=0")


def test_it_comes_from_this_package(registry):
    assert registry.entries["shaper", "coin"].distribution == "toolkit-coin"
