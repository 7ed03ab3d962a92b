"""What was found out about a machine is found out once, for this code, CPU, libraries and threads."""

import os
import platform
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch

from toolkit.runtime import disk, machine


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(disk, "_unkept", {})


@pytest.fixture
def find_out():
    """How often something was found out, as what was found."""
    times = []

    def find():
        times.append(1)
        return {"times": len(times)}

    return find


def test_what_was_found_out_is_remembered(find_out):
    for _ in range(2):
        assert machine.remembered(("level", "this model"), find_out) == {"times": 1}
    assert machine.remembered(("level", "that model"), find_out) == {"times": 2}


@pytest.mark.parametrize("text", ["", "{", '{"times": 3}', "[1]", '{"found": 3, "sha256": ""}'])
def test_what_is_damaged_is_found_out_anew(find_out, text):
    machine.remembered(("level",), find_out)
    (file,) = disk.cache_folder("checks").iterdir()
    file.write_text(text)
    for _ in range(2):
        assert machine.remembered(("level",), find_out) == {"times": 2}


def test_on_a_full_disk_it_is_known_for_this_process(find_out, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for _ in range(2):
        assert machine.remembered(("level",), find_out) == {"times": 1}


def test_it_holds_for_what_it_was_found_out_on(find_out, monkeypatch):
    """Speed and bits of PyTorch's and oneDNN's kernels change with what they may use of the CPU."""
    remember = lambda: machine.remembered(("level",), find_out)["times"]  # noqa: E731
    assert [remember(), remember()] == [1, 1]
    for name in machine.LIMITS:
        monkeypatch.setenv(name, "AVX2")
    assert remember() == 2
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert remember() == 3
    monkeypatch.setattr(torch, "get_num_threads", lambda: 63)
    assert remember() == 4
    monkeypatch.setattr(machine, "cpu_model", lambda: "another")
    assert remember() == 5
    monkeypatch.setattr(machine, "sources", lambda: "other code")
    assert remember() == 6


def test_the_first_time_says_what_it_does(find_out, monkeypatch):
    said = []

    @contextmanager
    def working(what):
        said.append(what)
        yield

    monkeypatch.setattr(machine, "working", working)
    for _ in range(2):
        machine.remembered(("level",), find_out, "Comparing")
    assert said == ["Comparing"]


def test_a_cpu_without_a_name_has_its_architecture(monkeypatch):
    monkeypatch.setattr(machine, "_sysctl", lambda name: "")
    monkeypatch.setattr(machine, "_stated", dict)
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert (machine.cpu_model(), machine.cpu_flags()) == ("riscv64", frozenset())
    arm = {"CPU implementer": "0x41", "CPU part": "0xd40", "Features": "fp asimd"}
    monkeypatch.setattr(machine, "_stated", lambda: arm)
    assert machine.cpu_model() == "riscv64 0x41 0xd40"
    assert machine.cpu_flags() == {"fp", "asimd"}


def test_macos_says_what_its_cpu_has(monkeypatch):
    said = {
        "brand_string": "Intel(R) Core(TM) i7",
        "features": "FPU FMA AVX1.0",
        "leaf7_features": "AVX2 BMI1",
    }
    monkeypatch.setattr(machine, "_stated", dict)
    monkeypatch.setattr(machine, "_sysctl", said.get)
    assert machine.cpu_model() == "Intel(R) Core(TM) i7"
    assert machine.cpu_flags() >= {"fma", "avx2"}


def test_a_machine_without_sysctl_has_nothing_to_say():
    if sys.platform != "darwin":
        assert machine._sysctl("brand_string") == ""


def test_the_cpu_is_known_without_torch():
    code = (
        "import sys; from toolkit.runtime.kernels.build import isas; isas();"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
