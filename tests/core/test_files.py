"""An atomic write leaves the old file or the new one, whatever interrupts it."""

import errno
import os
import stat
from pathlib import Path

import pytest

from toolkit.files import is_folder, open_atomically


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def written(path, data, **how):
    with open_atomically(path, **how) as file:
        file.write(data)


def test_a_file_gets_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "it"
    with open_atomically(path) as file:
        file.write(b"data")
        assert not path.exists()
        assert Path(file.name).parent == tmp_path
    assert path.read_bytes() == b"data"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_writer_that_stops_leaves_what_was(tmp_path, error):
    path = tmp_path / "it"
    path.write_bytes(b"before")
    with pytest.raises(error), open_atomically(path) as file:
        raise error(file.write(b"half of it"))
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_what_was_and_names_the_folder(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    path = tmp_path / "it"
    path.write_bytes(b"before")
    with pytest.raises(OSError, match="No space left") as caught:
        written(path, b"after")
    assert caught.value.filename == str(tmp_path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
    written(path, b"after", sync=False)
    assert path.read_bytes() == b"after"


def test_two_writers_at_once(tmp_path):
    path = tmp_path / "it"
    with open_atomically(path) as one, open_atomically(path) as other:
        one.write(b"one")
        other.write(b"other")
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_has_the_usual_mode_or_that_asked_for(tmp_path):
    before = os.umask(0o027)
    try:
        written(tmp_path / "usual", b"")
        written(tmp_path / "own", b"", mode=0o600)
    finally:
        os.umask(before)
    assert (mode(tmp_path / "usual"), mode(tmp_path / "own")) == (0o640, 0o600)


@pytest.mark.parametrize("folder", ["gone", "file"])
def test_a_folder_that_is_none_is_an_error_of_its_own(tmp_path, folder):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"No such file|Not a directory") as caught:
        written(tmp_path / folder / "it", b"")
    assert caught.value.filename == str(tmp_path / folder)


def test_an_error_without_a_number_stays_as_it_is(tmp_path):
    with pytest.raises(OSError, match="from elsewhere"), open_atomically(tmp_path / "it"):
        raise OSError("from elsewhere")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_a_path_is_no_folder(tmp_path):
    assert is_folder(str(tmp_path))
    assert not any(map(is_folder, ("no", "x" * 100_000, "a\0b", str(tmp_path / "no"))))
