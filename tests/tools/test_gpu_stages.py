"""Copies in a step, by the names that PyTorch's profiler gives them."""

from types import SimpleNamespace

import gpu_stages
import pytest
from gpu_goals import COPIES, PAGEABLE
from gpu_results import Results, read_rows

SEEN = {
    "Memcpy HtoD (Pinned -> Device)": 40,
    "Memcpy DtoH (Device -> Pinned)": 20,
    "Memcpy DtoH (Device -> Pageable)": 10,
    "Memcpy DtoD (Device -> Device)": 500,
    "skinny_linear": 900,
}


@pytest.mark.parametrize(("name", "beyond"), [("budget", [1.0]), ("growmap, whole step", [])])
def test_copies_between_host_and_device_are_counted(tmp_path, name, beyond):
    averages = [SimpleNamespace(key=key, count=count) for key, count in SEEN.items()]
    results = Results("profile", tmp_path, rehearse=True)
    gpu_stages._count_copies(results, name, averages, 10, levels=3.0)
    copies, pageable, *others = read_rows(tmp_path, ["profile"])
    assert (copies["measure"], copies["value"]) == ("copies", 7.0)
    assert copies["note"] == "4 to the device, 3 to the host; 3 levels"
    assert (pageable["measure"], pageable["value"]) == (PAGEABLE, 1.0)
    assert [(row["measure"], row["value"]) for row in others] == [(COPIES, each) for each in beyond]


def test_without_a_profile_no_copies_are_counted(tmp_path):
    """Where the profiler may not look at the GPU; 0 copies would meet the goal."""
    with pytest.raises(RuntimeError, match="saw no work of the GPU"):
        gpu_stages._count_copies(Results("profile", tmp_path, False), "budget", [], 10, levels=3.0)
    assert read_rows(tmp_path, ["profile"]) == []
