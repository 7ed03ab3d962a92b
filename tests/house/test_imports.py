"""Imports are light, commands fail before they load torch, and every public name exists."""

import ast
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import toolkit

HEAVY = {"torch", "transformers", "pyarrow", "numpy", "hypothesis", "pytest", "tokenizers"}
SLOW = {"torch", "transformers"}
STRATEGIES = {"strategies", "kvcache", "toolkit.strategies", "toolkit.kvcache", "toolkit.runtime"}
MAIN = "from toolkit.cli import main; main(prog_name='toolkit')"


def imported(code, cwd, *arguments, status=0, **environment):
    """Run `code` in a new Python; return the modules that it imports and what it prints."""
    done = subprocess.run(
        [sys.executable, "-P", "-X", "importtime", "-c", code, *arguments],
        cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment}, timeout=100,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == status, done.stderr[-3000:]
    lines = done.stderr.splitlines()
    times = [line for line in lines if line.startswith("import time:")]
    said = [line for line in lines if not line.startswith("import time:")]
    modules = {line.rpartition("|")[2].strip() for line in times[1:]}
    return modules, done.stdout + "\n".join(said)


def light(modules):
    return not modules & (HEAVY | STRATEGIES)


@pytest.mark.installed
@pytest.mark.parametrize("code", ["import toolkit", "import toolkit.cli"])
def test_an_import_is_light(code, tmp_path):
    modules, _ = imported(code, tmp_path)
    assert "toolkit" in modules
    assert light(modules)


@pytest.mark.installed
@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--version"], ["run", "--help"]])
def test_help_is_light(arguments, tmp_path):
    modules, out = imported(MAIN, tmp_path, *arguments)
    assert "toolkit" in out
    assert light(modules)


@pytest.mark.installed
@pytest.mark.parametrize(
    ("words", "offered"), [("toolkit ", "run"), ("toolkit run --sh", "--shaper")]
)
def test_completion_is_light(words, offered, tmp_path):
    modules, out = imported(
        MAIN,
        tmp_path,
        _TOOLKIT_COMPLETE="bash_complete",
        COMP_WORDS=words,
        COMP_CWORD=str(len(words.split(" ")) - 1),
    )
    assert offered in out
    assert light(modules)


@pytest.mark.installed
def test_the_check_for_heavy_imports_would_notice(tmp_path):
    modules, _ = imported("import toolkit; toolkit.Pipeline()", tmp_path)
    assert not light(modules)
    assert modules >= SLOW


@pytest.mark.installed
@pytest.mark.parametrize(
    "code",
    ["import toolkit; toolkit.Pipeline", "from toolkit import Pool, Registry, quiet; quiet()"],
)
def test_torch_is_imported_when_decoding_starts(code, tmp_path):
    modules, _ = imported(code, tmp_path)
    assert not modules & SLOW


@pytest.mark.installed
@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("plugins list", "adaptive"),
        ("plugins list --json", '"summary"'),
        ("plugins show h2o", "kv h2o"),
        ("models", "pythia-70m"),
        ("bench list", "data sets:"),
        ("kv-quality --help", "--budgets"),
    ],
)
def test_commands_that_only_list_import_no_torch(command, said, tmp_path):
    modules, out = imported(MAIN, tmp_path, *command.split())
    assert said in out
    assert not modules & SLOW


@pytest.mark.installed
@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("run hi --shaper adaptve", "did you mean adaptive?"),
        ("run hi --drafter ngrm", "did you mean ngram?"),
        ("run hi --drafter self:kv=[windo]", "did you mean window?"),
        ("run hi --shaper adaptive:budgt=3", "has no option 'budgt'"),
        ("run hi --kv window:budget=x", "option 'budget' takes int"),
        ("run hi --kv h2o:budget=8", "do not fit into"),
        ("run hi --target ./nowhere", "no model folder"),
        ("run hi --target storeis-11m", "did you mean stories-11m"),
        ("run hi --drafter ./nowhere", "no model folder"),
        ("run hi --drafter model:.", "no config.json"),
        ("run hi --target nobody/nothing", "not here and not reachable"),
        ("run hi --prompt-file none.txt", "none.txt"),
        ("run hi --prompt-file /dev/null", "use one of them"),
        ("run --prompt-file /dev/null", "is empty"),
        ("run hi --out .", "is an existing folder"),
        ("run hi --plugin none.py", "no plugin file"),
        ("check budgt", "did you mean budget"),
        ("check budget:depht=3", "has no option 'depht'"),
        ("costs --drafter ngrm", "did you mean ngram?"),
        ("doctor --target ./nowhere", "no model folder"),
        ("plugins show adaptve", "did you mean adaptive?"),
        ("plugins new chain --kind shaper", "there is a shaper called 'chain' already"),
        ("bench --plan nosuch", "no plan called 'nosuch'"),
        ("bench --arm shaper=adaptve", "did you mean adaptive?"),
        ("bench --arm drafter=ngram --dataset storeis", "no data set called 'storeis'"),
        ("kv-quality --kv windo", "did you mean window"),
        ("kv-quality --target ./nowhere", "no model folder"),
        ("kv-context --drafter ngrm", "did you mean ngram"),
        ("report none", "no results folder none"),
    ],
)
def test_a_mistake_is_rejected_without_torch(command, said, tmp_path):
    modules, out = imported(MAIN, tmp_path, *command.split(), status=2)
    assert said in out
    assert not modules & SLOW


OPTIONAL = ("hypothesis", "jinja2", "matplotlib", "pytest")
WITHOUT = f"import sys; sys.modules.update(dict.fromkeys({OPTIONAL}))\n{MAIN}"


@pytest.mark.installed
@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("run hi --max-new-tokens 4 --verify", "exact"),
        ("models", "stories-11m"),
        ("plugins list", "adaptive"),
        ("plugins show adaptive", "shaper adaptive"),
        ("doctor --help", "--target"),
        ("bench --arm drafter=ngram --prompts 1 --max-new-tokens 4 --out results", "6 requests"),
    ],
)
def test_no_extra_is_needed(command, said, tmp_path):
    _, out = imported(WITHOUT, tmp_path, *command.split())
    assert said in out


@pytest.mark.installed
@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("check adaptive", "needs hypothesis: pip install 'speculative-toolkit[testing]'"),
        ("plugins new mine --kind shaper", "jinja2: pip install 'speculative-toolkit[testing]'"),
        ("report .", "jinja2 and matplotlib: pip install 'speculative-toolkit[plots]'"),
        ("kv-quality --out results", "matplotlib: pip install 'speculative-toolkit[plots]'"),
        ("show . --step 0 --png s.png", "matplotlib: pip install 'speculative-toolkit[show]'"),
        ("costs --plot costs.png", "matplotlib: pip install 'speculative-toolkit[plots]'"),
    ],
)
def test_a_command_that_needs_an_extra_names_it_at_once(command, said, tmp_path):
    modules, out = imported(WITHOUT, tmp_path, *command.split(), status=2)
    assert said in out
    assert not modules & SLOW
    assert list(tmp_path.iterdir()) == []


@pytest.mark.installed
def test_the_kit_names_the_extra_that_it_needs(tmp_path):
    code = "from toolkit.conformance import conforms"
    _, out = imported(WITHOUT.replace(MAIN, code), tmp_path, status=1)
    assert "the conformance kit needs hypothesis: pip install" in out


@pytest.mark.installed
def test_every_public_name_is_there():
    for name in toolkit.__all__:
        assert getattr(toolkit, name) is not None
    assert dir(toolkit) == sorted(toolkit.__all__)


@pytest.mark.installed
def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = toolkit.nothing


@pytest.mark.installed
def test_the_type_checker_sees_the_names_that_are_exported():
    """`_HOMES` and the TYPE_CHECKING block list the same names."""
    tree = ast.parse(Path(find_spec("toolkit").origin).read_text(encoding="utf-8"))
    block = next(
        node
        for node in tree.body
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
    )
    seen = {
        alias.asname: (node.module, alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    homes = {name: (f"toolkit.{home}", name) for name, home in toolkit._HOMES.items()}
    assert seen == homes
