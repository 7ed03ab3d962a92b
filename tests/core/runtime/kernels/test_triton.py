"""The Triton kernels under Triton's interpreter, in a process of its own: see `triton/conftest.py`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.version import Version

triton = pytest.importorskip("triton", reason="Triton is not installed: `make setup` installs it")


@pytest.mark.skipif(
    Version(triton.__version__) < Version("3.6"),
    reason=f"the interpreter is mended for Triton 3.6 and newer, this is {triton.__version__}: "
    "install a newer PyTorch for CUDA, which brings one, or a newer Triton",
)
def test_kernels_under_the_interpreter():
    folder = Path(__file__).parent / "triton"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", folder],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
