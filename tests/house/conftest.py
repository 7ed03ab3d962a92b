"""Fixtures for the tests of the repository itself."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def root():
    return ROOT


def listed(*options):
    """List files with `git ls-files`. Skips the test if this is not a git checkout."""
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    done = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    names = sorted(filter(None, done.stdout.split("\0")))
    return [Path(name) for name in names if (ROOT / name).is_file()]


@pytest.fixture(scope="session")
def tracked():
    """The files under version control, relative to the root."""
    return listed()


@pytest.fixture(scope="session")
def files():
    """The files under version control and new ones that git does not ignore."""
    return listed("--cached", "--others", "--exclude-standard")
