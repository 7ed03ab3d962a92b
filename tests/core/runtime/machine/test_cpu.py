"""The CPU is known by what the system says of it, on Linux, macOS and elsewhere."""

import platform
import subprocess
import sys

from toolkit.runtime.machine import cpu


def test_a_cpu_without_a_name_has_its_architecture(monkeypatch):
    monkeypatch.setattr(cpu, "_sysctl", lambda name: "")
    monkeypatch.setattr(cpu, "_stated", dict)
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert (cpu.cpu_model(), cpu.cpu_flags()) == ("riscv64", frozenset())
    arm = {"CPU implementer": "0x41", "CPU part": "0xd40", "Features": "fp asimd"}
    monkeypatch.setattr(cpu, "_stated", lambda: arm)
    assert cpu.cpu_model() == "riscv64 0x41 0xd40"
    assert cpu.cpu_flags() == {"fp", "asimd"}


def test_macos_says_what_its_cpu_has(monkeypatch):
    said = {
        "brand_string": "Intel(R) Core(TM) i7",
        "features": "FPU FMA AVX1.0",
        "leaf7_features": "AVX2 BMI1",
    }
    monkeypatch.setattr(cpu, "_stated", dict)
    monkeypatch.setattr(cpu, "_sysctl", said.get)
    assert cpu.cpu_model() == "Intel(R) Core(TM) i7"
    assert cpu.cpu_flags() >= {"fma", "avx2"}


def test_a_machine_without_sysctl_has_nothing_to_say():
    if sys.platform != "darwin":
        assert cpu._sysctl("brand_string") == ""


def test_the_cpu_is_known_without_torch():
    code = (
        "import sys; from toolkit.runtime.kernels.build import isas; isas();"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
