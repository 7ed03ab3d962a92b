"""The look of the figures: a light theme and a dark one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import frozen
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH = 8.0  # inches
Line = Mapping[int, Sequence[float]]  # x → a value per panel


@frozen
class Theme:
    """The colours of a page, and how panels are drawn with them."""

    name: str
    page: str
    ink: str
    soft: str  # secondary text, reference lines
    grid: str
    colours: tuple[str, ...]
    heat: str  # a matplotlib colour map

    def figure(self, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
        """A figure of rows × columns panels; `height` in inches."""
        figure = Figure(figsize=(WIDTH, height), layout="constrained", facecolor=self.page)
        axes = [axes for row in figure.subplots(rows, columns, squeeze=False) for axes in row]
        for panel in axes:
            self.dress(panel)
        return figure, axes

    def draw_lines(
        self, panels: Sequence[str], x_label: str, lines: Mapping[str, Line],
        levels: Sequence[float] | None = None,
    ) -> Figure:  # fmt: skip
        """Panels by title, each with every line; `levels`: a dashed line for the full cache in each."""
        figure, axes_of = self.figure(4.4, columns=len(panels))
        ticks = sorted({x for line in lines.values() for x in line})
        for index, (axes, title) in enumerate(zip(axes_of, panels, strict=True)):
            for number, (label, line) in enumerate(lines.items()):
                points = sorted((x, values[index]) for x, values in line.items())
                axes.plot(
                    *zip(*points, strict=True), label=label, color=self.colour(number),
                    marker="osD^vP*X"[number % 8], markersize=4,
                    linestyle=("-", "--", ":")[number // 8 % 3],
                )  # fmt: skip
            if levels is None:
                axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
            else:
                axes.axhline(levels[index], color=self.soft, linestyle=(0, (4, 3)), label="full")
            self.add_title(axes, title)
            axes.set(xlabel=x_label, xscale="log")
            axes.set_xticks(ticks, [str(tick) for tick in ticks])
            axes.minorticks_off()
        self.add_legend(figure, axes_of[0], 3)
        return figure

    def dress(self, axes: Axes) -> None:
        axes.set_facecolor(self.page)
        axes.tick_params(colors=self.ink, labelsize=9, length=0)
        axes.grid(visible=True, color=self.grid, linewidth=0.6)
        axes.set_axisbelow(True)
        for name, spine in axes.spines.items():
            spine.set_visible(name == "bottom")
            spine.set_color(self.grid)
        axes.xaxis.label.set_color(self.ink)
        axes.yaxis.label.set_color(self.ink)

    def add_title(self, axes: Axes, text: str) -> None:
        """Put a title above a panel, on the left."""
        axes.set_title(text, loc="left", fontsize=10, color=self.ink)

    def colour(self, index: int) -> str:
        return self.colours[index % len(self.colours)]

    def add_note(self, figure: Figure, text: str) -> None:
        """Put a line above all panels that says what was measured, and on which machine."""
        figure.suptitle(text, x=0.01, ha="left", fontsize=8, color=self.soft)

    def add_legend(self, figure: Figure, axes: Axes, columns: int = 4) -> None:
        """Put one legend below all panels."""
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=min(columns, max(1, len(labels))),
            frameon=False,
            labelcolor=self.ink,
            fontsize=9,
        )

    def add_reference(self, axes: Axes, *, vertical: bool) -> None:
        """Draw the line at 1, which is AR."""
        line = axes.axvline if vertical else axes.axhline
        line(1.0, color=self.soft, linewidth=1.2, linestyle=(0, (4, 3)))


LIGHT = Theme(
    "light", "#ffffff", "#1f2328", "#6e7781", "#e3e7ec",
    ("#2f6fde", "#d9622b", "#23895f", "#8e5bd0", "#9a7a10", "#c8416a", "#3295ab", "#7d6b5d"),
    "YlGnBu",
)  # fmt: skip
DARK = Theme(
    "dark", "#14181d", "#e6e9ee", "#98a2ae", "#2b323b",
    ("#6ea3ff", "#ff9259", "#5fd0a2", "#bb92f5", "#e2c04f", "#f47fa2", "#69c9de", "#bda893"),
    "YlGnBu_r",
)  # fmt: skip
THEMES = (LIGHT, DARK)
