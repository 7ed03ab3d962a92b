"""Speed over the budget of a KV policy."""

from __future__ import annotations

from matplotlib.figure import Figure

from toolkit.theme import Theme

from ..results import Results

ORDER = 9
TITLE = "Over the KV budget"
CAPTION = (
    "Tokens per second (geometric mean over prompts) of arms whose KV policy has a budget, and the "
    "bytes of KV that they held at the end. The dashed line is the same drafter and shaper under the "
    "full cache, where it was measured. A policy changes the output: each arm is exact to AR under "
    "the same policy."
)


def draw(results: Results, theme: Theme) -> Figure | None:
    """One line per policy, drafter and shaper; None unless some policy has two budgets."""
    setting = results.longest_settings[0]
    lines: dict[str, list[tuple[int, float, float]]] = {}
    full: dict[str, float] = {}
    for arm in results.list_ours():
        options, row = results.options(arm), results.summarize(arm, setting)
        rest = f"{options['drafter']['name']}, {options['shaper']['name']}"
        if options["drafter"]["name"] == "none":
            rest = "AR"
        held = [r["kv_bytes"] for r in results.rows(arm, setting) if r["kv_bytes"] is not None]
        if row.tokens_per_s is None or not held:
            continue
        kv = options["kv"]
        if isinstance(kv.get("budget"), (int, float)):
            point = (kv["budget"], row.tokens_per_s, sum(held) / len(held) / 2**20)
            lines.setdefault(f"{kv['name']} · {rest}", []).append(point)
        elif kv["name"] == "full":
            full.setdefault(rest, row.tokens_per_s)
    lines = {name: sorted(points) for name, points in lines.items() if len(points) > 1}
    if not lines:
        return None
    figure, (left, right) = theme.figure(3.9, columns=2)
    for index, (name, points) in enumerate(sorted(lines.items())):
        budgets, speeds, sizes = zip(*points, strict=True)
        colour = theme.colour(index)
        left.plot(budgets, speeds, marker="o", markersize=4, color=colour, label=name)
        right.plot(budgets, sizes, marker="o", markersize=4, color=colour)
        if name.partition(" · ")[2] in full:
            left.axhline(
                full[name.partition(" · ")[2]], color=colour, linewidth=1, linestyle=(0, (4, 3))
            )
    for axes, title in (
        (left, f"tokens/s, {setting.label}"),
        (right, "KV held, MiB"),
    ):
        theme.add_title(axes, title)
        axes.set_xlabel("budget, positions")
        axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
    theme.add_legend(figure, left, 2)
    return figure
