"""The command's first imports can be interrupted."""

import subprocess
import sys

INTERRUPTED = """
import sys

class Interrupt:
    def find_spec(self, name, *_):
        if name == "click":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
from toolkit.__main__ import main
main()
"""


def test_ctrl_c_while_the_command_is_imported_leaves_no_traceback():
    done = subprocess.run(
        [sys.executable, "-P", "-c", INTERRUPTED], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_the_package_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-P", "-m", "toolkit", "--version"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("toolkit, version ")
