"""Small sources to compile, and a cache folder of each test."""

import subprocess

import pytest

from toolkit.runtime.kernels import build
from toolkit.runtime.machine import disk


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Small sources, a cache of the test's own, and a process that has loaded and said nothing."""
    sources = tmp_path / "sources"
    sources.mkdir()
    ready, *others = build.FUNCTIONS
    (sources / "first.c").write_text(f"int {ready}(void) {{ return 1; }}\n")
    (sources / "second.c").write_text(
        "".join(f"int {name}(void) {{ return 7; }}\n" for name in others)
    )
    monkeypatch.setattr(build, "SOURCES", sources)
    monkeypatch.setattr(build, "_hung", set())
    monkeypatch.setattr(disk, "_said", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    _forget()
    yield disk.cache_folder("kernels")
    _forget()


def _forget():
    """Forget what was loaded, as another process would."""
    build._loaded.cache_clear()
    disk.private_folder.cache_clear()


@pytest.fixture
def builds(monkeypatch):
    """The commands of whole builds."""
    done, real = [], build._compiled

    def counted(command, into):
        done.append(command)
        return real(command, into)

    monkeypatch.setattr(build, "_compiled", counted)
    return done


def _other_library(path, source="int other(void) { return 0; }"):
    """Compile a library that is none of ours."""
    path.with_suffix(".c").write_text(source)
    command = ["cc", "-shared", "-fPIC", "-o", str(path), str(path.with_suffix(".c"))]
    subprocess.run(command, check=True)
    path.with_suffix(".c").unlink()
    return path


@pytest.fixture(scope="session")
def forget():
    return _forget


@pytest.fixture(scope="session")
def other_library():
    return _other_library
