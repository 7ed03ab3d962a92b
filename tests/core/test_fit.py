"""Which strategies fit and which are the defaults; candidates are chosen as the proof covers."""

import pytest
import torch
from transformers import GenerationConfig

from toolkit import Limits, Pipeline, Pool, Sampling
from toolkit.conformance.models import noisy, tiny
from toolkit.errors import MismatchError
from toolkit.fit import make_proposer


@pytest.mark.parametrize(
    ("drafter", "verifier", "how"),
    [
        ("model:a", "sampler-match", "matched"),
        ("self", "sampler-match", "matched"),
        ("staged:[model:a]+[ngram]", "sampler-match", "matched"),
        ("ngram", "sampler-match", "fixed"),
        ("staged:[ngram]+[ngram]", "sampler-match", "fixed"),
        ("model:a", "traversal", "sampled"),
        ("model:a", "specinfer", "iid"),
        ("ngram", "traversal", "fixed"),
        ("model:a", "typical", "fixed"),
    ],
)
def test_candidates_are_chosen_as_both_declare(registry, drafter, verifier, how):
    choices = registry.resolve("drafter", drafter), registry.resolve("verifier", verifier)
    assert make_proposer(*choices, Sampling(0.7), 5).how == how
    assert make_proposer(*choices, Sampling(), 5).how == "fixed"


@pytest.mark.parametrize(
    ("limits", "said"),
    [(Limits(max_nodes=20), "growmap:tree=4x2x1 has 21 nodes, root included, but max_nodes=20"),
     (Limits(7), "growmap:tree=4x2x1 has 8 nodes, on its widest level, but max_nodes_per_level=7")],
)  # fmt: skip
@pytest.mark.parametrize("shaper", ["growmap:4x2x1", "select:[chain]+[growmap:4x2x1]"])
def test_a_map_with_more_nodes_than_the_limits_is_refused(limits, said, shaper):
    with pytest.raises(MismatchError, match=f"{said}: name a smaller map or plan one"):
        Pipeline(shaper=shaper, limits=limits)


def test_a_map_within_the_limits_and_one_that_nobody_named_are_taken():
    Pipeline(shaper="growmap:4x2x1", limits=Limits(8, 21))
    ours = Pipeline(verifier="swor", sampling=Sampling(0.7), limits=Limits(max_nodes=3))
    assert ours.shaper.cls.name == "growmap"
    steps = ours.generate("Once", max_new_tokens=8).steps
    assert max(step.nodes for step in steps) == 3


@pytest.mark.parametrize(
    ("options", "shaper"),
    [
        ({}, "growmap"),
        ({"drafter": "ngram"}, "adaptive"),
        ({"sampling": {"temperature": 0.8}}, "adaptive:stop=0.3"),
        ({"drafter": "ngram", "sampling": {"temperature": 0.8}}, "adaptive"),
        ({"generation_config": GenerationConfig(do_sample=True)}, "adaptive:stop=0.3"),
        ({"limits": Limits(max_nodes=8)}, "adaptive"),
        ({"pool": {"executor": "functional"}}, "adaptive"),
        ({"kv": "streaming:budget=64"}, "adaptive"),
        ({"draft_kv": "window:budget=64"}, "adaptive"),
        ({"generation_config": GenerationConfig(repetition_penalty=1.2)}, "adaptive"),
        ({"shaper": "chain"}, "chain"),
    ],
)
def test_the_default_shaper_on_a_gpu(monkeypatch, options, shaper):
    """Static where whole steps may be graphs, which they never are on the CPU."""
    pool = Pool(**options.pop("pool", {}))
    assert Pipeline(pool=pool, **options).specs["shaper"] == shaper.replace("growmap", "adaptive")
    monkeypatch.setattr(Pool, "torch_device", property(lambda _: torch.device("cuda")))
    pipeline = Pipeline(pool=pool, **options)
    assert pipeline.specs["shaper"] == shaper
    assert ("one CUDA graph" in pipeline.reasons["shaper"]) == (shaper == "growmap")


def test_the_default_shaper_of_a_module_on_the_cpu(monkeypatch):
    """Though models that are loaded would be on a GPU."""
    monkeypatch.setattr(Pool, "torch_device", property(lambda _: torch.device("cuda")))
    pool = Pool(modules={"it": tiny("llama"), "noisy": noisy("llama")})
    assert Pipeline("it", drafter="model:noisy", pool=pool).specs["shaper"] == "adaptive"
