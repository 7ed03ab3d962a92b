"""Kernels are compiled once, kept where nobody else can write, and loaded when they are whole."""

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from toolkit.cli import main
from toolkit.errors import ToolkitError
from toolkit.runtime.kernels import build
from toolkit.runtime.machine import disk

compiled = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
ISA = "portable"


@pytest.fixture(autouse=True)
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
    monkeypatch.setattr(disk, "_said", set())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    forget()
    yield disk.cache_folder("kernels")
    forget()


def forget():
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


def other_library(path, source="int other(void) { return 0; }"):
    """Compile a library that is none of ours."""
    path.with_suffix(".c").write_text(source)
    command = ["cc", "-shared", "-fPIC", "-o", str(path), str(path.with_suffix(".c"))]
    subprocess.run(command, check=True)
    path.with_suffix(".c").unlink()
    return path


# Instruction sets.

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


# Compiling.


@compiled
def test_a_library_is_compiled_once(builds, folder):
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
def test_a_compiler_that_writes_rubbish(what, folder, compiler, builds, caplog):
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
    (line,) = done.stderr.splitlines()
    assert "the compiled library failed" in line


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


# What lies in the cache.


def cut(file):
    file.write_bytes(file.read_bytes()[:1000])


def emptied(file):
    file.write_bytes(b"")


def other(file):
    other_library(file.with_name("other.so")).replace(file)


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


@compiled
@pytest.mark.parametrize(
    "damage", [cut, emptied, other, linked, writable, without_checksum, given_away]
)
def test_what_is_not_whole_or_not_ours_is_compiled_anew(damage, builds, folder):
    file = build.built(ISA)
    whole = file.read_bytes()
    damage(file)
    assert build.load(ISA).ready() == 1
    assert file.read_bytes() == whole
    assert disk.is_own_file(file)
    forget()
    build.load(ISA)
    assert len(builds) == 2


@compiled
def test_a_folder_in_the_librarys_place_is_gone_around(builds, folder, caplog):
    a_folder(build.built(ISA))
    assert build.load(ISA).ready() == 1
    assert len(caplog.messages) == 1


@compiled
@pytest.mark.parametrize("source", ["int other;", "not even a library"])
def test_what_is_whole_and_no_library_of_ours_is_compiled_anew(source, builds, folder):
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


@compiled
def test_deleted_under_a_running_process_is_harmless(builds, folder):
    library = build.load(ISA)
    shutil.rmtree(folder.parent)
    assert library.ready() == build.load(ISA).ready() == 1
    assert len(builds) == 1
    forget()  # as another process
    assert build.load(ISA).ready() == 1
    assert len(builds) == 2


@compiled
def test_a_clock_that_jumps_does_not_matter(builds, folder, monkeypatch):
    file = build.built(ISA)
    for when in (0, 2**33):
        os.utime(file, (when, when))
        monkeypatch.setattr(time, "time", lambda when=when: when // 2)
        assert build.built(ISA) == file
    assert len(builds) == 1


# Whose it is.


@compiled
@pytest.mark.parametrize("way", ["writable", "link"])
def test_a_planted_library_is_never_loaded(way, folder, tmp_path, caplog):
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


@compiled
def test_a_read_only_cache_is_said_once_and_gone_around(folder, read_only, builds, caplog):
    read_only()
    library = build.load(ISA)
    assert library.ready() == 1
    assert Path(library._name).parent == disk.private_folder("kernels")
    assert build.load(ISA) is library
    assert len(builds) == 1
    (line,) = caplog.messages
    assert line.endswith(f"measures anew: {folder}: Read-only file system")


@compiled
def test_what_a_read_only_cache_holds_is_used(folder, read_only, builds, caplog):
    build.built(ISA)
    read_only()
    assert Path(build.load(ISA)._name).parent == folder
    assert len(builds) == 1
    assert caplog.messages == []


@compiled
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


def test_no_place_to_compile_in_is_a_reason(monkeypatch):
    def none(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build.tempfile, "mkdtemp", none)
    with pytest.raises(build.NoCompiler, match="No space left"):
        build.load(ISA)


@compiled
def test_what_the_system_forbids_is_kept_and_not_used(folder, builds):
    source = build.SOURCES / "first.c"
    source.write_text(source.read_text().replace("return 1", "return 0"))
    with pytest.raises(build.NoCompiler, match=f"the system does not let us use {ISA}"):
        build.load(ISA)
    forget()
    with pytest.raises(build.NoCompiler, match="the system does not let us"):
        build.load(ISA)
    assert len(builds) == len(list(folder.iterdir())) == 1


def test_the_sources_have_what_is_looked_for():
    """`FUNCTIONS` names what the real sources define."""
    text = "".join(file.read_text() for file in Path(build.__file__).parent.glob("*.c"))
    for name in build.FUNCTIONS:
        assert f" {name}(" in text
