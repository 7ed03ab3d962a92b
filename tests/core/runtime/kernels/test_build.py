"""Kernels are compiled once and loaded when they are whole."""

import hashlib
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from toolkit.runtime.kernels import build

pytestmark = pytest.mark.usefixtures("folder")
compiled = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


ISA = "portable"


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """`compiler(script)`: CC is a shell script; `$out` is what it was told to write."""

    def named(script):
        file = tmp_path / "compiler"
        file.write_text(
            '#!/bin/sh\nfor word; do [ "$last" = -o ] && out=$word; last=$word; done\n' + script
        )
        file.chmod(0o755)
        monkeypatch.setenv("CC", str(file))
        return file

    return named


@compiled
def test_a_library_is_compiled_once(builds, folder, forget):
    library = build.load(ISA)
    assert library.ready() == 1
    assert library.move_rows() == 7
    forget()
    assert build.load(ISA).ready() == 1
    assert build.built(ISA) == Path(library._name)
    (file,) = folder.iterdir()
    assert file.name.endswith(f"-{hashlib.sha256(file.read_bytes()).hexdigest()}.so")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (command,) = builds
    assert command == [shutil.which("cc"), *build.COMMON, *build.FLAGS[ISA]]


@compiled
def test_other_sources_flags_or_compiler_are_another_library(folder, monkeypatch):
    build.built(ISA)
    with (build.SOURCES / "first.c").open("a") as source:
        source.write("int more;\n")
    build.built(ISA)
    (build.SOURCES / "header.h").write_text("#define MORE\n")
    build.built(ISA)
    monkeypatch.setitem(build.FLAGS, ISA, ["-O0"])
    build.built(ISA)
    monkeypatch.setenv("CC", shutil.which("cc"))
    build.built(ISA)
    assert len({file.name.split("-")[1] for file in folder.iterdir()}) == 5


@compiled
def test_what_is_compiled_needs_no_compiler_later(folder, monkeypatch):
    build.built(ISA)
    monkeypatch.setenv("PATH", "")
    assert build.load(ISA).ready() == 1


def test_without_a_compiler_the_reason_is_said(monkeypatch, caplog):
    monkeypatch.setenv("CC", "no-such-compiler")
    for call in build.built, build.load:
        with pytest.raises(build.NoCompiler, match="no C compiler 'no-such-compiler': install one"):
            call(ISA)
    assert caplog.messages == []  # `toolkit doctor` says it; it is no fault


@compiled
@pytest.mark.parametrize("stage", ["compile", "link"])
def test_a_compiler_that_fails_says_so(stage, folder, monkeypatch, caplog):
    if stage == "compile":
        monkeypatch.setattr(build, "COMMON", ["--no-such-option"])
    else:
        (build.SOURCES / "twice.c").write_text("int ready(void) { return 0; }\n")
    said = {"compile": "no-such-option", "link": "returned 1 exit status"}[stage]
    with pytest.raises(build.NoCompiler, match=f"cc failed: .*{said}"):
        build.load(ISA)
    assert list(folder.iterdir()) == []
    (line,) = caplog.messages
    assert line.startswith(f"Our kernels for {ISA} are not used: ")


def test_a_compiler_that_hangs_is_ended_with_all_it_started(
    folder, tmp_path, compiler, monkeypatch
):
    compiler(f"echo called >> {tmp_path}/calls\nsleep 600 & echo $! >> {tmp_path}/started\nwait\n")
    monkeypatch.setattr(build, "PATIENCE", 1.0)
    with pytest.raises(build.NoCompiler, match="compiler was not done after 1 s"):
        build.load(ISA)
    for started in (tmp_path / "started").read_text().split():
        assert ended(int(started))
    calls = (tmp_path / "calls").read_text()
    with pytest.raises(build.NoCompiler, match="was not done after"):  # and is not waited for again
        build.built("avx2")
    assert (tmp_path / "calls").read_text() == calls
    assert list(folder.iterdir()) == []


def ended(pid):
    """Whether a process is gone or a zombie, soon."""
    for _ in range(500):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def test_an_interrupt_leaves_no_compiler_running(tmp_path, compiler, monkeypatch):
    compiler(f"echo $$ >> {tmp_path}/started\nexec sleep 600\n")

    def interrupted(_):
        if (tmp_path / "started").exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(build.time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build.built(ISA)
    monkeypatch.undo()
    assert all(ended(int(pid)) for pid in (tmp_path / "started").read_text().split())


RUBBISH = {
    "nothing": "exit 0\n",
    "an empty file": ': > "$out"\n',
    "text": 'echo rubbish > "$out"\n',
    "another library": 'cp "$0.so" "$out"\n',
    "a library that crashes": 'cp "$0.so" "$out"\n',
}


@compiled
@pytest.mark.parametrize("what", RUBBISH)
def test_a_compiler_that_writes_rubbish(what, folder, compiler, builds, caplog, other_library):
    file = compiler(RUBBISH[what])
    names = [name for name in build.FUNCTIONS if name != "ready"]
    crashes = "".join(f"int {name}(void) {{ return 0; }}\n" for name in names)
    crashes += "int ready(void) { __builtin_trap(); }\n"
    other_library(file.with_name("compiler.so"), crashes if "crashes" in what else "int other;")
    for _ in range(2):
        with pytest.raises(build.NoCompiler) as error:
            build.load(ISA)
        assert ("wrote nothing" if what == "nothing" else "the compiled library failed") in str(
            error.value
        )
    assert len(builds) == 1
    assert list(folder.iterdir()) == []
    (line,) = caplog.messages
    assert "\n" not in line


@compiled
def test_with_rubbish_kernels_pytorch_runs_the_passes(tmp_path, compiler):
    compiler(RUBBISH["text"])
    command = [
        sys.executable, "-P", "-c", "from toolkit.cli import main; main()", "run", "Once",
        "--target", "stories-1m", "--drafter", "none", "--max-new-tokens", "4",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    assert "4 tokens" in done.stdout
    lines = [line for line in done.stderr.splitlines() if "The machine was busy" not in line]
    assert ["the compiled library failed" in line for line in lines] == [True]


@compiled
def test_two_processes_that_compile_at_once_end_with_a_whole_file(folder, tmp_path):
    """Both are held up until both have looked and found nothing."""
    code = f"""
import os, time
from pathlib import Path
from toolkit.runtime.kernels import build
build.SOURCES = Path({str(build.SOURCES)!r})
compiled = build._compiled
def meet(*given):
    Path({str(tmp_path)!r}, f"here-{{os.getpid()}}").touch()
    while len(list(Path({str(tmp_path)!r}).glob("here-*"))) < 2:
        time.sleep(0.01)
    return compiled(*given)
build._compiled = meet
print(build.load({ISA!r})._name, build.load({ISA!r}).ready())
"""
    processes = [
        subprocess.Popen([sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = {process.communicate(timeout=60)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    (file,) = folder.iterdir()
    assert said == {f"{file} 1\n"}
    assert build.built(ISA) == file


def test_no_place_to_compile_in_is_a_reason(monkeypatch):
    def none(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build.tempfile, "mkdtemp", none)
    with pytest.raises(build.NoCompiler, match="No space left"):
        build.load(ISA)


def test_the_sources_have_what_is_looked_for():
    """`FUNCTIONS` names what the real sources define."""
    text = "".join(file.read_text() for file in Path(build.__file__).parent.glob("*.c"))
    for name in build.FUNCTIONS:
        assert f" {name}(" in text
