"""`model.generate(custom_generate=toolkit.speculative(…))` gives what `model.generate` gives."""

import copy
from collections import Counter

import pytest
import torch
from transformers import (
    DynamicCache,
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)

from toolkit import Pipeline, Sampling, ToolkitError, speculative
from toolkit.conformance.models import VOCABULARY, noisy, tiny
from toolkit.runtime.compute.executors import choose_executor

PROMPT = torch.tensor([[5, 9, 33, 4, 9, 33]])


@pytest.fixture(params=["llama", "gpt2", "gemma3"])
def model(request):
    return fresh(request.param)


def fresh(family):
    """A model of its own, without a stop id."""
    model = copy.deepcopy(tiny(family, 1, ()))  # which other tests share, with our attention
    model.set_attn_implementation("sdpa")
    model.generation_config.pad_token_id = 0
    return model


class Streamer:
    def __init__(self):
        self.ids, self.shapes, self.ended = [], [], 0

    def put(self, value):
        assert not self.ended
        self.ids.append(value.flatten().tolist())
        self.shapes.append(tuple(value.shape))

    def end(self):
        self.ended += 1


class AfterToken(StoppingCriteria):
    """Stops after the `count`-th new token, whatever it is."""

    def __init__(self, length):
        self.length, self.seen = length, []

    def __call__(self, input_ids, scores, **_):
        self.seen.append(input_ids.shape[1])
        return torch.tensor([input_ids.shape[1] >= self.length])


def both(model, decoding, **options):
    """What `generate` gives, plain and with ours."""
    given = {"max_new_tokens": 30, "do_sample": False, "pad_token_id": 0, **options}
    plain = model.generate(PROMPT, **copy.deepcopy(given))
    return plain.tolist(), model.generate(PROMPT, custom_generate=decoding, **given).tolist()


@pytest.mark.parametrize("drafter", ["ngram", "module"])
def test_the_same_ids(model, drafter):
    if drafter == "module":
        family = {"gemma3_text": "gemma3"}.get(model.config.model_type, model.config.model_type)
        drafter = copy.deepcopy(noisy(family, 1, 0.02)).train()
    plain, ours = both(model, speculative(drafter=drafter, shaper="budget"))
    assert ours == plain
    assert len(ours[0]) == PROMPT.shape[1] + 30


def test_again_and_with_another_model(model):
    decoding = speculative(drafter="ngram")
    for module in (model, model, fresh("phi")):
        plain, ours = both(module, decoding)
        assert ours == plain


@pytest.mark.parametrize("drafter", ["ngram", "none"])
def test_end_of_sequence_ids_of_the_call(model, drafter):
    """Every token that comes, as a stop id: wherever it lies in an accepted path."""
    plain, _ = both(model, speculative(drafter=drafter))
    for token in set(plain[0][PROMPT.shape[1] :]):
        cut, ours = both(model, speculative(drafter=drafter), eos_token_id=[token, 96])
        assert ours == cut


def test_stopping_criteria_are_asked_after_every_token(model):
    for length in range(7, 20):
        mine = AfterToken(length)
        plain, ours = both(model, speculative(), stopping_criteria=StoppingCriteriaList([mine]))
        assert ours == plain
        assert len(ours[0]) == length
    assert mine.seen[-13:] == list(range(7, 20))


@pytest.mark.parametrize("place", ["here", "generate"])
def test_a_streamer_gets_what_generate_gives(model, place):
    """The prompt as [1, P], then every token, then the end, wherever the streamer was given."""
    expected, ours = Streamer(), Streamer()
    given = {"do_sample": False, "max_new_tokens": 12}
    model.generate(PROMPT, streamer=expected, **given)
    if place == "here":
        model.generate(PROMPT, custom_generate=speculative(streamer=ours), **given)
    else:
        model.generate(PROMPT, custom_generate=speculative(), streamer=ours, **given)
    assert (ours.ids, ours.shapes, ours.ended) == (expected.ids, expected.shapes, 1)


@pytest.mark.parametrize("place", ["here", "generate"])
@pytest.mark.parametrize(
    "options", [{"max_new_tokens": 400}, {"guidance_scale": 2.0}, {"stopping_criteria": None}], ids=str
)
def test_a_streamer_ends_after_an_error(options, place):
    """Otherwise its reader waits for ever. What can be refused is refused before decoding."""
    ours, options = Streamer(), {"max_new_tokens": 4, **options}
    late = "stopping_criteria" in options
    if late:
        options["stopping_criteria"] = StoppingCriteriaList([Fails()])
    mine = {"streamer": ours} if place == "here" else {}
    theirs = {} if mine else {"streamer": ours}
    with pytest.raises((ToolkitError, RuntimeError)):
        fresh("llama").generate(
            PROMPT, do_sample=False, custom_generate=speculative(**mine), **theirs, **options
        )
    assert len(ours.ids) == (2 if late else 1)
    assert ours.ended == 1


def state(model):
    attention = {name: part.config._attn_implementation for name, part in model.named_modules()
                 if hasattr(part, "config")}  # fmt: skip
    return attention, [part.training for part in model.modules()]


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_model_is_left_as_it_was(model, implementation):
    model.set_attn_implementation(implementation)
    model.eval()
    next(model.children()).train()  # odd, and theirs
    before = state(model)
    model.generate(PROMPT, max_new_tokens=3, do_sample=False, custom_generate=speculative())
    assert state(model) == before
    assert torch.isfinite(model(PROMPT).logits).all()


class Fails(StoppingCriteria):
    def __call__(self, input_ids, scores, **_):
        raise RuntimeError("on a bad day")


def test_the_model_is_left_as_it_was_after_an_error(model):
    before = state(model)
    with pytest.raises(RuntimeError, match="bad day"):
        model.generate(
            PROMPT, max_new_tokens=3, do_sample=False, custom_generate=speculative(),
            stopping_criteria=StoppingCriteriaList([Fails()]),
        )  # fmt: skip
    assert state(model) == before


SAMPLED = [
    ({"temperature": 0.7, "top_k": 0}, Sampling(0.7)),
    ({"top_k": 5, "top_p": 0.9, "min_p": 0.02}, Sampling(1.0, 5, 0.9, 0.02)),
    ({}, Sampling(1.0, 50)),  # 50 is the default of `generate`
]


@pytest.mark.parametrize(("options", "sampling"), SAMPLED, ids=str)
@pytest.mark.parametrize("penalty", [{}, {"repetition_penalty": 1.3}], ids=["", "penalty"])
def test_sampled_ids_are_those_of_sampled_ar_with_the_same_seed(options, sampling, penalty):
    model, ours = fresh("llama"), speculative(drafter=noisy("llama", 1))
    torch.manual_seed(3)
    ids = model.generate(
        PROMPT, do_sample=True, max_new_tokens=20, custom_generate=ours, **options, **penalty
    )
    torch.manual_seed(3)
    ar = Pipeline(fresh("llama"), drafter="none", sampling=sampling)
    processor = LogitsProcessorList(
        [RepetitionPenaltyLogitsProcessor(p) for p in penalty.values()]
    )
    stream = ar.stream(
        PROMPT[0], max_new_tokens=20, seed=int(torch.randint(1 << 62, ())), stop_ids=(),
        processor=processor or None,
    )  # fmt: skip
    list(stream)
    assert ids[0, PROMPT.shape[1] :].tolist() == stream.result.token_ids


def test_sampled_ids_follow_from_torchs_seed():
    model, ours = fresh("llama"), speculative()
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(model.generate(
            PROMPT, do_sample=True, max_new_tokens=12, custom_generate=ours
        ).tolist())  # fmt: skip
    assert found[0] == found[1] != found[2]
    greedy = model.generate(PROMPT, do_sample=False, max_new_tokens=12, custom_generate=ours)
    assert greedy.tolist() == model.generate(PROMPT, do_sample=False, max_new_tokens=12).tolist()


def test_over_seeds_the_first_two_tokens_have_the_law_of_generate():
    """By chi-square against the law that the model's own logits give; seeds are fixed."""
    model, ours = fresh("llama"), speculative()
    options = {"do_sample": True, "top_k": 2, "temperature": 2.0, "max_new_tokens": 2}
    torch.manual_seed(0)
    drawn = Counter(
        tuple(model.generate(PROMPT, custom_generate=ours, **options)[0, -2:].tolist())
        for _ in range(120)
    )
    law, sampling = {}, Sampling(2.0, 2)
    with torch.no_grad():
        first = sampling.scores(model(PROMPT).logits[0, -1]).softmax(-1)
        for token in first.nonzero().flatten().tolist():
            ids = torch.cat([PROMPT, torch.tensor([[token]])], 1)
            second = sampling.scores(model(ids).logits[0, -1]).softmax(-1)
            below = second.nonzero().flatten().tolist()
            law |= {(token, t): float(first[token] * second[t]) for t in below}
    assert set(drawn) <= set(law)
    assert sum((drawn[t] - 120 * p) ** 2 / (120 * p) for t, p in law.items()) < 33.6  # 3 df, 1e−7


class Nothing(LogitsProcessor):
    def __call__(self, input_ids, scores):
        return scores


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"do_sample": True, "typical_p": 0.5}, "typical_p=0.5"),
        ({"do_sample": True, "epsilon_cutoff": 0.1}, "epsilon_cutoff=0.1"),
        ({"do_sample": True, "num_beams": 2}, "num_beams=2"),
        ({"do_sample": True, "num_return_sequences": 2}, "num_return_sequences=2"),
        ({"num_beams": 3}, "num_beams=3"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "penalty_alpha=0.6"),
        ({"dola_layers": "low"}, "dola_layers=low"),
        ({"guidance_scale": 1.5}, "guidance_scale=1.5"),
        ({"logits_processor": LogitsProcessorList([Nothing()])}, "Nothing"),
        ({"return_dict_in_generate": True}, "return_dict_in_generate"),
        ({"attention_mask": torch.tensor([[0, 1, 1, 1, 1, 1]])}, "attention_mask"),
        ({"past_key_values": DynamicCache()}, "past_key_values of your own"),
        ({"prompt_lookup_num_tokens": 3}, "prompt_lookup_num_tokens"),
        ({"assistant_model": tiny("llama", 2, ())}, "assistant_model.*drafter"),
    ],
)
def test_what_is_not_supported_is_named(options, named):
    model = fresh("llama")
    before = state(model)
    given = {"do_sample": False, "max_new_tokens": 4, "pad_token_id": 0, **options}
    with pytest.raises(ToolkitError, match=named):
        model.generate(PROMPT, custom_generate=speculative(), **given)
    assert state(model) == before


def test_embeddings_are_named():
    model = fresh("llama")
    embedded = model.get_input_embeddings()(PROMPT)
    with pytest.raises(ToolkitError, match="does not support inputs_embeds"):
        model.generate(inputs_embeds=embedded, custom_generate=speculative(), max_new_tokens=4)


def test_a_model_that_prepares_its_own_inputs_is_refused():
    """As adapters with a soft prompt do: prompt tuning and prefix tuning."""
    model = fresh("llama")
    plain = model.prepare_inputs_for_generation

    def with_soft_prompt(*given, **named):
        return plain(*given, **named)

    model.prepare_inputs_for_generation = with_soft_prompt
    with pytest.raises(ToolkitError, match="prepare_inputs_for_generation of its own"):
        both(model, speculative())


def allow(_, ids):
    """Tokens of the other parity than the last one's."""
    return [*range(1 - int(ids[-1]) % 2, VOCABULARY, 2)]


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
    "forced_eos_token_id": 7,
    "forced_bos_token_id": 3,
    "prefix_allowed_tokens_fn": allow,
    "renormalize_logits": True,
    "remove_invalid_values": True,
}
NO_CHANGE = {"forced_bos_token_id", "renormalize_logits", "remove_invalid_values"}


@pytest.mark.parametrize("option", PROCESSED)
def test_processors_of_options_are_honoured(option):
    """Greedy means the argmax of processed logits. The control: each option changes the tokens."""
    model, given = fresh("llama"), {option: PROCESSED[option]}
    stop = {"eos_token_id": [94, 77]} if option.startswith(("min_", "exponential_")) else {}
    drafter = noisy("llama", 1, 0.02)
    plain, ours = both(model, speculative(drafter=drafter), **given, **stop)
    assert ours == plain
    without, _ = both(model, speculative(), **stop)
    assert (plain != without) == (option not in NO_CHANGE)


def test_the_generation_config_of_the_model_is_part_of_greedy():
    model = fresh("llama")
    without, _ = both(model, speculative())
    model.generation_config.suppress_tokens = PROCESSED["suppress_tokens"]
    plain, ours = both(model, speculative())
    assert ours == plain != without


def test_a_batch_is_refused():
    with pytest.raises(ToolkitError, match="a batch of 2"):
        fresh("llama").generate(
            PROMPT.repeat(2, 1), do_sample=False, max_new_tokens=4, custom_generate=speculative()
        )


def test_a_bad_spec_is_refused_and_nothing_is_changed(model):
    before = state(model)
    with pytest.raises(ToolkitError, match="no shaper called"):
        model.generate(
            PROMPT, do_sample=False, max_new_tokens=4, custom_generate=speculative(shaper="chian")
        )
    assert state(model) == before


@pytest.mark.filterwarnings("ignore")
def test_the_positions_end(model):
    with pytest.raises(ToolkitError, match="at most 251 new tokens, not 400"):
        model.generate(PROMPT, do_sample=False, max_new_tokens=400, custom_generate=speculative())


@pytest.fixture
def executors(monkeypatch):
    """Every executor that is made, in order."""
    made, honest = [], choose_executor.make_functional

    def make_functional(*arguments):
        made.append(honest(*arguments))
        return made[-1]

    monkeypatch.setattr(choose_executor, "make_functional", make_functional)
    return made


def test_calls_share_one_executor(executors):
    """Whatever their stop ids are: weights are laid out once."""
    model, decoding = fresh("llama"), speculative()
    for stop in (3, 4, [5, 6]):
        plain, ours = both(model, decoding, eos_token_id=stop)
        assert ours == plain
    assert len(executors) == 1


@pytest.mark.parametrize(
    "change", ["no_grad", "data", "replaced", "hook", "patch", "buffer", "attribute"]
)
def test_a_model_that_changes_between_calls(change):
    """Its owner trains it, merges an adapter into it or hooks it: the next call notices."""
    model, decoding = fresh("llama"), speculative()
    first, _ = both(model, decoding)
    weight = model.model.layers[1].mlp.down_proj.weight
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0), dtype=weight.dtype)
    if change == "no_grad":
        with torch.no_grad():
            weight.add_(noise)
    elif change == "data":
        weight.data += noise
    elif change == "replaced":
        weight.data = noise
    elif change == "patch":
        plain = model.model.layers[1].mlp.forward
        model.model.layers[1].mlp.forward = lambda x: plain(x) * 3
    elif change == "buffer":
        model.model.rotary_emb.inv_freq.mul_(2)
    elif change == "attribute":
        model.model.layers[1].self_attn.scaling = 2.0
    else:
        model.model.layers[1].mlp.register_forward_hook(lambda *called: called[2] + noise[:, 0])
    plain, ours = both(model, decoding)
    assert ours == plain != first
