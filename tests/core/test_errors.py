"""A traceback is cut to its author's frames."""

import sys
import traceback
from importlib.util import module_from_spec, spec_from_file_location

import pytest

from toolkit import TokenTree
from toolkit.errors import format_trace

THEIRS = """
import json

def outer(tree):
    return inner(tree)

def inner(tree):
    return tree.best(None).within(3)

def parse():
    return json.loads("{")
"""


@pytest.fixture
def theirs(tmp_path):
    (tmp_path / "theirs.py").write_text(THEIRS)
    spec = spec_from_file_location("theirs", tmp_path / "theirs.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def caught(call, *args):
    try:
        call(*args)
    except Exception as error:  # noqa: BLE001 whatever it is
        return error.with_traceback(error.__traceback__.tb_next)
    raise AssertionError


def test_ours_and_pythons_frames_are_left_out(theirs):
    said = format_trace(caught(theirs.parse), "theirs")
    assert "in parse" in said
    assert "JSONDecodeError" in said
    assert "json/decoder.py" not in said


def test_their_own_frames_stay_in_order(theirs):
    said = format_trace(caught(theirs.outer, TokenTree.root(1).first(0)), "theirs")
    assert said.index("in outer") < said.index("in inner")
    assert "tree.py" not in said


def test_without_a_frame_of_theirs_the_last_one_stays():
    import json

    said = format_trace(caught(json.loads, "{"), "theirs")
    assert "decoder.py" in said


def test_of_installed_packages_only_the_authors(tmp_path, monkeypatch):
    site = tmp_path / "site-packages"
    site.mkdir()
    (site / "helper_of_others.py").write_text("def fail():\n    raise KeyError('x')\n")
    (site / "mine_installed.py").write_text(
        "import helper_of_others\ndef go():\n    helper_of_others.fail()\n"
    )
    monkeypatch.syspath_prepend(str(site))
    import mine_installed

    error = caught(mine_installed.go)
    assert len(traceback.extract_tb(error.__traceback__)) == 2
    assert "helper_of_others.py" not in format_trace(error, "mine_installed")
    for name in ("mine_installed", "helper_of_others"):
        del sys.modules[name]
