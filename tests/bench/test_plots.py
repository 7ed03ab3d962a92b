"""Every figure: drawn from rows alone, in both themes, and left out when the rows do not hold it."""

import pytest
from matplotlib.figure import Figure
from toolkit.bench.plots import list_figures
from toolkit.bench.plots.depth import count
from toolkit.bench.plots.kv_budget import draw as kv_budget
from toolkit.bench.plots.speedup import draw as speedup
from toolkit.bench.plots.thresholds import _group_varied

from toolkit.theme import DARK, LIGHT, THEMES

ADAPTIVE = {
    "name": "adaptive", "depth": 5, "max_depth": 8, "high": 0.9, "low": 0.4, "b_min": 1, "b_mid": 2,
    "b_max": 3, "stop": 0.1, "deep": 0.5, "prune": 0.05, "breadth": True, "gating": True,
    "history": True,
}  # fmt: skip


@pytest.fixture
def rich(invented):
    """Results that hold what every figure shows."""
    options, speeds = {}, {"ar": 50.0}
    for depth in (3, 4):
        for branch in (2, 3):
            shaper = {"name": "fixed", "depth": depth, "branch": branch, "threshold": 0.1}
            options[f"fixed {depth} {branch}"] = {"shaper": shaper}
    options["adaptive"] = {"shaper": ADAPTIVE}
    options["adaptive, no history"] = {"shaper": ADAPTIVE | {"history": False}}
    options["adaptive, high"] = {"shaper": ADAPTIVE | {"high": 0.7}}
    for budget in (64, 128):
        options[f"window {budget}"] = {"kv": {"name": "window", "budget": budget}}
    for index, arm in enumerate(options):
        speeds[arm] = 60.0 + 5 * index
    settings = ((256, 32), (256, 64), (128, 64))
    return invented(speeds, settings=settings, options=options)


def test_every_figure_is_drawn_in_both_themes(rich):
    assert len(list_figures()) == 11
    for figure in list_figures():
        for theme in THEMES:
            drawn = figure.draw(rich, theme)
            assert isinstance(drawn, Figure), figure.__name__
            drawn.canvas.draw()  # a layout that does not fit warns, and warnings are errors


def test_figures_say_what_they_show():
    for figure in list_figures():
        assert figure.TITLE
        assert len(figure.CAPTION) > 60
    orders = [figure.ORDER for figure in list_figures()]
    assert orders == sorted(set(orders))


def test_what_is_not_there_is_not_drawn(invented):
    plain = invented({"ar": 50.0, "chain": 60.0})
    drawn = {f.__name__.rpartition(".")[2] for f in list_figures() if f.draw(plain, LIGHT) is not None}
    assert drawn == {"speedup", "prompts", "depth", "time_split"}


def bars(figure):
    return {
        label.get_text(): patch
        for label, patch in zip(
            figure.axes[0].get_yticklabels(), figure.axes[0].patches, strict=True
        )
    }


def test_a_bar_is_as_long_as_the_ratio_and_hollow_when_unsure(invented):
    results = invented({"ar": 50.0, "fast": 100.0, "same": 50.0}, noise=0.05)
    found = bars(speedup(results, LIGHT))
    for arm in ("fast", "same"):
        assert found[arm].get_width() == pytest.approx(results.ratio(arm, results.settings[0]).mean)
    assert found["fast"].get_facecolor()[3] == 1
    assert results.ratio("same", results.settings[0]).reading == "includes 1"
    assert found["same"].get_facecolor()[3] == 0


def test_dark_is_dark(rich):
    light, dark = speedup(rich, LIGHT), speedup(rich, DARK)
    assert sum(light.get_facecolor()[:3]) > 2.7
    assert sum(dark.get_facecolor()[:3]) < 0.5


def test_text_is_readable_on_its_page():
    """WCAG's contrast ratio, 4.5 for text and 3 for marks."""
    for theme in THEMES:
        assert contrast(theme.ink, theme.page) > 7
        assert contrast(theme.soft, theme.page) > 4.5
        assert all(contrast(colour, theme.page) > 2.9 for colour in theme.colours)


def contrast(one, other):
    bright, dim = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_acceptance_by_position_sums_the_drafts_of_a_prompt():
    rows = [
        {"prompt_index": 0, "reached_by_depth": [30, 25], "accepted_by_depth": [15, 5]},
        {"prompt_index": 1, "reached_by_depth": [10], "accepted_by_depth": [9]},
        {"prompt_index": 0, "reached_by_depth": [1], "accepted_by_depth": [1]},
        {"prompt_index": 2, "reached_by_depth": None, "accepted_by_depth": None},
    ]
    rows = [row | {"dataset": "d"} for row in rows]
    assert count(rows).tolist() == [[31, 16, 5], [10, 9, 0]]
    assert count(rows[3:]).size == 0


def test_arms_are_grouped_by_any_policys_budget(invented):
    options = {
        f"{name} {budget}": {"kv": {"name": name, "budget": budget}}
        for name in ("h2o", "streaming")
        for budget in (32, 64)
    }
    drawn = kv_budget(invented({"ar": 50.0} | dict.fromkeys(options, 60.0), options=options), LIGHT)
    labels = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert labels == ["h2o · model, chain", "streaming · model, chain"]


def test_sensitivity_compares_arms_that_differ_in_one_group(rich):
    arms = [arm for arm in rich.list_ours() if arm.startswith("adaptive")]
    assert [arm for _, arm in _group_varied(rich, arms, ("high", "low"))] == [
        "adaptive, high",
        "adaptive",
    ]
