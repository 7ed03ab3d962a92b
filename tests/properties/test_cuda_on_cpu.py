"""The first case of each GPU test on the CPU: it fails where the code has left the tests behind."""

import os
import subprocess
import sys
from pathlib import Path

RUN = """
import sys
import pytest

class FirstCases:
    def pytest_collection_modifyitems(self, items):
        first = {item.function: item for item in reversed(items)}
        items[:] = [item for item in items if item is first[item.function]]

sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]], [FirstCases()]))
"""


def test_gpu_tests_run_on_the_cpu():
    done = subprocess.run(
        [sys.executable, "-P", "-c", RUN, Path(__file__).with_name("test_cuda.py")],
        env={**os.environ, "TOOLKIT_TEST_DEVICE": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
