"""The options that commands share: strict numbers, choices that the pool knows, one pipeline."""

import click
import pytest
from click.testing import CliRunner

from toolkit import Pool, ToolkitError
from toolkit.cli import main, options
from toolkit.cli.options import Counts, Whole
from toolkit.runtime.models import pool


def test_a_count_and_counts():
    assert Whole(min=1).convert("12", None, None) == 12
    assert Whole(min=1).convert(10, None, None) == 10  # a default
    assert Counts().convert("64,128", None, None) == [64, 128]


@pytest.mark.parametrize("text", ["1_0", "٣", "²", "1.0", "0x1", "", "9" * 5000])
def test_what_is_no_count(text):
    with pytest.raises(click.BadParameter, match="whole number"):
        Whole(min=1).convert(text, None, None)
    with pytest.raises(click.BadParameter, match="whole numbers"):
        Counts().convert(text, None, None)


@pytest.mark.parametrize("kind", [Whole(min=1), Counts()])
def test_what_is_below_one(kind):
    with pytest.raises(click.BadParameter, match="1"):
        kind.convert("0", None, None)


def chosen(*decorators, arguments=()):
    """What a command with these options is called with."""
    found = {}

    def command(**values):
        found.update(values)

    for decorate in decorators:
        command = decorate(command)
    result = CliRunner().invoke(click.command(command), arguments)
    assert result.exit_code == 0, result.output
    return found


def test_models_are_loaded_with_three_options():
    assert chosen(options.models()) == {"device": "auto", "dtype": "auto", "executor": "auto"}
    assert set(chosen(options.models(default=None)).values()) == {None}


def test_a_command_may_change_an_option():
    assert chosen(options.kv()) == {"kv": "full"}
    policies = options.kv("policies", multiple=True, default=())
    assert chosen(policies) == {"policies": ()}
    given = ["--kv", "h2o", "--kv", "tova"]
    assert chosen(policies, arguments=given) == {"policies": ("h2o", "tova")}


@pytest.mark.parametrize(
    ("option", "known"),
    [
        (options.device, pool.DEVICES),
        (options.dtype, ("auto", *pool.DTYPES)),
        (options.executor, pool.EXECUTORS),
    ],
)
def test_choices_are_those_of_the_pool(option, known):
    (made,) = click.command(option()(lambda: None)).params
    assert tuple(made.type.choices) == known


def test_a_device_may_be_one_of_several_gpus():
    assert chosen(options.device(), arguments=["--device", "cuda:1"]) == {"device": "cuda:1"}
    for wrong in ("gpu", "cuda:x", "cuda:"):
        said = f"no device '{wrong}': there are auto, cpu, cuda, and cuda:1 for the second GPU"
        with pytest.raises(click.BadParameter, match=said):
            options.Device(["auto", "cpu", "cuda"]).convert(wrong, None, None)


@pytest.mark.parametrize("command", ["run", "costs", "doctor"])
def test_a_command_that_loads_models_takes_device_dtype_and_executor(command):
    names = {parameter.name for parameter in main.get_command(None, command).params}
    assert {"device", "dtype", "executor"} <= names


def test_a_pipeline_from_options(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("raise KeyError")
    with pytest.raises(ToolkitError, match="does not import"):
        options.load_registry([file])
    made = options.make_pool("cpu", "fp64", "module")
    assert isinstance(made, Pool)
    assert (made.device, made.dtype, made.executor) == ("cpu", "fp64", "module")
    pipeline = options.make_pipeline(
        "stories-1m", drafter="none", plugins=(), device="cpu", dtype="fp64", executor="module"
    )
    assert (pipeline.target, pipeline.pool.dtype) == ("stories-1m", "fp64")


def test_a_file_that_can_be_written_is_left_as_it_was(tmp_path):
    file = tmp_path / "report.json"
    options.require_writable(file)
    assert not file.exists()
    file.write_text("{}")
    options.require_writable(file)
    assert file.read_text() == "{}"
    with pytest.raises(ToolkitError, match="make it first"):
        options.require_writable(tmp_path / "no" / "report.json")
    with pytest.raises(ToolkitError, match="cannot be written"):
        options.require_writable(tmp_path)
