"""What an arm of the GPU bench says that did not run as it should."""

from types import SimpleNamespace
from unittest import mock

import enlarge
import gpu_arms
import pytest
import torch
from gpu_goals import AGAINST, COST
from gpu_results import Results, read_rows
from transformers import AutoModelForCausalLM

from toolkit import Pool, Registry


@pytest.mark.parametrize(
    ("run", "noted"),
    [
        ("pass by pass, because capturing failed: RuntimeError", True),
        ("0 steps as one graph each; 9 pass by pass, because capturing failed: RuntimeError", True),
        ("9 steps as one graph each; 1 pass by pass, because the end cuts the tree", False),
    ],
)
@pytest.mark.parametrize("rehearse", [True, False])
def test_steps_that_are_no_graphs_are_noted(tmp_path, run, noted, rehearse):
    """On a GPU."""
    results = Results("speed", tmp_path, rehearse=rehearse)
    gpu_arms.note_general_steps(results, "growmap, whole step", SimpleNamespace(steps_run=run))
    found = [row["note"] for row in read_rows(tmp_path, ["speed"])]
    assert found == ([run] if noted and not rehearse else [])


@pytest.mark.parametrize(
    ("executor", "noted"),
    [
        (SimpleNamespace(captured=None, why="nothing records"), True),
        (SimpleNamespace(captured=SimpleNamespace(failure="no memory"), why="no memory"), True),
        (SimpleNamespace(captured=SimpleNamespace(failure=None), why=""), False),
    ],
)
def test_passes_that_are_no_graphs_are_noted(tmp_path, executor, noted):
    results = Results("speed", tmp_path, rehearse=False)
    gpu_arms.note_fallbacks(results, "70m", executor)
    found = [(row["measure"], row["note"]) for row in read_rows(tmp_path, ["speed"])]
    assert found == ([("fell back", executor.why)] if noted else [])
    assert results.device == "cuda"


class Arm:
    """Gives these tokens in a second, at a level."""

    def __init__(self, ids, level="bitwise"):
        step = SimpleNamespace(total_ms=1.0, draft_ms=0, verify_ms=1.0, commit_ms=0.0, shape_ms=0.0)
        self.made = ids, 1.0, SimpleNamespace(
            steps=[step], tau=1.0, steps_run="pass by pass", peak_memory_bytes=0, numerics=level
        )  # fmt: skip

    def decode(self, prompt, tokens):
        return self.made


@pytest.mark.parametrize(
    ("arm", "failed"),
    [(Arm([1, 2, 3]), False), (Arm([1, 2, 4]), True), (Arm([1, 2, 4], "tie"), False)],
)
def test_other_tokens_at_level_bitwise_are_a_failure(tmp_path, arm, failed):
    results = Results("speed", tmp_path, rehearse=True)
    gpu_arms.measure_arms(results, {"AR": Arm([1, 2, 3]), "fixed": arm}, [[5]], 3, 100.0)
    found = [row["subject"] for row in read_rows(tmp_path, ["speed"]) if row["measure"] == "failed"]
    assert found == ["fixed"] * failed


class Fails(Arm):
    """The first time; later it takes half as long each time."""

    seconds = 4.0

    def decode(self, prompt, tokens):
        self.seconds /= 2
        if self.seconds == 2.0:
            raise RuntimeError("CUDA error")
        return self.made[0], self.seconds, self.made[2]


class Slower(Arm):
    """Twice as slow each time as before."""

    seconds = 1.0

    def decode(self, prompt, tokens):
        self.seconds *= 2
        return self.made[0], self.seconds, self.made[2]


def test_speeds_are_compared_prompt_by_prompt(tmp_path):
    """Those of the prompts that both arms decoded: here the second, in 1 and 4 seconds."""
    results = Results("speed", tmp_path, rehearse=False)
    arms = {"AR": Slower([1, 2, 3]), "fixed": Fails([1, 2, 3])}
    speeds, _ = gpu_arms.measure_arms(results, arms, [[5], [6]], 3, 100.0)
    assert {name: [*found] for name, found in speeds.items()} == {"AR": [0, 1], "fixed": [1]}
    rows = [row for row in read_rows(tmp_path, ["speed"]) if row["measure"] == AGAINST]
    found = {row["subject"]: row["value"] for row in rows}
    assert found == {"AR": 1.0, "fixed": pytest.approx(4.0)}


def test_what_was_measured_before_a_stage_is_cut_is_kept(tmp_path):
    class Cut(Arm):
        asked = 0

        def decode(self, prompt, tokens):
            self.asked += 1
            if self.asked == 2:
                raise KeyboardInterrupt
            return self.made

    results = Results("speed", tmp_path, rehearse=False)
    arms = {"AR": Arm([1, 2, 3]), "fixed": Cut([1, 2, 3]), "chain": Arm([1, 2, 3])}
    with pytest.raises(KeyboardInterrupt):
        gpu_arms.measure_arms(results, arms, [[5], [6]], 3, 100.0)
    rows = [row for row in read_rows(tmp_path, ["speed"]) if row["measure"] == AGAINST]
    assert {row["subject"] for row in rows} == {"AR", "fixed", "chain"}


def test_a_prompt_without_ars_tokens_is_left_out(tmp_path):
    results = Results("speed", tmp_path, rehearse=False)
    arms = {"AR": Fails([1, 2, 3]), "fixed": Arm([1, 2, 3])}
    speeds, _ = gpu_arms.measure_arms(results, arms, [[5], [6]], 3, 100.0)
    assert {name: [*found] for name, found in speeds.items()} == {"AR": [1], "fixed": [1]}
    rows = read_rows(tmp_path, ["speed"])
    assert [row["subject"] for row in rows if row["measure"] == "failed"] == ["AR"]


@pytest.mark.parametrize(
    ("level", "row"),
    [("bitwise", (COST, pytest.approx(25.0), "")), ("tie", ("fell back", None, "level tie"))],
)
def test_level_bitwise_costs_what_an_arm_at_that_level_says(tmp_path, level, row):
    """Two arms at level tie would say that it costs nothing."""
    results = Results("speed", tmp_path, rehearse=False)
    arms = {name: Arm([1, 2, 3], level if name == "AR" else "tie") for name in ("AR", "AR, tie")}
    arms["AR, tie"].made = [1, 2, 3], 0.8, arms["AR, tie"].made[2]
    gpu_arms.note_cost(results, "AR", *gpu_arms.measure_arms(results, arms, [[5]], 3, 100.0))
    measure, value, note = row
    last = read_rows(tmp_path, ["speed"])[-1]
    assert (last["subject"], last["measure"], last["value"]) == ("AR", measure, value)
    assert last["note"].startswith(note)


PARAMETERS = {"70m": 70.4e6, "410m": 405.3e6, "2.8b": 2775.2e6}  # of EleutherAI/pythia-…
WIDTHS = {"70m": 512, "410m": 1024, "2.8b": 2560}


@pytest.mark.parametrize("size", gpu_arms.PYTHIA)
def test_models_have_pythias_sizes(size):
    name, width, layers = gpu_arms.PYTHIA[size]
    config = Pool(aliases=dict(Registry.installed().aliases)).find(name).config
    with mock.patch.object(enlarge, "_Enlargement"), torch.device("meta"):
        small = AutoModelForCausalLM.from_config(config)
        large = enlarge.enlarge(small, width=width, layers=layers, vocabulary=gpu_arms.VOCABULARY)
    assert large.num_parameters() == pytest.approx(PARAMETERS[size], rel=0.05)
    assert large.config.hidden_size == WIDTHS[size]
