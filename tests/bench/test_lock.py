"""One bench at a time in a folder."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from toolkit.bench.lock import NAME, hold_lock, require_free

from toolkit import ToolkitError

HOLD = """
import sys
from pathlib import Path
from toolkit.bench.lock import hold_lock
with hold_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has the lock of a folder."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", HOLD, str(tmp_path / "r")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_second_is_refused_and_told_who_has_the_folder(holder, tmp_path):
    for use in (hold_lock(tmp_path / "r").__enter__, lambda: require_free(tmp_path / "r")):
        with pytest.raises(ToolkitError, match=f"process {holder.pid} .*{tmp_path / 'r'}"):
            use()
    assert (tmp_path / "r" / NAME).exists()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_holder_that_was_killed_holds_nothing(holder, tmp_path, how):
    holder.send_signal(how)
    holder.wait()
    assert (tmp_path / "r" / NAME).exists()
    require_free(tmp_path / "r")
    with hold_lock(tmp_path / "r"):
        assert f"process {os.getpid()} " in (tmp_path / "r" / NAME).read_text()


def test_after_it_nothing_is_left(tmp_path):
    with hold_lock(tmp_path / "r"):
        pass
    assert list((tmp_path / "r").iterdir()) == []


def test_an_error_inside_lets_go(tmp_path):
    with pytest.raises(RuntimeError), hold_lock(tmp_path / "r"):
        raise RuntimeError
    with hold_lock(tmp_path / "r"):
        pass


def test_a_folder_that_cannot_be_is_one_clear_error():
    match = "results cannot be written to /proc/r"
    with pytest.raises(ToolkitError, match=match), hold_lock(Path("/proc/r")):
        pass
