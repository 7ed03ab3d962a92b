"""`model.generate(custom_generate=toolkit.speculative(…))` gives what `model.generate` gives."""

import copy

import pytest
import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from toolkit import ToolkitError, speculative
from toolkit.conformance.models import noisy, tiny
from toolkit.errors import ModelError
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
        self.ids, self.ended = [], 0

    def put(self, value):
        self.ids.append(value.flatten().tolist())

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


def test_a_streamer_is_given_the_prompt_and_every_token(model):
    streamer = Streamer()
    _, ours = both(model, speculative(streamer=streamer))
    assert streamer.ids[0] == PROMPT[0].tolist()
    assert [token for ids in streamer.ids for token in ids] == ours[0]
    assert all(len(ids) == 1 for ids in streamer.ids[1:])
    assert streamer.ended == 1


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


class Nothing(LogitsProcessor):
    def __call__(self, input_ids, scores):
        return scores


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"do_sample": True}, "do_sample=True"),
        ({"num_beams": 3}, "num_beams=3"),
        ({"repetition_penalty": 1.3}, "RepetitionPenaltyLogitsProcessor"),
        ({"min_new_tokens": 4, "eos_token_id": 3}, "MinNewTokens"),
        ({"logits_processor": LogitsProcessorList([Nothing()])}, "Nothing"),
        ({"return_dict_in_generate": True}, "return_dict_in_generate"),
        ({"attention_mask": torch.tensor([[0, 1, 1, 1, 1, 1]])}, "attention_mask"),
        ({"prompt_lookup_num_tokens": 3}, "prompt_lookup_num_tokens"),
    ],
)
def test_what_is_not_supported_is_named(options, named):
    model = fresh("llama")
    before = state(model)
    given = {"do_sample": False, "max_new_tokens": 4, "pad_token_id": 0, **options}
    with pytest.raises(ToolkitError, match=named):
        model.generate(PROMPT, custom_generate=speculative(), **given)
    assert state(model) == before


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
    with pytest.raises(ModelError, match="positions are used up"):
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
