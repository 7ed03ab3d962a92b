"""Four choices and a target: defaults, refusals, and what one request may not do to another."""

import copy
import sys

import attrs
import pytest
import torch
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
)
from transformers.utils import logging

from toolkit import (
    Choice,
    Pipeline,
    Pool,
    TokenTree,
    TreeShaper,
    Verdict,
    Verifier,
    embedded,
    option,
    verify,
)
from toolkit.conformance.models import POSITIONS, noisy, tiny
from toolkit.errors import MismatchError, ModelError, SpecError

PROMPT = [5, 6, 7, 5, 6, 7, 5, 6]
TEXT = "Once upon a time there was a"


@attrs.define(eq=False)
class Shelf(Pool):
    """A pool on whose shelf every name lies, and nothing else."""

    @attrs.define
    class Found:
        name: str
        vocabulary = 97
        positions = 256
        tokenizer = None
        config = LlamaConfig()
        generation_config = GenerationConfig()

    def locate(self, name):
        return None

    def find(self, name):
        return self.Found(name)


@pytest.mark.parametrize(
    ("target", "drafter", "found", "filled"),
    [
        (None, None, "stories-11m", "model:stories-1m"),
        (None, "model", "stories-11m", "model:stories-1m"),
        (None, "ngram", "stories-11m", "ngram"),
        (None, "none", "stories-11m", "none"),
        (None, "pythia-70m", "pythia-2.8b", "model:pythia-70m"),
        (None, "pythia-160m", "pythia-2.8b", "model:pythia-160m"),
        (None, "EleutherAI/pythia-410m", "pythia-2.8b", "model:EleutherAI/pythia-410m"),
        (None, "model:llama-68m", "llama-7b", "model:llama-68m"),
        ("pythia-1b", None, "pythia-1b", "ngram"),
        ("pythia-1b", "model", "pythia-1b", "model:pythia-70m"),
        ("EleutherAI/pythia-1b", "model", "EleutherAI/pythia-1b", "model:pythia-70m"),
        ("llama-13b", "model", "llama-13b", "model:llama-68m"),
        ("llama-13b", "llama-160m", "llama-13b", "model:llama-160m"),
        ("someone/model", None, "someone/model", "ngram"),
        ("someone/model", "someone/small", "someone/model", "model:someone/small"),
    ],
)
def test_target_and_drafter_by_default(registry, target, drafter, found, filled):
    pipeline = Pipeline(target, drafter=drafter, pool=Shelf(), registry=registry)
    assert pipeline.specs == {
        "target": found, "drafter": filled, "shaper": "adaptive", "verifier": "greedy", "kv": "full",
        "draft_kv": "full",
    }


def test_a_model_drafter_for_a_target_of_no_family_must_be_named(registry):
    with pytest.raises(SpecError, match="write model:FOLDER or model:OWNER/NAME"):
        Pipeline("someone/model", drafter="model", pool=Shelf(), registry=registry)


def test_stop_strings_of_the_generation_config_end_a_request():
    """Unless others are given, or the end is ignored. AR ends there, too."""
    plain = Pipeline("stories-3m", drafter="ngram")
    words = plain.generate(TEXT, max_new_tokens=24).text.split()
    own = GenerationConfig(stop_strings=words[4])
    pipeline = Pipeline("stories-3m", drafter="ngram", generation_config=own, pool=plain.pool)
    found = pipeline.generate(TEXT, max_new_tokens=24)
    assert (found.stop_reason, found.text.split()) == ("stop", words[:4])
    assert pipeline.autoregressive.generate(TEXT, max_new_tokens=24).token_ids == found.token_ids
    assert pipeline.generate(TEXT, max_new_tokens=24, stop=words[6]).text.split()[4] == words[4]
    endless = Pipeline(
        "stories-3m", drafter="none", generation_config=own, pool=plain.pool, ignore_eos=True
    )
    assert endless.generate(TEXT, max_new_tokens=24).stop_reason == "length"


def test_ar_of_a_pipeline_keeps_target_and_policy(registry):
    specs = Pipeline(None, kv="window:budget=9", pool=Shelf(), registry=registry).autoregressive.specs
    assert (specs["target"], specs["drafter"], specs["kv"]) == (
        "stories-11m", "none", "window:budget=9"
    )


@pytest.fixture
def pipeline(registry):
    pool = Pool(modules={"small": noisy("llama")})
    return Pipeline(tiny("llama"), drafter="model:small", pool=pool, registry=registry)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ([], "the prompt is empty"),
        (torch.zeros(0, dtype=torch.long), "the prompt is empty"),
        ([5] * POSITIONS, f"the prompt has {POSITIONS} tokens, but target 'LlamaForCausalLM' has only"),
        ("text", "target 'LlamaForCausalLM' has no tokenizer: give token ids"),
        ([5, 97], "97"),
        ([5, -1], "-1"),
        (torch.ones(1, 4), r"shape \[1, 4\]"),
    ],
)
def test_a_prompt_that_cannot_be_decoded(pipeline, prompt, said):
    with pytest.raises(MismatchError, match=said):
        pipeline.generate(prompt, max_new_tokens=2)


def test_an_empty_text(registry):
    with pytest.raises(MismatchError, match="the prompt is empty: give at least one character"):
        Pipeline(registry=registry).encode("")


@pytest.mark.parametrize("count", [0, -1])
def test_at_least_one_token_is_asked_for(pipeline, count):
    with pytest.raises(MismatchError, match=f"max_new_tokens must be at least 1, got {count}"):
        pipeline.generate(PROMPT, max_new_tokens=count)


def test_ids_are_taken_from_lists_tuples_and_tensors(pipeline):
    results = [
        pipeline.generate(kind(PROMPT), max_new_tokens=6) for kind in (list, tuple, torch.tensor)
    ]
    assert results[0].token_ids == results[1].token_ids == results[2].token_ids
    assert all(result.prompt_ids == PROMPT for result in results)
    assert results[0].text == ""


@pytest.mark.parametrize("prompt_length", [1, POSITIONS - 7, POSITIONS - 1])
@pytest.mark.parametrize("drafter", ["none", "model:small", "ngram"])
def test_decoding_ends_where_positions_do(registry, prompt_length, drafter):
    target = copy.deepcopy(tiny("gpt2", 2))
    target.generation_config.eos_token_id = target.config.eos_token_id = None
    pool = Pool(modules={"small": noisy("gpt2", 2)})
    prompt = [5 + i % 7 for i in range(prompt_length)]
    result = Pipeline(target, drafter=drafter, pool=pool, registry=registry).generate(
        prompt, max_new_tokens=12
    )
    room = POSITIONS - prompt_length + 1
    assert len(result.token_ids) == min(12, room)
    assert result.stop_reason == ("positions" if room <= 12 else "length")


def test_a_stop_id_ends_the_tokens(registry):
    model = tiny("llama", 5)
    free = Pipeline(model, registry=registry).generate(PROMPT, max_new_tokens=20)
    stop = free.token_ids[4]
    model.generation_config.eos_token_id = [0, stop]
    try:
        result = Pipeline(model, registry=registry).generate(PROMPT, max_new_tokens=20)
    finally:
        model.generation_config.eos_token_id = 0
    assert result.stop_reason == "eos"
    assert result.token_ids == free.token_ids[: free.token_ids.index(stop) + 1]


def test_a_stop_string_that_is_a_special_token_is_a_stop_id(registry):
    pipeline = Pipeline(speaker(4096), registry=registry)
    tokenizer = pipeline.pool.find(pipeline.target).tokenizer
    special = tokenizer.all_special_tokens[0]
    stream = pipeline.stream(TEXT, max_new_tokens=4, stop=special, stop_ids=())
    assert stream.stop_ids == {tokenizer.convert_tokens_to_ids(special)}


@pytest.mark.parametrize(
    ("stop", "said"),
    [("x", "has no tokenizer, so it has no text to stop at"), ("", "at least one"), ([3], "not 3")],
)
def test_a_stop_string_that_cannot_be_found(pipeline, stop, said):
    with pytest.raises(MismatchError, match=said):
        pipeline.generate(PROMPT, stop=[stop] if stop == "" else stop)


@pytest.mark.parametrize("shaper", ["adaptive:stop=0,prune=0", "budget", "chain"])
def test_two_requests_equal_two_pipelines(registry, shaper):
    def build():
        pool = Pool(modules={"small": noisy("llama")})
        return Pipeline(
            tiny("llama"), drafter="model:small", shaper=shaper, pool=pool, registry=registry
        )

    def shape(result):
        return result.token_ids, [(s.length, s.nodes, s.accepted) for s in result.steps]

    one, prompts = build(), (PROMPT, [9, 8, 7])
    together = [shape(one.generate(prompt, max_new_tokens=24)) for prompt in prompts]
    apart = [shape(build().generate(prompt, max_new_tokens=24)) for prompt in prompts]
    assert together == apart


def test_pipelines_that_share_a_pool_keep_their_targets(registry):
    pool, models = Pool(), [tiny("llama", 1), tiny("llama", 2)]
    alone = [
        Pipeline(model, registry=registry).generate(PROMPT, max_new_tokens=6).token_ids
        for model in models
    ]
    shared = [Pipeline(model, pool=pool, registry=registry) for model in models]
    assert [p.generate(PROMPT, max_new_tokens=6).token_ids for p in shared] == alone
    assert alone[0] != alone[1]


def speaker(vocabulary, tokenizer=True, seed=0):
    """A tiny model with the shipped tokenizer, and `vocabulary` rows of logits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPTNeoXForCausalLM(GPTNeoXConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
            vocab_size=vocabulary, max_position_embeddings=128, initializer_range=0.3,
        )).double()
    if tokenizer:
        model.config.name_or_path = str(embedded.folder("target"))
    return model


@pytest.mark.parametrize(("ours", "theirs"), [(4096, 4160), (4160, 4096), (4160, 4160)])
def test_padded_vocabularies_of_one_tokenizer_fit(registry, ours, theirs):
    pool = Pool(modules={"small": speaker(theirs, seed=1)})
    pipeline = Pipeline(
        speaker(ours), drafter="model:small", shaper="fixed:threshold=0", pool=pool, registry=registry
    )
    ar = pipeline.autoregressive.generate(TEXT, max_new_tokens=12)
    result = pipeline.generate(TEXT, max_new_tokens=12)
    assert result.token_ids == ar.token_ids
    assert result.metrics["drafted"] > 0


def test_other_vocabularies_do_not(registry):
    pool = Pool(modules={"small": speaker(96, tokenizer=False)})
    with pytest.raises(MismatchError, match="drafter 'small' does not share the vocabulary of target"):
        Pipeline(tiny("llama"), drafter="model:small", pool=pool, registry=registry)


def test_an_unknown_model_is_known_before_weights_load(registry):
    pool = Pool()
    with pytest.raises(ModelError, match=r"no model called 'storeis-1m'.*did you mean stories-1m"):
        Pipeline("stories-11m", drafter="model:storeis-1m", pool=pool, registry=registry)
    assert not pool._loaded


@pytest.mark.parametrize("prompt", [TEXT, " née — “zwölf” 字 🎈", "a\n\nb  c "])
@pytest.mark.parametrize("shaper", ["chain", "adaptive"])
def test_streamed_pieces_are_the_text(registry, prompt, shaper):
    pipeline = Pipeline(speaker(4096), shaper=shaper, drafter="ngram", registry=registry)
    stream = pipeline.stream(prompt, max_new_tokens=48)
    pieces = list(stream)
    assert "".join(pieces) == stream.result.text
    tokenizer = AutoTokenizer.from_pretrained(embedded.folder("target"))
    assert stream.result.prompt_ids == tokenizer(prompt).input_ids
    assert len(pieces) == len(stream.result.events) + 1


def test_the_shipped_models_decode(registry):
    result = Pipeline(registry=registry).generate(TEXT, max_new_tokens=12)
    ar = Pipeline(drafter="none", registry=registry).generate(TEXT, max_new_tokens=12)
    assert result.token_ids == ar.token_ids
    assert result.specs["drafter"] == "model:stories-1m"
    assert result.draft_kv_bytes > 0 == ar.draft_kv_bytes


@attrs.define
class Twig(TreeShaper):
    name = "twig"
    nodes: int = option(2)
    grown: list = attrs.field(init=False, factory=list)

    def grow(self, root, expand):
        self.grown.append(1)
        return root.grow([0], expand(root, [0], self.nodes - 1))


def test_choices_as_objects_classes_and_strings_are_one(registry):
    twig = Twig(nodes=3)
    forms = [twig, Choice(Twig, (("nodes", 3),))]
    built = [Pipeline(tiny("llama"), shaper=form, registry=registry) for form in forms]
    assert [p.specs["shaper"] for p in built] == ["twig:nodes=3"] * 2
    assert Pipeline(tiny("llama"), shaper=Twig, registry=registry).specs["shaper"] == "twig"
    results = [p.generate(PROMPT, max_new_tokens=5) for p in built]
    assert results[0].token_ids == results[1].token_ids
    assert twig.grown == []  # the object's options count, its state does not


def test_a_strategy_of_another_kind_is_refused(registry):
    with pytest.raises(SpecError, match="twig is a shaper, but a drafter is needed here"):
        Pipeline(tiny("llama"), drafter=Twig(), registry=registry)


@attrs.define
class Sampling(Verifier):
    name = "sampling"
    exactness = "distribution"
    assumes = frozenset({"sampled"})

    def judge(self, tree: TokenTree, logits, rng) -> Verdict:
        raise NotImplementedError


def test_a_verifier_whose_proof_does_not_cover_the_drafts(registry):
    with pytest.raises(MismatchError, match="cannot use verifier 'sampling' with drafter 'ngram'"):
        Pipeline(tiny("llama"), verifier=Sampling, registry=registry)


def test_a_stream_runs_once(pipeline):
    """Broken off and taken up again, or asked for again, it goes on where it was."""
    whole = pipeline.generate([5, 9, 33], max_new_tokens=20)
    stream = pipeline.stream([5, 9, 33], max_new_tokens=20)
    for _ in stream.decode():
        break
    assert stream.result.stop_reason == "interrupted"
    for _ in range(2):
        list(stream)
    assert stream.result.token_ids == whole.token_ids


def test_stop_tokens_can_be_ignored_and_ar_ignores_them_too():
    model = copy.deepcopy(tiny("gpt_neox", 3))
    plain = Pipeline(model, drafter="none", shaper="chain").generate(PROMPT, max_new_tokens=12)
    model.generation_config.eos_token_id = plain.token_ids[2]
    for ignoring, count in ((False, plain.token_ids.index(plain.token_ids[2]) + 1), (True, 12)):
        pipeline = Pipeline(model, drafter="ngram", ignore_eos=ignoring)
        done = pipeline.generate(PROMPT, max_new_tokens=12)
        assert done.token_ids == plain.token_ids[:count]
        assert done.stop_reason == ("length" if ignoring else "eos")
        assert verify(pipeline, done).verdict in ("exact", "inconclusive")


def test_models_are_named_target_first():
    pipeline = Pipeline("stories-3m", drafter="stories-1m")
    assert pipeline.models == ["stories-3m", "stories-1m"]
    assert Pipeline("stories-3m", drafter="ngram").models == ["stories-3m"]


def test_what_runs_a_model_is_ready_before_a_request():
    """Compiling and choosing kernels is no part of a request's times."""
    pool = Pool(modules={"target": tiny("llama"), "small": noisy("llama")})
    pipeline = Pipeline("target", drafter="model:small", pool=pool)
    stream = pipeline.stream([1, 2, 3], max_new_tokens=4)
    assert all("executor" in vars(pool.load(name)) for name in ("target", "small"))
    assert not stream.events


def test_a_pipeline_says_what_it_is_in_two_lines():
    first, second = repr(Pipeline("stories-1m", drafter="ngram", dtype="fp64")).splitlines()
    assert first == "<Pipeline: target=stories-1m, device=auto, dtype=fp64"
    assert second == (
        " drafter=ngram, shaper=adaptive, verifier=greedy, kv=full, draft_kv=full>"
    )


def test_device_and_dtype_are_those_of_the_models():
    pipeline = Pipeline("stories-1m", drafter="none", device="cpu", dtype="fp64")
    assert pipeline.pool.load("stories-1m").dtype == torch.float64
    with pytest.raises(SpecError, match="a pool has its own device and dtype"):
        Pipeline("stories-1m", dtype="fp64", pool=Pool())
    with pytest.raises(ModelError, match="no dtype 'int3'"):
        Pipeline("stories-1m", dtype="int3")


def test_loading_shows_no_progress_bar_and_leaves_the_setting(capfd, monkeypatch):
    hub = sys.modules["huggingface_hub.utils.tqdm"]  # the package has a class of the same name
    monkeypatch.setattr(hub, "HF_HUB_DISABLE_PROGRESS_BARS", None)
    logging.enable_progress_bar()
    Pipeline("stories-1m", drafter="none", dtype="fp64").load()
    assert capfd.readouterr().err == ""
    assert logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    Pipeline("stories-1m", drafter="none", dtype="fp64").load()
    assert not logging.is_progress_bar_enabled()
