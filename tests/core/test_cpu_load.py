"""What other processes use of the CPU, and whether that is too much to time anything."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from toolkit import cpu_load
from toolkit.cpu_load import BUSY, Moment, busy_load, measure_load

SPIN = "import time\nwhile time.process_time() < 0.5: pass"


def counted():
    return Moment.now().everyone is not None


@pytest.mark.skipif(not counted(), reason="this system does not count all processes' CPU time")
def test_what_another_process_uses_is_found():
    """It says itself how much that was; the rest of the machine may use more."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = Moment.now()
    subprocess.run([sys.executable, "-P", "-c", SPIN], check=True)
    ended, after = Moment.now(), resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = measure_load(began, ended) * os.cpu_count() * (ended.at - began.at)
    assert used >= 0.5
    assert found >= 0.8 * used


@pytest.mark.skipif(not counted(), reason="this system does not count all processes' CPU time")
def test_what_this_process_uses_is_not_others():
    began = Moment.now()
    while Moment.now().own < began.own + 0.5:
        pass
    ended = Moment.now()
    used = (ended.everyone - began.everyone) / (os.cpu_count() * (ended.at - began.at))
    assert measure_load(began, ended) <= used - 0.4 / (os.cpu_count() * (ended.at - began.at))


def test_the_share_is_of_all_cores(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    began, ended = Moment(0.0, 1.0, 100.0), Moment(10.0, 11.0, 130.0)
    assert measure_load(began, ended) == pytest.approx((30 - 10) / 40)


def test_idle_and_waiting_for_the_disk_are_not_used_and_stolen_time_is(monkeypatch, tmp_path):
    (tmp_path / "stat").write_text("cpu  1 2 4 1000 2000 8 16 32 64 128\ncpu0 1 1 1\n")
    monkeypatch.setattr(cpu_load, "COUNTED", tmp_path / "stat")
    monkeypatch.setattr("os.sysconf", lambda name: 1)
    assert Moment.now().everyone == 1 + 2 + 4 + 8 + 16 + 32


@pytest.mark.parametrize("content", ["", "cpu  0 0 0 0 0 0 0 0 0 0\n", "intr 5\n", "cpu x\n"])
def test_where_nothing_is_counted_the_load_average_stands_in(monkeypatch, tmp_path, content):
    (tmp_path / "stat").write_text(content)
    monkeypatch.setattr(cpu_load, "COUNTED", tmp_path / "stat")
    _load_average_stands_in(monkeypatch)


def test_without_proc_too(monkeypatch):
    monkeypatch.setattr(cpu_load, "COUNTED", Path("/nowhere/stat"))
    _load_average_stands_in(monkeypatch)


def _load_average_stands_in(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr("os.getloadavg", lambda: (3.0, 0.0, 0.0))
    here = Moment.now()
    assert here.everyone is None
    later = Moment(here.at + 10, here.own + 10, None)
    assert measure_load(here, later) == pytest.approx((3 - 1) / 4)
    busier = Moment(here.at + 10, here.own + 40, None)  # it lags behind
    assert measure_load(here, busier) == 0


def fails():
    raise OSError


@pytest.mark.parametrize("answer", [lambda: (0.0, 0.0, 0.0), fails])
def test_not_known_is_none(monkeypatch, answer):
    monkeypatch.setattr("os.getloadavg", answer)
    assert measure_load(Moment(0.0, 0.0, None), Moment(1.0, 1.0, None)) is None


@pytest.fixture
def others(monkeypatch):
    """Sets what other processes use of four cores while a second goes by."""

    def use(cores):
        now = Moment(1.0, 0.0, float(cores))
        monkeypatch.setattr(Moment, "now", classmethod(lambda _: now))
        return busy_load(Moment(0.0, 0.0, 0.0))

    monkeypatch.setattr("os.cpu_count", lambda: 4)
    return use


@pytest.mark.parametrize("threads", [1, 3, 4, 8])
def test_a_machine_is_busy_when_others_use_cores_that_our_threads_need(
    others, monkeypatch, threads
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    idle = max(0, 4 - threads)
    assert others(0) is None
    assert others(idle + 4 * BUSY - 0.01) is None
    assert others(idle + 4 * BUSY + 0.01) == pytest.approx(idle / 4 + BUSY + 0.0025)


def test_a_machine_is_not_busy_where_the_load_is_not_known(monkeypatch):
    monkeypatch.setattr(cpu_load, "COUNTED", Path("/nowhere/stat"))
    monkeypatch.setattr("os.getloadavg", fails)
    assert busy_load(Moment.now()) is None
