"""The team of threads: bits do not depend on it, requests share it, and forks and signals work."""

import copy
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from toolkit.conformance.models import tiny
from toolkit.runtime.compute.executors import fastest
from toolkit.runtime.compute.linears.kernels import Blocked
from toolkit.runtime.kernels import native
from toolkit.runtime.models.load import prepare
from toolkit.runtime.session import ModelSession

pytestmark = pytest.mark.skipif(native.why_not() is not None, reason="no C compiler")
PROMPT = list(range(1, 10))


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(fastest, "fastest_kernel", lambda *_: Blocked)
    monkeypatch.setattr(
        "toolkit.runtime.compute.executors.c_decoder.SHARE", 1
    )  # worth threads, tiny as it is
    return prepare("it", copy.deepcopy(tiny("llama")).float(), owned=True)


def logits_of(model, threads=None):
    """Logits of a prompt and two trees, with a count of threads for each of the three passes."""
    session, out = ModelSession(model), []
    before = torch.get_num_threads()
    try:
        for step, count in enumerate(threads or [1, 1, 1]):
            torch.set_num_threads(count)
            if step:
                out.append(session.forward([5, 8, 9, 7, 3], [-1, 0, 0, 2, 2]))
                session.commit([0, 2, 3])
            else:
                out.append(session.prefill(PROMPT)[None])
    finally:
        torch.set_num_threads(before)
    return torch.cat(out)


@pytest.mark.parametrize("threads", [[2] * 3, [4] * 3, [1, 4, 2], [3, 1, 8], [40] * 3], ids=str)
def test_threads_change_no_bit_whenever_they_change(model, threads):
    assert torch.equal(logits_of(model, threads), logits_of(model))


def test_requests_at_once_do_not_disturb_each_other(model):
    expected, found = logits_of(model), []

    def run():
        for _ in range(20):
            found.append(torch.equal(logits_of_a_fresh_session(model), expected))

    torch.set_num_threads(2)
    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 80


def logits_of_a_fresh_session(model):
    session = ModelSession(model)
    out = [session.prefill(PROMPT)[None]]
    for _ in range(2):
        out.append(session.forward([5, 8, 9, 7, 3], [-1, 0, 0, 2, 2]))
        session.commit([0, 2, 3])
    return torch.cat(out)


CHILD = """
import ctypes, os, sys
from toolkit.runtime.kernels import structs
from toolkit.runtime.kernels.build import isas, load
import torch

library = load(isas()[-1])
weight, x = torch.randn(8, 64, 32), torch.randn(3, 64)
of = structs.Linear(weight.data_ptr(), None, 64, 256, 0)

def product():
    out = torch.empty(3, 256)
    library.linear(ctypes.byref(of), ctypes.c_void_p(x.data_ptr()), ctypes.c_int64(3),
                   ctypes.c_void_p(out.data_ptr()), ctypes.c_int64(4))
    return out.numpy().tobytes()

before = product()
child = os.fork()
if child == 0:
    os._exit(0 if product() == before else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_a_team_of_its_own():
    assert subprocess.run([sys.executable, "-P", "-c", CHILD], timeout=100).returncode == 0


SIGNAL = """
import os, signal, threading
from toolkit.runtime.kernels.build import isas, load
import ctypes, torch
from toolkit.runtime.kernels import structs

library = load(isas()[-1])
weight, x, out = torch.randn(8, 64, 32), torch.randn(3, 64), torch.empty(3, 256)
of = structs.Linear(weight.data_ptr(), None, 64, 256, 0)
library.linear(ctypes.byref(of), ctypes.c_void_p(x.data_ptr()), ctypes.c_int64(3),
               ctypes.c_void_p(out.data_ptr()), ctypes.c_int64(4))
tasks = [int(task) for task in os.listdir("/proc/self/task")]
blocked = 0
for task in tasks:
    status = dict(line.split(":\\t", 1) for line in open(f"/proc/self/task/{task}/status"))
    blocked += bool(int(status["SigBlk"], 16) >> (signal.SIGINT - 1) & 1)
print(blocked)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="no /proc here")
def test_the_team_takes_no_signals():
    """Ctrl-C is the main thread's, or Python would see it late."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", SIGNAL], capture_output=True, text=True, timeout=100
    )
    assert done.stdout.strip() == "3", done.stderr
