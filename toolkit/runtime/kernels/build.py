"""Compile the C sources for an instruction set, once, into the user's cache, and load them from there.

A library's name has a hash of its sources and a checksum of its content. So two processes that
compile at once both get a whole library, and a damaged one is compiled again and never loaded.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import IO

from toolkit.errors import ToolkitError
from toolkit.files import open_atomically
from toolkit.progress import working
from toolkit.runtime.machine import disk
from toolkit.runtime.machine.cpu import cpu_flags

SOURCES = Path(__file__).parent  # every .c file of this folder
FUNCTIONS = (
    "ready", "tree_attention", "gated", "linear", "decoder_pass", "move_rows", "keep_rows",
    "gumbel_noise", "draw_token", "top_tokens",
)  # fmt: skip
AVX2 = ["-O3", "-mavx2", "-mfma"]
AVX512 = [
    *AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"
]  # fmt: skip
FLAGS = {  # for one kind of CPU, a later set is faster
    "portable": ["-O3"],
    "avx2": AVX2,
    "avx512": AVX512,
    "amx": [*AVX512, "-mamx-tile", "-mamx-bf16"],
    "neon": ["-O3"],
}
# -ffp-contract stays at the compiler's default: with `fast`, Clang fuses some sums and not others.
COMMON = ["-std=gnu11", "-fPIC", "-pthread", "-fno-math-errno", "-Wno-psabi"]
NEEDS = {  # flags of an x86 CPU, in addition to those of the set before
    "avx2": {"avx2", "fma"},
    "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
    "amx": {"amx_tile", "amx_bf16"},
}
PATIENCE = 120.0  # seconds for a whole build, and for a library's trial
POLL = 0.005  # seconds
TRIAL = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
for name in sys.argv[2:]:
    getattr(library, name)
library.ready()
"""
_lock = Lock()
_hung: set[str] = set()  # programs that took too long; this process does not run them again


class NoCompiler(Exception):  # noqa: N818 not an error: PyTorch is used instead
    """The reason why our kernels are not available."""


def supported() -> tuple[str, ...]:
    """The instruction sets of this CPU that we have kernels for, the fastest last."""
    machine = platform.machine().lower()
    found = ["portable"]
    if machine in ("aarch64", "arm64"):
        found.append("neon")
    elif machine in ("x86_64", "amd64"):
        for isa, needs in NEEDS.items():
            if not needs <= cpu_flags():
                break
            found.append(isa)
    return tuple(found)


def isas() -> tuple[str, ...]:
    """The instruction sets that kernels may use: this CPU's up to TOOLKIT_ISA, the fastest last.

    Raises `ToolkitError` when TOOLKIT_ISA is none of this CPU's.
    """
    found = supported()
    wanted = os.environ.get("TOOLKIT_ISA") or found[-1]
    if wanted not in found:
        raise ToolkitError(
            f"TOOLKIT_ISA={wanted!r:.40} is no instruction set of this CPU: name one of "
            f"{', '.join(found)}, or unset it"
        )
    return found[: found.index(wanted) + 1]


def load(isa: str) -> ctypes.CDLL:
    """The library for an instruction set, compiled if there is none that is whole.

    Raises `NoCompiler` with the reason. A process tries only once.
    """
    with _lock:
        found = _loaded(isa)
    if isinstance(found, str):
        raise NoCompiler(found)
    return found


@cache
def _loaded(isa: str) -> ctypes.CDLL | str:
    try:
        library = _opened(isa)
    except NoCompiler as error:
        return str(error)
    return library if library.ready() else f"the system does not let us use {isa}"


def _opened(isa: str) -> ctypes.CDLL:
    with suppress(OSError, AttributeError):  # whole, but not for this system
        return _open(built(isa))
    try:
        return _open(_build(isa))
    except (OSError, AttributeError) as error:
        raise NoCompiler(f"the compiled library does not load: {error}") from error


def _open(file: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(file))
    for name in FUNCTIONS:
        getattr(library, name)
    return library


def built(isa: str) -> Path:
    """The file of an instruction set's library, compiled if there is none that is whole. Raises
    `NoCompiler` with the reason."""
    stem = _stem(isa)
    with suppress(OSError):
        for file in sorted(disk.cache_folder("kernels").glob(f"{stem}-*.so")):
            if disk.is_own_file(file) and file.name == _name(stem, file.read_bytes()):
                return file
    return _build(isa)


def _stem(isa: str) -> str:
    total = hashlib.sha256()
    for source in sorted(SOURCES.glob("*.[ch]")):
        total.update(source.read_bytes())
    parts = [_compiler(), *COMMON, *FLAGS[isa], sysconfig.get_platform()]
    total.update("\0".join(parts).encode())
    return f"{isa}-{total.hexdigest()[:20]}"


def _name(stem: str, library: bytes) -> str:
    return f"{stem}-{hashlib.sha256(library).hexdigest()}.so"


def _compiler() -> str:
    return os.environ.get("CC") or "cc"


def _build(isa: str) -> Path:
    """Compile, and put into the cache what works. Raises `NoCompiler`."""
    compiler = shutil.which(_compiler())
    if compiler is None:
        raise NoCompiler(
            f"there is no C compiler {_compiler()!r:.40}: install one (cc), or name it in CC"
        )
    stem = _stem(isa)
    try:
        with (
            working("Compiling kernels for this CPU (once)"),
            tempfile.TemporaryDirectory(prefix="speculative-toolkit-") as folder,
        ):
            library = _compiled([compiler, *COMMON, *FLAGS[isa]], Path(folder))
            return _install(library, _name(stem, library))
    except (OSError, NoCompiler) as error:
        disk.say_once("kernels", f"Our kernels for {isa} are not used: {error}")
        raise NoCompiler(str(error)) from error


def _compiled(command: list[str], folder: Path) -> bytes:
    """Compile each source by itself in an empty folder, and link them; returns the library."""
    sources = sorted(SOURCES.glob("*.c"), key=lambda source: -source.stat().st_size)
    units = {str(folder / f"{source.name}.o"): str(source) for source in sources}
    library, deadline = folder / "library", time.monotonic() + PATIENCE
    compiling = [[*command, "-c", source, "-o", unit] for unit, source in units.items()]
    _run(command[0], compiling, deadline)
    _run(command[0], [[*command, "-shared", *units, "-o", str(library), "-lm"]], deadline)
    if not library.is_file():
        raise NoCompiler(f"{command[0]} wrote nothing")
    return library.read_bytes()


def _install(library: bytes, name: str) -> Path:
    """Write a library into the cache or, where it cannot be written or executed, into a temporary
    folder of this process; returns its path. Raises `NoCompiler` or `OSError`."""
    try:
        return _write(library, disk.cache_folder("kernels") / name)
    except (OSError, NoCompiler) as error:
        private = _write(library, disk.private_folder("kernels") / name)
        disk.say_not_cached(error)
        return private


def _write(library: bytes, path: Path) -> Path:
    """Write a library, unless loading it fails. Raises `NoCompiler` or `OSError`."""
    with open_atomically(path, mode=0o600) as file:
        file.write(library)
        file.flush()
        _try(Path(file.name))
    return path


def _try(library: Path) -> None:
    """Try to load a library, in a separate process. Raises `NoCompiler` when that fails."""
    trial = [sys.executable, "-I", "-S", "-c", TRIAL, str(library), *FUNCTIONS]
    _run("the compiled library", [trial], time.monotonic() + PATIENCE)


def _run(what: str, commands: list[list[str]], deadline: float) -> None:
    """Run commands side by side, as many as there are CPUs. Raises `NoCompiler` when one fails or takes
    too long; then the others are killed."""
    late = NoCompiler(f"{what} was not done after {PATIENCE:.0f} s")
    if what in _hung:
        raise late
    waiting, running = list(commands), list[subprocess.Popen[bytes]]()
    with tempfile.TemporaryFile() as log:
        try:
            while waiting or running:
                while waiting and len(running) < (os.cpu_count() or 1):
                    running.append(_start(waiting.pop(0), log))
                for ended in [process for process in running if process.poll() is not None]:
                    running.remove(ended)
                    if ended.returncode:
                        raise NoCompiler(f"{what} failed: {_reason(ended, log)}")
                if time.monotonic() > deadline:
                    _hung.add(what)
                    raise late
                time.sleep(POLL)
        finally:
            for process in running:
                _kill(process)


def _start(command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a command in a process group, so that its child processes can be killed with it."""
    return subprocess.Popen(  # noqa: S603 the compiler, on our own sources
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(OSError):
        if os.name == "nt":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _reason(ended: subprocess.Popen[bytes], log: IO[bytes]) -> str:
    """The first line of the log with an error, or the exit status of a process."""
    log.seek(0)
    lines = log.read().decode(errors="replace").splitlines()
    ending = f"it ended with status {ended.returncode}"
    return next((line.strip() for line in lines if "error" in line.lower()), ending)
