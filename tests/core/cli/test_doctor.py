"""`toolkit doctor` says what runs here, and why."""

from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from tape import Tape

from toolkit.cli import main
from toolkit.cli.doctor import in_c, kernels, machine
from toolkit.runtime.compute.executors import captured, fastest
from toolkit.runtime.kernels import build, native
from toolkit.runtime.kernels.triton import jit
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
        rows = in_c()
    assert rows["kernels"].startswith(f"our own in C, for {lowest}, compiled into ")
    assert rows["not in use"] == (
        "high: TOOLKIT_ISA=middle; middle: the system does not let us use middle"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "our own in Triton"),
        ({"triton": None}, "PyTorch's, because Triton is not installed"),
        ({"launch_failure": lambda _: "OSError: no cc"}, "PyTorch's, because OSError: no cc"),
    ],
    ids=["launches", "no Triton", "no compiler"],
)
def test_on_a_gpu_triton_is_what_counts(monkeypatch, change, said):
    """No C kernel is compiled to say so."""
    usual = {"triton": jit, "version": "3.6.0", "INTERPRETED": False, "launch_failure": lambda _: None}
    for name, value in {**usual, **change}.items():
        monkeypatch.setattr(jit, name, value)
    monkeypatch.setattr(native, "_best", lambda: pytest.fail("a kernel in C was looked for"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"card {device.index}")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr("toolkit.runtime.machine.cpu.gpu_driver", lambda: "580.95")
    model = SimpleNamespace(device=torch.device("cuda:1"), dtype=torch.bfloat16)
    assert kernels(model) == {
        "GPU": "card 1, driver 580.95, CUDA 13.0", "Triton": "3.6.0", "kernels": said
    }  # fmt: skip


def test_passes_that_are_graphs(monkeypatch, target):
    monkeypatch.setattr(captured, "recorder_for", lambda _: Tape())
    _, output = said("--target", target, "--dtype", "fp64")
    assert "passes of up to 64 rows run as CUDA graphs, with PyTorch's attention" in output
    assert "as one graph each, where trees have one shape" in output


def test_graphs_that_cannot_be_captured(monkeypatch, target):
    class Refuses(Tape):
        def record(self, run):
            raise RuntimeError("no such operation")

    monkeypatch.setattr(captured, "recorder_for", lambda _: Refuses())
    _, output = said("--target", target, "--dtype", "fp64")
    why = "because capturing failed: RuntimeError: no such operation"
    assert f"passes run layer by layer, {why}" in output
    assert f"pass by pass, {why}" in output


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
