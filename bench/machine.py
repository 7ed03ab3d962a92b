"""What a bench ran on, in words: no speed-up means anything without it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def machine(run: Mapping[str, Any]) -> str:
    """CPU, threads and instruction sets of a row of `runs`."""
    cpu, device = run["cpu"], run["device"]
    place = cpu if device == "cpu" else f"{device}, on the host {cpu}"
    ours = f"{run['isa']} in our kernels" if run["isa"] else "none of our kernels"
    return (
        f"{place}, CPU threads: {run['threads']}, instruction set: {ours}, {run['torch_isa']} in "
        f"PyTorch"
    )
