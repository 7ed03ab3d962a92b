"""The instruction sets of a CPU, and TOOLKIT_ISA, which lowers them."""

import os

import pytest
from click.testing import CliRunner

from toolkit.cli import main
from toolkit.errors import ToolkitError
from toolkit.runtime.kernels import build

AVX2 = {"avx2", "fma", "sse4_2"}


AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl"}


AMX = AVX512 | {"amx_tile", "amx_bf16"}


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", set(), ("portable",)),
        ("x86_64", {"avx2"}, ("portable",)),
        ("x86_64", AVX2, ("portable", "avx2")),
        ("AMD64", AVX512 - {"avx512vl"}, ("portable", "avx2")),
        ("x86_64", AVX512, ("portable", "avx2", "avx512")),
        ("x86_64", AMX - {"amx_bf16"}, ("portable", "avx2", "avx512")),
        ("x86_64", AMX - {"avx512bw"}, ("portable", "avx2")),
        ("x86_64", AMX, ("portable", "avx2", "avx512", "amx")),
        ("aarch64", {"asimd"}, ("portable", "neon")),
        ("arm64", set(), ("portable", "neon")),
        ("riscv64", AMX, ("portable",)),
    ],
)
def test_what_a_cpu_has(machine, flags, expected, monkeypatch):
    monkeypatch.delenv("TOOLKIT_ISA", raising=False)
    monkeypatch.setattr(build.platform, "machine", lambda: machine)
    monkeypatch.setattr(build, "cpu_flags", lambda: flags)
    assert build.supported() == build.isas() == expected
    assert set(expected) <= set(build.FLAGS)


@pytest.fixture
def avx512(monkeypatch):
    monkeypatch.setattr(build.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(build, "cpu_flags", lambda: AVX512)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("portable", ("portable",)),
        ("avx2", ("portable", "avx2")),
        ("avx512", ("portable", "avx2", "avx512")),
        ("", ("portable", "avx2", "avx512")),
    ],
)
def test_toolkit_isa_lowers(wanted, expected, avx512, monkeypatch):
    monkeypatch.setenv("TOOLKIT_ISA", wanted)
    assert build.isas() == expected
    assert build.supported()[-1] == "avx512"


@pytest.mark.parametrize("wanted", ["amx", "neon", "AVX2", "avx", " avx2", "x" * 100_000])
def test_toolkit_isa_never_raises_what_a_cpu_has(wanted, avx512, monkeypatch):
    monkeypatch.setattr(os, "environ", {"TOOLKIT_ISA": wanted})
    with pytest.raises(ToolkitError, match="name one of portable, avx2, avx512, or unset") as error:
        build.isas()
    assert len(str(error.value)) < 200


def test_a_wrong_toolkit_isa_is_refused_by_the_command():
    """First of all: nobody has looked for the model yet."""
    command = ["run", "Hello", "--target", "no-such-model"]
    done = CliRunner().invoke(main, command, env={"TOOLKIT_ISA": "mmx"})
    assert done.exit_code == 2
    assert "TOOLKIT_ISA='mmx' is no instruction set of this CPU" in done.output
