"""Regret of learning online."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from toolkit.theme import Theme

from ..study import Study

TITLE = "Regret of learning online"
CAPTION = (
    "Loss so far, less that of the best threshold vector of the grid in hindsight, on prompts drawn "
    "from those recorded. Dashed: the bound √(2 L T ln |Π|) on the expected regret of expweights. The "
    "controls learn nothing (uniform) or from biased estimates (unweighted). Where they stay below "
    "the bound, these prompts do not show that learning is at work."
)


def draw(study: Study, theme: Theme) -> Figure:
    """The learner and its controls on logarithmic axes."""
    figure, (axes,) = theme.figure(4.2)
    bound = study.regret[0].bound
    turns = np.unique(np.geomspace(16, len(bound), 60).astype(int))
    for number, found in enumerate(study.regret):
        after = np.maximum(found.after[:, turns - 1].mean(0), 0.5)
        axes.plot(turns, after, color=theme.colour(number), label=found.name)
    axes.plot(turns, bound[turns - 1], color=theme.soft, linestyle=(0, (4, 3)), label="bound")
    axes.set(xlabel="prompts", ylabel="regret, scaled losses", xscale="log", yscale="log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    theme.add_legend(figure, axes, 4)
    return figure
