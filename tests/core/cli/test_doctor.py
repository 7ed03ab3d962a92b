"""`toolkit doctor` says what runs here, and why."""

import pytest
from click.testing import CliRunner

from toolkit.cli import main
from toolkit.runtime.kernels import native


def said(*arguments):
    done = CliRunner().invoke(main, ["doctor", *arguments], env={"COLUMNS": "200"})
    return done.exit_code, done.output


@pytest.mark.skipif(native.why_not() is not None, reason="no C compiler")
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_what_runs_here(dtype):
    code, output = said("--target", "stories-1m", "--dtype", dtype)
    assert code == 0
    assert "our own in C, for" in output
    assert "functional, because its family is described" in output
    assert "rows" in output
    assert "bitwise: trees of 1 to 64 nodes gave AR's bits" in output


def test_why_not():
    code, output = said("--target", "stories-1m", "--dtype", "fp64", "--executor", "module")
    assert code == 0
    assert "PyTorch's, because ours is for fp32 and bf16 on CPU" in output
    assert "module, because it was asked for" in output
    assert "fp32: not bitwise: no kernels of ours for float64" in output


def test_without_a_compiler(monkeypatch):
    monkeypatch.setattr(native, "_best", lambda: "there is no C compiler: install one")
    code, output = said("--target", "stories-1m")
    assert code == 0
    assert "PyTorch's, because there is no C compiler: install one" in output
    assert "fp32: not bitwise: there is no C compiler" in output


def test_an_unknown_model_is_an_error():
    code, output = said("--target", "nonsense")
    assert code == 2
    assert "no model called 'nonsense'" in output
