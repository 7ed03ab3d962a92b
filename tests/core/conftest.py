"""A tokenizer with a chat template."""

from collections.abc import Callable

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from toolkit.conformance.models import VOCABULARY

TEMPLATE = (
    "{{ bos_token }} {% for m in messages %}"
    "{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "{{ {'user': 'w2', 'assistant': 'w3', 'system': 'w4'}[m.role] }} {{ m.content }} {% endfor %}"
    "{% if not enable_thinking | default(true) %}w5 {% endif %}"
    "{% if add_generation_prompt %}w3 {% endif %}"
)


def _words(template=TEMPLATE):
    """A tokenizer of the words w1, w2, …, which puts `<s>` before every text."""
    vocabulary = {"<end>": 0, "<s>": 1, **{f"w{i}": i for i in range(2, VOCABULARY)}}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<end>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="<end>")
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture(scope="session", name="words")
def _fixture() -> Callable[..., PreTrainedTokenizerFast]:
    return _words
