"""The C code by itself: against plain loops in C, on CPUs of another kind, and under sanitizers."""

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from toolkit.runtime.kernels import build

CHECK = Path(__file__).with_name("check.c")
OWN = os.environ.get("CC", "cc")
THREAD_SANITIZER = ["-O1", "-g", "-fsanitize=thread"]
MEMORY_SANITIZERS = ["-O1", "-g", "-fsanitize=address,undefined"]


def compiled(compiler, flags, folder):
    """The checks and the kernels in one program; skips where there is no such compiler or library."""
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler}")
    program, sources = folder / "check", sorted(build.SOURCES.glob("*.c"))
    command = [compiler, *build.COMMON, "-Wall", "-Wextra", "-Werror", *flags]
    done = subprocess.run(
        [*command, f"-I{build.SOURCES}", CHECK, *sources, "-o", program, "-lm"],
        capture_output=True, text=True,
    )  # fmt: skip
    missing = "cannot find" in done.stderr and "san" in done.stderr
    if missing:
        pytest.skip("the compiler has no sanitizer library")
    assert done.returncode == 0, done.stderr
    return program


def checked(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "all right\n", "")


@pytest.mark.parametrize(
    ("isa", "compiler"), [*((isa, OWN) for isa in build.isas()), (build.isas()[-1], "clang")]
)
def test_kernels_are_right(isa, compiler, tmp_path):
    if isa == "amx":
        pytest.skip("the program does not ask the system for the matrix unit")
    checked(compiled(compiler, build.FLAGS[isa], tmp_path))


@pytest.mark.parametrize("flags", [THREAD_SANITIZER, MEMORY_SANITIZERS], ids=["threads", "memory"])
def test_sanitizers_find_nothing(flags, tmp_path):
    widest = [isa for isa in build.isas() if isa != "amx"][-1]  # as above
    checked(compiled(OWN, [*build.FLAGS[widest][1:], *flags], tmp_path))


def test_kernels_are_right_on_arm(tmp_path):
    if platform.machine() == "aarch64":
        pytest.skip("this is one: the kernels are tested as they are")
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("there is no qemu-aarch64")
    program = compiled("aarch64-linux-gnu-gcc", [*build.FLAGS["neon"], "-static"], tmp_path)
    checked("qemu-aarch64", program)


def test_the_check_finds_what_is_wrong(tmp_path, monkeypatch):
    """The control: a kernel whose sums depend on how many rows go together."""
    folder = tmp_path / "kernels"
    shutil.copytree(build.SOURCES, folder)
    file = folder / "linear.c"
    good = "sum[r * wide + i] + b"
    text = file.read_text()
    assert good in text
    file.write_text(text.replace(good, f"({good}) * (1.0f + 1e-6f * (rows % 2))"))
    monkeypatch.setattr(build, "SOURCES", folder)
    program = compiled(OWN, build.FLAGS["portable"], tmp_path)
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 1
    assert "a linear's row is another among others" in done.stdout
