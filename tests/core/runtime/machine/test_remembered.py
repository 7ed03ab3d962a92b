"""What was found out about a machine is found out once, for this code, CPU, libraries and threads."""

import os
from contextlib import contextmanager

import pytest
import torch

from toolkit.runtime.machine import disk, remembered


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(disk, "_unkept", {})


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


@pytest.mark.parametrize("text", ["", "{", '{"times": 3}', "[1]", '{"found": 3, "sha256": ""}'])
def test_what_is_damaged_is_found_out_anew(find_out, text):
    remembered.remembered(("level",), find_out)
    (file,) = disk.cache_folder("checks").iterdir()
    file.write_text(text)
    for _ in range(2):
        assert remembered.remembered(("level",), find_out) == {"times": 2}


def test_on_a_full_disk_it_is_known_for_this_process(find_out, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
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
