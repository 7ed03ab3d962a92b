"""Speed and memory over the context length, of arms with different KV policies."""

from __future__ import annotations

from matplotlib.figure import Figure

from toolkit.theme import Line, Theme

from ..results import Results

ORDER = 10
TITLE = "Over the context length"
CAPTION = (
    "Tokens per second, their ratio to AR under the first arm's KV policy, and the most KV that the "
    "target and the drafter held, over the length of the prompts. A policy changes the output: each "
    "arm is exact to AR under the same policy."
)


def draw(results: Results, theme: Theme) -> Figure | None:
    """The first data set at its longest T; nothing unless lengths and KV policies differ."""
    policies = {str(results.options(arm)["kv"]) for arm in results.list_ours()}
    if len(results.settings_by_prompt) < 2 or len(policies) < 2:
        return None
    return draw_contexts(results, theme)


def draw_contexts(results: Results, theme: Theme) -> Figure:
    """The figure, however many lengths and policies there are."""
    lines: dict[str, Line] = {}
    baseline = next(iter(results.by_arm))
    for arm in results.list_ours():
        line = {}
        for setting in results.settings_by_prompt:
            speed = results.summarize(arm, setting).tokens_per_s
            ratio = results.ratio(arm, setting, baseline)
            held = [
                row["kv_peak_bytes"] + row["draft_kv_bytes"] for row in results.rows(arm, setting)
            ]
            if speed and ratio:
                line[setting.prompt_limit] = (speed, ratio.mean, max(held) / 2**20)
        if line:
            lines[results.label(arm, 40)] = line
    panels = ("tokens/s", f"× {results.label(baseline, 16)}", "KV held at most, MiB")
    return theme.draw_lines(panels, "tokens of the prompt", lines)
