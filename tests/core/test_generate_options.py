"""Every option of `generate` is honoured or refused by name: a rule, not a list of what is refused."""

import copy

import pytest
import torch
from transformers import GenerationConfig
from transformers.generation import logits_process

from toolkit import ToolkitError, speculative
from toolkit.conformance.models import tiny
from toolkit.generate_options import KNOWN, PROCESSORS, require_honoured

OPTIONS = [name for name in vars(GenerationConfig()) if not name.startswith("_")]


def require(config, **passed):
    ids = torch.tensor([[5, 9]])
    require_honoured(tiny("llama", 1, ()), ids, passed.pop("processors", ()), config, passed)


def effective(**options):
    """As `generate` fills it in."""
    config = GenerationConfig(**options)
    config.update(**config._get_default_generation_params(), defaults_only=True)
    return config


def test_the_defaults_are_honoured():
    require(effective())
    require(GenerationConfig())


@pytest.mark.parametrize("name", sorted(set(OPTIONS) - KNOWN))
def test_what_is_not_known_is_refused_by_name(name):
    config = effective()
    setattr(config, name, "odd")
    with pytest.raises(ToolkitError, match=f"does not support {name}=odd"):
        require(config)


def test_an_option_that_a_later_transformers_has_is_refused():
    class Later(GenerationConfig):
        def __init__(self, **given):
            self.new_way = given.pop("new_way", None)
            super().__init__(**given)

    require(Later())
    with pytest.raises(ToolkitError, match="new_way=7"):
        require(Later(new_way=7))


def test_entries_that_transformers_does_not_read_are_ignored():
    require(effective(chat_format="chatml"))


@pytest.mark.parametrize("name", ["dynamic", "static", "offloaded"])
def test_caches_that_change_no_token(name):
    require(effective(cache_implementation=name))
    with pytest.raises(ToolkitError, match="cache_implementation=quantized"):
        require(effective(cache_implementation="quantized"))


def test_the_names_are_those_of_transformers():
    assert set(OPTIONS) >= KNOWN
    assert all(hasattr(logits_process, name) for name in PROCESSORS)


def test_a_subclass_of_a_known_processor_is_refused():
    class Mine(logits_process.MinLengthLogitsProcessor):
        pass

    plain = logits_process.MinLengthLogitsProcessor(3, 3)
    require(effective(), processors=[plain])
    with pytest.raises(ToolkitError, match="logits processor Mine"):
        require(effective(), processors=[plain, Mine(3, 3)])


@pytest.mark.parametrize(
    ("name", "option"),
    [("TopHLogitsWarper", "top_h"), ("TypicalLogitsWarper", "typical_p"),
     ("EpsilonLogitsWarper", "epsilon_cutoff"), ("EtaLogitsWarper", "eta_cutoff")],
)  # fmt: skip
def test_a_refused_warper_is_named_by_its_option_or_as_the_callers_own(name, option):
    warper = getattr(logits_process, name)(0.5)
    with pytest.raises(ToolkitError, match=f"does not support {option}=0.5"):
        require(effective(do_sample=True, **{option: 0.5}), processors=[warper])
    with pytest.raises(ToolkitError, match=f"logits processor {name}"):
        require(effective(do_sample=True), processors=[warper])


def test_an_empty_list_of_stop_ids_is_what_it_is_in_transformers():
    """With a padding id nothing stops; without one, `generate` itself fails, with or without ours."""
    model, prompt = copy.deepcopy(tiny("llama", 1, ())), torch.tensor([[5, 9]])
    model.set_attn_implementation("sdpa")
    given = {"max_new_tokens": 30, "do_sample": False, "eos_token_id": []}
    methods = {}, {"custom_generate": speculative(drafter="ngram")}
    plain, ours = (model.generate(prompt, pad_token_id=0, **given, **way).tolist() for way in methods)
    assert ours == plain
    assert len(ours[0]) == 32
    for way in methods:
        with pytest.raises(IndexError):
            model.generate(prompt, **given, **way)
