"""A model's generation config: honoured as `generate` does, or refused by name before weights load."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GenerationConfig

from toolkit import Pipeline, Pool, Sampling, verify
from toolkit.conformance.models import VOCABULARY, noisy, tiny
from toolkit.errors import MismatchError, ModelError, SpecError
from toolkit.runtime.models.model_defaults import ModelDefaults

PROMPT = [5, 9, 33, 4, 9, 33]
QWEN = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.3}
PROCESSED = {
    "repetition_penalty": 1.4,
    "no_repeat_ngram_size": 1,
    "encoder_repetition_penalty": 1.5,
    "encoder_no_repeat_ngram_size": 1,
    "bad_words_ids": [[60], [22], [38, 23]],
    "suppress_tokens": [*range(0, VOCABULARY, 3)],
    "begin_suppress_tokens": [*range(60)],
    "sequence_bias": [[[token], 0.5] for token in range(1, VOCABULARY, 2)],
    "exponential_decay_length_penalty": (0, 50.0),
    "min_new_tokens": 9,
    "min_length": 14,
}
NEED_A_STOP_ID = ("min_", "exponential_")


def config(**options):
    return GenerationConfig(pad_token_id=0, **options)


def pipeline(options, **chosen):
    """A pipeline of a tiny target with these options in its generation config."""
    model = copy.deepcopy(tiny("llama", 1, ()))
    model.generation_config = config(**{"eos_token_id": [], **options})
    pool = Pool(modules={"it": model, "small": noisy("llama", 1, 0.02)})
    return Pipeline("it", drafter="model:small", pool=pool, **chosen)


def generated(options, prompt, count):
    """What `generate` says greedily."""
    model = copy.deepcopy(tiny("llama", 1, ()))
    model.set_attn_implementation("sdpa")
    model.config.eos_token_id = None
    model.generation_config = config(**options)
    ids = model.generate(torch.tensor([prompt]), max_new_tokens=count, do_sample=False)
    return ids[0, len(prompt) :].tolist()


@pytest.mark.parametrize("option", PROCESSED)
def test_greedy_decoding_is_that_of_generate(option):
    """The control: each option changes the tokens, and AR without it says that they are wrong."""
    stop = {"eos_token_id": [94, 77]} if option.startswith(NEED_A_STOP_ID) else {}
    ours, without = pipeline({option: PROCESSED[option], **stop}), pipeline(stop)
    found = ours.generate(PROMPT, max_new_tokens=24)
    assert found.token_ids == generated({option: PROCESSED[option], **stop}, PROMPT, 24)
    assert any(step.nodes > 1 for step in found.steps)
    assert verify(ours, found).verdict == "exact"
    assert verify(without, found).verdict == "divergent"


@pytest.mark.parametrize("verifier", ["swor", "traversal", "sampler-match"])
def test_every_verifier_judges_processed_logits(verifier):
    options = {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2}
    found = pipeline(options, verifier=verifier).generate(PROMPT, max_new_tokens=16)
    assert found.token_ids == generated(options, PROMPT, 16)


ROWS = st.lists(st.integers(-8, 8).map(lambda n: n / 2), min_size=VOCABULARY, max_size=VOCABULARY)


@given(
    row=ROWS,
    tokens=st.lists(st.integers(0, VOCABULARY - 1), min_size=2, max_size=8),
    new=st.integers(0, 2),
    options=st.fixed_dictionaries({}, optional={n: st.just(v) for n, v in PROCESSED.items()}),
    warped=st.sampled_from([{"temperature": 0.7, "top_k": 9}, {"top_p": 0.6}, {"min_p": 0.2}, {}]),
)
def test_a_sampled_law_is_that_of_generates_own_list(row, tokens, new, options, warped):
    """Bit by bit, in the order of `generate`: processors before temperature, top-k, top-p and min-p."""
    options = {**options, **warped, "do_sample": True, "eos_token_id": [94, 77]}
    model, given = tiny("llama", 1), config(**options)
    defaults = ModelDefaults.of("it", Pool(modules={"it": model}).load("it"), given)
    prompt = tokens[: len(tokens) - new] or tokens
    ids, logits = torch.tensor([tokens]), torch.tensor([row])
    processors = defaults.processors(prompt, ids.device) or (lambda _, scores: scores)
    ours = defaults.sampling.scores(processors(ids, logits.clone()))

    given.update(**given._get_default_generation_params(), defaults_only=True)
    model._prepare_special_tokens(given, device="cpu")
    theirs = model._get_logits_processor(given, len(prompt), torch.tensor([prompt]), device="cpu")
    assert torch.equal(ours, theirs(ids, logits.clone()))


def test_sampled_tokens_are_those_of_ar_with_the_same_config():
    """The controls: without the processor, and with another temperature, they are not."""
    ours = pipeline(QWEN)
    found = ours.generate(PROMPT, max_new_tokens=24, seed=3)
    assert found.sampling == Sampling(0.7, 20, 0.8)
    assert found.specs["verifier"] == "sampler-match"
    assert verify(ours, found).verdict == "exact"
    for wrong in (QWEN | {"repetition_penalty": 1.0}, QWEN | {"temperature": 5.0}):
        assert verify(pipeline(wrong), found).verdict == "divergent"


def test_a_config_that_asks_for_nothing_adds_nothing():
    ours = pipeline({"temperature": 0.6, "top_k": 5, "renormalize_logits": False})
    stream = ours.stream(PROMPT, max_new_tokens=4)
    assert (ours.sampling, ours.defaults.options, stream.process.processor) == (Sampling(), {}, None)
    assert ours.defaults.describe(ours.sampling) == ours.defaults.processing == ""
    assert ours.specs["verifier"] == "greedy"
    assert pipeline({"repetition_penalty": 1.2}).stream(PROMPT).process.processor is not None


@pytest.mark.parametrize(
    ("given", "sampling", "said"),
    [
        (None, Sampling(0.7, 20, 0.8), "temperature=0.7,top_k=20,top_p=0.8,repetition_penalty=1.3"),
        ({}, Sampling(0.7, 20, 0.8), "temperature=0.7,top_k=20,top_p=0.8,repetition_penalty=1.3"),
        ({"temperature": 1}, Sampling(1, 20, 0.8), "top_k=20,top_p=0.8,repetition_penalty=1.3"),
        ({"top_k": 0, "top_p": 1}, Sampling(0.7), "temperature=0.7,repetition_penalty=1.3"),
        ({"temperature": 0}, Sampling(), "repetition_penalty=1.3"),
        (Sampling(0.5), Sampling(0.5), "repetition_penalty=1.3"),
        (Sampling(), Sampling(), "repetition_penalty=1.3"),
    ],
    ids=str,
)
def test_what_is_given_wins(given, sampling, said):
    ours = pipeline(QWEN, sampling=given)
    assert ours.sampling == ours.autoregressive.sampling == sampling
    assert ours.defaults.describe(ours.sampling) == said
    assert ours.specs["verifier"] == ("greedy" if sampling.greedy else "sampler-match")


def test_generates_own_defaults_count_where_it_samples():
    assert pipeline({"do_sample": True}).sampling == Sampling(1.0, 50)
    assert pipeline({"do_sample": False, "top_k": 9}, sampling={"temperature": 0.5}).sampling == (
        Sampling(0.5)
    )


def test_a_generation_config_that_is_given_takes_the_place_of_the_models():
    ours = pipeline(QWEN, generation_config=config(suppress_tokens=[7], eos_token_id=[94, 77]))
    assert (ours.sampling, ours.defaults.processing) == (Sampling(), "suppress_tokens=[7]")
    assert ours.defaults.stop_ids == ours.autoregressive.defaults.stop_ids == {94, 77}
    assert pipeline(QWEN).defaults.stop_ids == frozenset()


@pytest.mark.parametrize(
    ("generation", "config", "stop"),
    [(7, 8, {7}), ([7, 9], 8, {7, 9}), (None, 8, {8}), (None, [8, 9], {8, 9}), (None, None, set()),
     ([], 8, set())],
)  # fmt: skip
def test_stop_ids_come_from_the_generation_config_first(generation, config, stop):
    model = copy.deepcopy(tiny("llama"))
    model.generation_config.eos_token_id, model.config.eos_token_id = generation, config
    for ours in (made := Pipeline(model), made.autoregressive):
        assert ours.defaults.stop_ids == ours.stream(PROMPT).stop_ids == stop
    assert Pipeline(model, ignore_eos=True).autoregressive.stream(PROMPT).stop_ids == set()


REFUSED = {
    "guidance_scale=2.0": {"guidance_scale": 2.0},
    "num_beams=4": {"num_beams": 4},
    "typical_p=0.5": {"do_sample": True, "typical_p": 0.5},
    "forced_eos_token_id=7 is not supported (it depends on the length": {"forced_eos_token_id": 7},
    "max_time=3.0 is not supported (--max-seconds": {"max_time": 3.0},
    "top_p=0": {"do_sample": True, "top_p": 0.0},
    "the following tokens were being biased: [102]": {"sequence_bias": [[[VOCABULARY + 5], 1.0]]},
}


@pytest.fixture
def folder(tmp_path):
    """A model's folder without weights."""
    model = copy.deepcopy(tiny("llama"))
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    return tmp_path


@pytest.mark.parametrize(("named", "options"), REFUSED.items(), ids=list(REFUSED))
def test_what_cannot_be_honoured_is_named_before_weights_load(folder, named, options):
    Pipeline(str(folder))
    GenerationConfig(**options).save_pretrained(folder)
    with pytest.raises(ModelError, match="cannot be honoured") as caught:
        Pipeline(str(folder))
    assert named in str(caught.value)
    Pipeline(str(folder), generation_config=GenerationConfig())
    if "do_sample" in options:  # which temperature 0 leaves out
        assert Pipeline(str(folder), sampling={"temperature": 0}).sampling.greedy


def test_settings_that_mean_nothing_beside_the_models_own_are_refused(folder):
    with pytest.raises(SpecError, match="top_k=5 changes nothing at temperature 0"):
        Pipeline(str(folder), sampling={"top_k": 5})
    GenerationConfig(do_sample=True).save_pretrained(folder)
    assert Pipeline(str(folder), sampling={"top_k": 5}).sampling == Sampling(1.0, 5)
    with pytest.raises(MismatchError, match="--temperature 0` decodes greedily"):
        Pipeline(str(folder), verifier="greedy")


def test_without_a_generation_config_the_models_config_counts(folder):
    (folder / "generation_config.json").unlink()
    text = (folder / "config.json").read_text().replace("{", '{\n"repetition_penalty": 1.25,', 1)
    (folder / "config.json").write_text(text)
    assert Pipeline(str(folder)).defaults.processing == "repetition_penalty=1.25"
