"""Costs are interpolated and extrapolated linearly."""

import pytest

from toolkit import Costs

COSTS = Costs(
    contexts=(10, 20),
    rows=(1, 2, 4),
    target=((1.0, 2.0, 3.0), (2.0, 4.0, 6.0)),
    widths=(1, 2),
    draft=((0.5, 0.5), (0.5, 0.4)),
)


@pytest.mark.parametrize(
    ("length", "passes"),
    [
        (10, [1, 2, 2.5, 3, 3.5]),  # the last line goes on
        (15, [1.5, 3, 3.75, 4.5, 5.25]),
        (20, [2, 4, 5, 6, 7]),
        (30, [3, 6, 7.5, 9, 10.5]),
        (1, [1, 2, 2.5, 3, 3.5]),  # a shorter text than measured costs no less
    ],
)
def test_passes(length, passes):
    assert COSTS.passes(length, 5).tolist() == pytest.approx(passes)


def test_a_falling_line_does_not_go_on():
    assert COSTS.levels(20, 4).tolist() == pytest.approx([0.5, 0.4, 0.4, 0.4])
    assert COSTS.levels(60, 2).tolist() == pytest.approx([0.5, 0.4])


@pytest.mark.parametrize("change", [
    {"target": ((0.0, 1.0), (1.0, 1.0))}, {"rows": (1,)}, {"draft": ((1.0,), (1.0, 1.0))},
    {"draft": ((-1.0, 1.0), (1.0, 1.0))}, {"widths": (1, 2, 3)},
])
def test_costs_that_cannot_be_are_refused(change):
    right = {"contexts": (1, 2), "rows": (1, 2), "target": ((1.0, 1.0),) * 2, "widths": (1, 2),
             "draft": ((0.0, 1.0),) * 2}
    assert Costs(**right).noise == 1.0
    with pytest.raises(ValueError, match="expected one time for each of at least two sizes"):
        Costs(**right | change)
