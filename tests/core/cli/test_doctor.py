"""`toolkit doctor` says what runs here, and why."""

import pytest
import torch
from click.testing import CliRunner

from toolkit.cli import main
from toolkit.cli.doctor import kernels, machine
from toolkit.runtime.compute.executors import fastest
from toolkit.runtime.kernels import build, native
from toolkit.runtime.machine import disk
from toolkit.runtime.machine.remembered import LIMITS

compiled = pytest.mark.skipif(native.why_not() is not None, reason="no C compiler")


def said(*arguments, **env):
    done = CliRunner().invoke(main, ["doctor", *arguments], env={"COLUMNS": "300", **env})
    return done.exit_code, done.output


@compiled
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_what_runs_here(dtype):
    code, output = said("--target", "stories-1m", "--dtype", dtype)
    assert code == 0
    rows = {line[:16].strip(): line[18:].strip() for line in output.splitlines()}
    assert rows["instruction sets"] == ", ".join(build.supported())
    assert rows["kernels"].startswith(f"our own in C, for {native.library().isa}, compiled into ")
    assert rows["executor"].startswith("functional, because its family is described")
    assert "rows" in rows["linears"]
    assert rows["level"].startswith("bitwise: trees of 1 to ")


def test_reasons_why_kernels_are_not_used():
    code, output = said("--target", "stories-1m", "--dtype", "fp64", "--executor", "module")
    assert code == 0
    assert "PyTorch's, because ours are for fp32 and bf16 on CPU" in output
    assert "module, because it was asked for" in output
    assert "fp32: not bitwise: no kernels of ours for float64" in output


def test_without_a_compiler(monkeypatch):
    monkeypatch.setattr(native, "_best", lambda: "there is no C compiler: install one")
    code, output = said("--target", "stories-1m")
    assert code == 0
    assert "PyTorch's, because there is no C compiler: install one" in output
    assert "fp32: not bitwise: there is no C compiler" in output


@compiled
def test_why_not_the_fastest(monkeypatch):
    """One is left out by TOOLKIT_ISA, and one does not load."""
    lowest, load = build.isas()[0], build.load

    def refused(isa):
        if isa == "middle":
            raise build.NoCompiler("the system does not let us use middle")
        return load(isa)

    monkeypatch.setattr(build, "supported", lambda: (lowest, "middle", "high"))
    monkeypatch.setattr(build, "load", refused)
    monkeypatch.setenv("TOOLKIT_ISA", "middle")
    with native.using(lowest):
        rows = kernels()
    assert rows["kernels"].startswith(f"our own in C, for {lowest}, compiled into ")
    assert rows["not in use"] == (
        "high: TOOLKIT_ISA=middle; middle: the system does not let us use middle"
    )


def test_what_a_busy_machine_showed_is_said(monkeypatch):
    monkeypatch.setattr(disk, "_said", {"busy": "The machine was busy while it was measured"})
    _, output = said("--target", "stories-1m")
    assert "timing" in output
    assert "The machine was busy while it was measured" in output
    monkeypatch.setattr(disk, "_said", {})
    monkeypatch.setattr(fastest, "busy_load", lambda _: None)
    _, output = said("--target", "stories-1m")
    assert "busy" not in output


def test_what_libraries_were_told(monkeypatch):
    told = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "ATEN_CPU_CAPABILITY", *LIMITS)
    for name in told:
        monkeypatch.delenv(name, raising=False)
    rows = machine()
    assert rows["oneDNN"] == "no limit set"
    assert "set OMP_WAIT_POLICY=passive before Python starts" in rows["waiting"]
    assert rows["PyTorch"].endswith(f"uses {torch.backends.cpu.get_cpu_capability()}")
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.setenv("GOMP_SPINCOUNT", "100")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    rows = machine()
    assert rows["waiting"] == "OMP_WAIT_POLICY=passive, GOMP_SPINCOUNT=100"
    assert rows["oneDNN"] == "ONEDNN_MAX_CPU_ISA=AVX2"
    assert rows["PyTorch"].endswith(", ATEN_CPU_CAPABILITY=avx2")


def test_a_wrong_toolkit_isa_is_an_error():
    code, output = said(TOOLKIT_ISA="fast")
    assert code == 2
    assert f"name one of {', '.join(build.supported())}, or unset it" in output


def test_an_unknown_model_is_an_error():
    code, output = said("--target", "nonsense")
    assert code == 2
    assert "no model called 'nonsense'" in output
