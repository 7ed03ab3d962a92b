"""The GPU bench notices a kernel that is wrong. On the CPU kernels are their plain forms."""

import gpu_checks
import gpu_kernels
import pytest
import torch
from gpu_checks import BOUNDS, DIFFERENCE, find_difference, list_checks, list_step_checks
from gpu_results import Results, read_rows
from torch.utils._pytree import tree_map

from toolkit.runtime.kernels.triton import (
    activations,
    attention,
    move_rows,
    norms,
    rotary,
    top_tokens,
    whole_step,
)

MODULES = activations, attention, move_rows, norms, rotary, top_tokens, whole_step
WHATS = [check.what for check in list_step_checks("cpu")]
WHATS += [check.what for check in list_checks("cpu", "fp32", all_heads=True)]


@pytest.fixture
def found(tmp_path):
    """The measures of all checks in float32, or of those whose names begin so."""

    def measure(begins=""):
        results = Results("kernels", tmp_path, rehearse=True)
        for check in [*list_step_checks("cpu"), *list_checks("cpu", "fp32", all_heads=True)]:
            if check.what.startswith(begins):
                gpu_checks.note_difference(results, check.what, check.difference(), "fp32")
        return {row["subject"]: row["measure"] for row in read_rows(tmp_path, ["kernels"])}

    return measure


def test_right_kernels_fail_nothing(found):
    assert found() == dict.fromkeys(WHATS, DIFFERENCE)


@pytest.mark.parametrize("dtype", BOUNDS)
def test_rounding_is_within_the_bounds(dtype):
    for check in list_checks("cpu", dtype, all_heads=False):
        assert check.difference() <= BOUNDS[dtype], check.what


def disturbed(plain):
    """Gives what the plain form does, but a little more of it, and writes nothing."""

    def run(*given):
        copies = tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, given)
        return tree_map(lambda x: x if x is None else x * 1.001, plain(*copies))

    return run


KERNELS = {  # and the checks that notice it
    "tree_attention": "attention",
    "rotate_and_store": "rotation",
    "add_and_norm": ("two add", "an add"),
    "top_tokens": "top 2",
    "activate": "activation",
    "move_rows": "rows moved",
    "move_path": "a path moved",
    "fill_inputs": "inputs",
    "take_children": "children",
    "judge": "judgement",
}


@pytest.mark.parametrize("name", KERNELS)
def test_a_wrong_kernel_fails(monkeypatch, found, name):
    [module] = [module for module in MODULES if hasattr(module, f"{name}_plain")]
    monkeypatch.setattr(module, name, disturbed(getattr(module, f"{name}_plain")))
    measures = found(KERNELS[name])
    assert measures
    assert set(measures.values()) == {"failed"}


def test_a_wrong_linear_fails(monkeypatch, found):
    right = gpu_checks.SkinnyLinear.__call__
    monkeypatch.setattr(
        gpu_checks.SkinnyLinear, "__call__", lambda *given: right(*given) * 1.001
    )
    assert found("linear") == {what: "failed" for what in WHATS if what.startswith("linear")}


@pytest.mark.parametrize("dropped", ["window", "visible"])
def test_attention_that_hides_too_little_fails(monkeypatch, found, dropped):
    """Where something is to be hidden, that is."""

    def attend(*given):
        window, visible = given[7:] or (None, None)
        if dropped == "window":
            return attention.tree_attention_plain(*given[:7], None, visible)
        return attention.tree_attention_plain(*given[:7], window, None)

    monkeypatch.setattr(attention, "tree_attention", attend)
    measures = found("attention")
    assert [what for what in measures if measures[what] == "failed"] == [
        "attention, window and hidden rows"
    ]


def test_keys_and_values_that_are_not_written_fail(monkeypatch, found):
    def rotate(*given):
        return rotary.rotate_and_store_plain(*given[:7], *(part.clone() for part in given[7:]))

    monkeypatch.setattr(rotary, "rotate_and_store", rotate)
    assert set(found("rotation").values()) == {"failed"}


def test_one_wrong_number_is_not_lost_among_many():
    plain = torch.ones(16, 32, 2560)
    ours = plain.clone()
    ours[7, 5, 100] = 2.0
    assert find_difference([ours], [plain]) > BOUNDS["bf16"]


def test_nan_fails(tmp_path):
    nan = find_difference([torch.tensor([1.0, float("nan")]), torch.ones(2)], [torch.ones(2)] * 2)
    results = Results("kernels", tmp_path, rehearse=True)
    gpu_checks.note_difference(results, "it", nan, "bf16")
    [row] = read_rows(tmp_path, ["kernels"])
    assert row["measure"] == "failed"
    assert row["note"] == "its plain form differs by nan, at most 0.01 is allowed"


@pytest.mark.parametrize(("keeps", "measure"), [(True, "failed"), (False, "bits")])
def test_a_linear_that_loses_bits_fails_if_it_should_keep_them(tmp_path, keeps, measure):
    results = Results("kernels", tmp_path, rehearse=False)
    gpu_kernels.note_bits(results, "it", lambda x: x + (len(x) == 17), torch.ones(64, 8), keeps=keeps)
    [row] = read_rows(tmp_path, ["kernels"])
    assert row["measure"] == measure
    assert row["note"] == "counts of rows with the bits of 64: [1, 2, 8, 9, 16, 32, 48]"


def test_a_linear_that_keeps_bits_does_not_fail(tmp_path):
    results = Results("kernels", tmp_path, rehearse=False)
    gpu_kernels.note_bits(results, "it", lambda x: x + 1, torch.ones(64, 8), keeps=True)
    assert [row["measure"] for row in read_rows(tmp_path, ["kernels"])] == ["bits"]
