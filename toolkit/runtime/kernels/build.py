"""Compiling the C sources once per machine, into the user's cache.

The file's name is a hash of what went into it: sources, compiler, flags, CPU and PyTorch. It is
written beside and renamed, so two processes that start at once both end with a whole one.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

from toolkit.runtime.machine import cache_folder, cpu_name

SOURCES = ("attention.c", "decoder.c", "gate.c", "linear.c", "rows.c")
ISAS = ("portable", "avx2", "avx512", "amx")  # a later one is faster
AVX512 = [
    "-O3", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma",
    "-mprefer-vector-width=512",
]  # fmt: skip
FLAGS = {
    "portable": ["-O2"],  # narrower vectors unrolled by -O3 take a minute to compile
    "avx2": ["-O2", "-mavx2", "-mfma"],
    "avx512": AVX512,
    "amx": [*AVX512, "-mamx-tile", "-mamx-bf16"],
}
COMMON = ["-fPIC", "-fopenmp", "-fno-math-errno", "-Wno-psabi"]
PATIENCE = 120  # seconds for one compilation


class NoCompiler(Exception):  # noqa: N818 no error: PyTorch attends instead
    """Why the sources could not be compiled."""


def isas() -> tuple[str, ...]:
    """The instruction sets that this CPU has, the fastest last."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return ISAS[:1]
    capability, flags = torch.backends.cpu.get_cpu_capability(), cpu_name().split()
    if "AVX512" not in capability:
        return ISAS[: 1 + ("AVX2" in capability)]
    return ISAS if "amx_bf16" in flags else ISAS[:-1]


def built(isa: str) -> Path:
    """The shared library for an instruction set, compiled when it is not there. Raises `NoCompiler`
    with the reason."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise NoCompiler("there is no C compiler: install one (cc), or name it in CC")
    target = cache_folder("kernels") / f"{isa}-{_key(compiler)}.so"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            made = Path(folder) / target.name
            sources = [str(Path(__file__).parent / source) for source in SOURCES]
            out = ["-shared", "-o", str(made)]
            _run([compiler, *COMMON, *FLAGS[isa], *sources, *out, *_openmp(), "-lm"])
            made.replace(target)
    return target


def _openmp() -> list[str]:
    """PyTorch's own OpenMP, so that both share one pool of threads; else the compiler's."""
    theirs = sorted(Path(torch.__file__).parent.glob("lib/libgomp*.so*"))
    return ["-Wl,--no-as-needed", str(theirs[0])] if theirs else []


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(  # noqa: S603 the compiler, on our own sources
            command, capture_output=True, text=True, check=False, timeout=PATIENCE
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoCompiler(f"{command[0]} did not run: {error}") from error
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[0]
        raise NoCompiler(f"{command[0]} failed: {said}")


def _key(compiler: str) -> str:
    total = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.[ch]")):
        total.update(source.read_bytes())
    parts = [compiler, str(FLAGS), str(COMMON), cpu_name(), torch.__version__, torch.__file__]
    total.update("\0".join(parts).encode())
    return total.hexdigest()[:20]
