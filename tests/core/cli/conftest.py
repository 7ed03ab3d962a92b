"""A target and a drafter in folders, and calls of `toolkit run`."""

import json

import pytest
from click.testing import CliRunner
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from toolkit.cli import main
from toolkit.conformance.models import VOCABULARY, noisy, tiny


def save(model, folder, words=VOCABULARY):
    """A model folder with a tokenizer whose words are w1, w2, …"""
    model.save_pretrained(folder)
    vocabulary = {"<end>": 0, **{f"w{i}": i for i in range(1, words)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w1"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def target(tmp_path_factory):
    return save(tiny("gpt_neox", 3), tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="session")
def drafter(tmp_path_factory):
    return save(noisy("gpt_neox", 3), tmp_path_factory.mktemp("drafter"))


@pytest.fixture
def run():
    def call(*args, stdin=""):
        return CliRunner().invoke(main, ["run", *map(str, args)], input=stdin)

    return call


@pytest.fixture
def pair(target, drafter):
    return ["--target", target, "--drafter", drafter, "--dtype", "fp64", "--max-new-tokens", "24"]


@pytest.fixture(scope="session", name="save_model")
def _save_model():
    return save


@pytest.fixture(scope="session")
def refused():
    """Checks that a command ended with one short error that has the word."""

    def check(result, word, lines=3):
        assert result.exit_code == 2, result.output
        assert word in result.output
        assert isinstance(result.exception, SystemExit)
        assert len(result.output.splitlines()) <= lines

    return check


@pytest.fixture
def rows(tmp_path):
    """Writes a .jsonl file."""

    def write(*rows, name="prompts.jsonl"):
        file = tmp_path / name
        file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
        return file

    return write
