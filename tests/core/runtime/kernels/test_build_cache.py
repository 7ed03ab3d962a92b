"""Compiled kernels on disk: damaged, planted and unwritable files."""

import os
import shutil
import stat
import subprocess
import time
from pathlib import Path

import pytest

from toolkit.runtime.kernels import build
from toolkit.runtime.machine import disk

ISA = "portable"
pytestmark = [
    pytest.mark.usefixtures("folder"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler"),
]


def cut(file):
    file.write_bytes(file.read_bytes()[:1000])


def emptied(file):
    file.write_bytes(b"")


def other(file):
    subprocess.run(["cc", "-shared", "-o", str(file), "-x", "c", "/dev/null"], check=True)


def linked(file):
    file.rename(file.with_name("real.so"))
    file.symlink_to(file.with_name("real.so"))


def writable(file):
    file.chmod(0o666)


def without_checksum(file):
    file.rename(file.with_name(file.name.rpartition("-")[0] + ".so"))


def given_away(file):
    if os.geteuid():
        pytest.skip("only root can give a file away")
    os.chown(file, 65534, 65534)


def a_folder(file):
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize(
    "damage", [cut, emptied, other, linked, writable, without_checksum, given_away]
)
def test_what_is_not_whole_or_not_ours_is_compiled_anew(damage, builds, folder, forget):
    file = build.built(ISA)
    whole = file.read_bytes()
    damage(file)
    assert build.load(ISA).ready() == 1
    assert file.read_bytes() == whole
    assert disk.is_own_file(file)
    forget()
    build.load(ISA)
    assert len(builds) == 2


def test_a_folder_in_the_librarys_place_is_gone_around(builds, folder, caplog):
    a_folder(build.built(ISA))
    assert build.load(ISA).ready() == 1
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("source", ["int other;", "not even a library"])
def test_what_is_whole_and_no_library_of_ours_is_compiled_anew(
    source, builds, folder, other_library
):
    file, wrong = build.built(ISA), folder / "wrong.so"
    if source.startswith("int"):
        other_library(wrong, source)
    else:
        wrong.write_text(source)
    wrong.chmod(0o600)
    named = build._name(build._stem(ISA), wrong.read_bytes())
    file.unlink()
    wrong.rename(folder / named)
    assert build.load(ISA).ready() == 1
    assert sorted(folder.iterdir()) == sorted([file, folder / named])
    assert len(builds) == 2


def test_deleted_under_a_running_process_is_harmless(builds, folder, forget):
    library = build.load(ISA)
    shutil.rmtree(folder.parent)
    assert library.ready() == build.load(ISA).ready() == 1
    assert len(builds) == 1
    forget()  # as another process
    assert build.load(ISA).ready() == 1
    assert len(builds) == 2


def test_a_clock_that_jumps_does_not_matter(builds, folder, monkeypatch):
    file = build.built(ISA)
    for when in (0, 2**33):
        os.utime(file, (when, when))
        monkeypatch.setattr(time, "time", lambda when=when: when // 2)
        assert build.built(ISA) == file
    assert len(builds) == 1


@pytest.mark.parametrize("way", ["writable", "link"])
def test_a_planted_library_is_never_loaded(way, folder, tmp_path, caplog, forget, other_library):
    """One with the right name, its checksum right, too, that leaves a mark when it is loaded."""
    mark, planted = tmp_path / "mark", folder / "planted.so"
    source = "#include <stdio.h>\n__attribute__((constructor)) void mark(void) { "
    source += f'fclose(fopen("{mark}", "w")); }}\n'
    source += "".join(f"int {name}(void) {{ return 1; }}\n" for name in build.FUNCTIONS)
    other_library(planted, source).chmod(0o600)
    planted = planted.rename(folder / build._name(build._stem(ISA), planted.read_bytes()))
    build.load(ISA)
    assert mark.exists()  # the control: from a folder of ours it is
    mark.unlink()
    forget()
    if way == "writable":
        folder.chmod(0o777)
    else:
        theirs = folder.rename(tmp_path / "theirs")
        theirs.chmod(0o777)
        folder.symlink_to(theirs)
    library = build.load(ISA)
    assert not mark.exists()
    private = Path(library._name).parent
    assert private == disk.private_folder("kernels")
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    (line,) = caplog.messages
    assert "others can write to it" in line


@pytest.fixture
def read_only(folder, monkeypatch):
    """Whoever runs this, root as well, cannot write into the cache."""
    real = os.open

    def open_(path, flags, *mode, **how):
        if flags & os.O_CREAT and Path(path).is_relative_to(folder):
            raise OSError(30, "Read-only file system", str(path))
        return real(path, flags, *mode, **how)

    return lambda: monkeypatch.setattr(os, "open", open_)


def test_a_read_only_cache_is_said_once_and_gone_around(folder, read_only, builds, caplog):
    read_only()
    library = build.load(ISA)
    assert library.ready() == 1
    assert Path(library._name).parent == disk.private_folder("kernels")
    assert build.load(ISA) is library
    assert len(builds) == 1
    (line,) = caplog.messages
    assert line.endswith(f"measures anew: {folder}: Read-only file system")


def test_what_a_read_only_cache_holds_is_used(folder, read_only, builds, caplog):
    build.built(ISA)
    read_only()
    assert Path(build.load(ISA)._name).parent == folder
    assert len(builds) == 1
    assert caplog.messages == []


def test_where_nothing_may_be_executed_another_folder_serves(folder, monkeypatch, caplog):
    real = build._try

    def no_exec(library):
        if library.is_relative_to(folder):
            raise build.NoCompiler("failed to map segment: Operation not permitted")
        real(library)

    monkeypatch.setattr(build, "_try", no_exec)
    assert Path(build.load(ISA)._name).parent == disk.private_folder("kernels")
    assert list(folder.iterdir()) == []
    assert "Operation not permitted" in caplog.messages[0]


def test_what_the_system_forbids_is_kept_and_not_used(folder, builds, forget):
    source = build.SOURCES / "first.c"
    source.write_text(source.read_text().replace("return 1", "return 0"))
    with pytest.raises(build.NoCompiler, match=f"the system does not let us use {ISA}"):
        build.load(ISA)
    forget()
    with pytest.raises(build.NoCompiler, match="the system does not let us"):
        build.load(ISA)
    assert len(builds) == len(list(folder.iterdir())) == 1
