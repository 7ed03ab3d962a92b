"""Results about a machine are measured once per code, CPU, libraries and threads."""

import errno
import json
import os
import tempfile
from contextlib import contextmanager

import pytest
import torch

from toolkit.runtime.machine import disk, remembered

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def full(monkeypatch):
    """No space is left on any device."""

    def fails(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)


@pytest.fixture
def find_out():
    """How often something was found out, as what was found."""
    times = []

    def find():
        times.append(1)
        return {"times": len(times)}

    return find


def test_what_was_found_out_is_remembered(find_out):
    for _ in range(2):
        assert remembered.remembered(("level", "this model"), find_out) == {"times": 1}
    assert remembered.remembered(("level", "that model"), find_out) == {"times": 2}


def test_what_was_timed_on_a_busy_machine_holds_for_this_process(caplog, monkeypatch):
    monkeypatch.setattr(remembered, "TRIES", 1)
    loads = iter([0.5, 0.25, None])
    find = lambda: {"busy_load": next(loads)}  # noqa: E731
    for _ in range(2):
        assert remembered.remembered(("kernel",), find) == {"busy_load": 0.5}
    assert remembered.remembered(("kernel", "another"), find) == {"busy_load": 0.25}
    assert list(disk.cache_folder("checks").iterdir()) == []
    (said,) = caplog.messages
    assert "(other processes used 50% of the CPU): do not rely on speeds of this run" in said
    assert disk.said("busy") == said
    monkeypatch.setattr(remembered, "_of_this_process", {})  # the next one
    for _ in range(2):
        assert remembered.remembered(("kernel",), find) == {"busy_load": None}
    assert len(list(disk.cache_folder("checks").iterdir())) == 1


def test_a_busy_moment_is_waited_out(caplog):
    """The message is for a machine that stays busy: what ran for a moment alone is measured again."""
    loads = iter([0.9, 0.5, None])
    find = lambda: {"busy_load": next(loads)}  # noqa: E731
    assert remembered.remembered(("kernel",), find) == {"busy_load": None}
    assert caplog.messages == []
    assert len(list(disk.cache_folder("checks").iterdir())) == 1


def test_a_machine_that_stays_busy_is_given_up(caplog):
    loads = iter([0.9, 0.5, 0.4, None])
    find = lambda: {"busy_load": next(loads)}  # noqa: E731
    assert remembered.remembered(("kernel",), find) == {"busy_load": 0.4}
    assert "other processes used 40% of the CPU" in caplog.text


@pytest.mark.parametrize("text", ["", "{", '{"times": 3}', "[1]", '{"found": 3, "sha256": ""}'])
def test_what_is_damaged_is_found_out_anew(find_out, text):
    remembered.remembered(("level",), find_out)
    (file,) = disk.cache_folder("checks").iterdir()
    file.write_text(text)
    for _ in range(2):
        assert remembered.remembered(("level",), find_out) == {"times": 2}


@pytest.mark.usefixtures("full")
def test_on_a_full_disk_it_is_known_for_this_process(find_out):
    for _ in range(2):
        assert remembered.remembered(("level",), find_out) == {"times": 1}


def test_it_holds_for_what_it_was_found_out_on(find_out, monkeypatch):
    """Speed and bits of PyTorch's and oneDNN's kernels change with what they may use of the CPU."""
    remember = lambda: remembered.remembered(("level",), find_out)["times"]  # noqa: E731
    assert [remember(), remember()] == [1, 1]
    for name in remembered.LIMITS:
        monkeypatch.setenv(name, "AVX2")
    assert remember() == 2
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert remember() == 3
    monkeypatch.setattr(torch, "get_num_threads", lambda: 63)
    assert remember() == 4
    monkeypatch.setattr(remembered, "cpu_model", lambda: "another")
    assert remember() == 5
    monkeypatch.setattr(remembered, "sources", lambda: "other code")
    assert remember() == 6


def test_the_first_time_says_what_it_does(find_out, monkeypatch):
    said = []

    @contextmanager
    def working(what):
        said.append(what)
        yield

    monkeypatch.setattr(remembered, "working", working)
    for _ in range(2):
        remembered.remembered(("level",), find_out, "Comparing")
    assert said == ["Comparing"]


def test_what_is_kept_is_found_again():
    for found in ({"answer": [1, 2.5, None, "τ"]}, [], 0, ""):
        remembered.remember("costs", "key", found)
        assert remembered.recall("costs", "key") == found
    assert remembered.recall("costs", "other") is None
    assert remembered.recall("checks", "key") is None
    assert [file.name for file in disk.cache_folder("costs").iterdir()] == ["key.json"]


GOOD = json.dumps({"sha256": remembered._checksum({"a": 1}), "found": {"a": 1}})


@pytest.mark.parametrize(
    "text",
    [
        "", GOOD[:-1], GOOD[:20], GOOD.replace("1}", "2}"), GOOD.replace('"found"', '"other"'), "[]",
        "3", "null", '{"found": {"a": 1}}', '{"a": 1}', "[" * 100_000, "\0" * 64, "\ud800",
    ],
    ids=range(13),
)  # fmt: skip
def test_what_was_not_kept_like_that_is_not_found(text):
    remembered.remember("costs", "key", {"a": 1})
    assert remembered.recall("costs", "key") == {"a": 1}
    file = disk.cache_folder("costs") / "key.json"
    file.write_bytes(text.encode(errors="surrogatepass"))
    assert remembered.recall("costs", "key") is None
    remembered.remember("costs", "key", {"a": 2})
    assert remembered.recall("costs", "key") == {"a": 2}


def test_a_folder_in_the_files_place_is_no_error(caplog):
    (disk.cache_folder("costs") / "key.json").mkdir()
    assert remembered.recall("costs", "key") is None
    remembered.remember("costs", "key", 1)
    assert remembered.recall("costs", "key") == 1  # in this process
    assert len(caplog.messages) == 1


def test_a_full_disk_is_said_once_and_this_process_remembers(own_cache, full, caplog):
    remembered.remember("costs", "key", 1)
    remembered.remember("checks", "key", 2)
    assert (remembered.recall("costs", "key"), remembered.recall("checks", "key")) == (1, 2)
    (said,) = caplog.messages
    assert said.endswith(
        f"compiles and measures anew: {own_cache}/speculative-toolkit/costs: No space left on device"
    )
    assert "\n" not in said
    assert list(disk.cache_folder("costs").iterdir()) == []


def test_no_place_at_all_is_no_error(own_cache, monkeypatch):
    def none(**_):
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    (own_cache / "speculative-toolkit").write_text("a file where the cache should be")
    monkeypatch.setattr(tempfile, "mkdtemp", none)
    remembered.remember("costs", "key", 1)
    assert remembered.recall("costs", "key") == 1
    with pytest.raises(OSError, match="No usable temporary"):
        disk.cache_folder("costs")


def test_clocks_do_not_matter(monkeypatch):
    remembered.remember("costs", "key", 1)
    file = disk.cache_folder("costs") / "key.json"
    for when in (0, 2**33):
        os.utime(file, (when, when))
        monkeypatch.setattr("time.time", lambda when=when: when // 2)
        assert remembered.recall("costs", "key") == 1
