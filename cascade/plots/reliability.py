"""Are calibrated scores the share of good answers?"""

from __future__ import annotations

from matplotlib.figure import Figure

from toolkit.theme import Theme

from ..study import Study

TITLE = "Reliability of the scores"
CAPTION = (
    "Mean quality of the answers with about the same score, by stage, on prompts that the calibration "
    "has not seen. On the dashed line a score is the quality to expect. ECE: mean distance from it. A "
    "larger point stands for more prompts."
)


def draw(study: Study, theme: Theme) -> Figure:
    """A panel for each stage."""
    figure, panels = theme.figure(3.4, columns=study.held.stages)
    for stage, (axes, found) in enumerate(zip(panels, study.reliability, strict=True)):
        axes.plot([0, 1], [0, 1], color=theme.soft, linestyle=(0, (4, 3)), linewidth=1)
        sizes = 12 + 100 * found.counts / found.counts.sum()
        axes.scatter(found.predicted, found.observed, s=sizes, color=theme.colour(stage))
        auc = "" if found.auc is None else f", AUC {found.auc:.2f}"
        theme.add_title(axes, f"stage {stage}: ECE {found.ece:.3f}{auc}")
        axes.set(xlabel="score", xlim=(0, 1), ylim=(0, 1.02))
    panels[0].set_ylabel("mean quality")
    return figure
