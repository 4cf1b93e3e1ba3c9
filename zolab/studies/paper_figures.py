"""Figures of what the papers print."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from zolab.plots import BLUE, GREY, ORANGE, headline, look
from zolab.studies.family import FAMILY
from zolab.studies.papers import AVERAGES, printed


def margins(paper: str, number: str, method: str, measure: str = "train_loss") -> Figure:
    """How far a method is from the best of the others in each cell of a printed table, a panel for each model.

    Above stands in how many cells it is strictly the lowest.

    Args:
        paper, number: the paper's arXiv number, and its table's.
        method: its name there.
        measure: one of which the lowest is best.

    Raises:
        ValueError: the paper has no such table.
    """
    rows = printed(paper=paper, table=number, measure=measure)
    rows = rows[~rows.task.isin(AVERAGES)]
    label, lowest, cells = FAMILY[method].label if method in FAMILY else method, 0, 0
    models = list(dict.fromkeys(rows.model))
    with look():
        figure, axes = plt.subplots(1, len(models), figsize=(2.6 * len(models), 3.2), sharex=True, sharey=True, squeeze=False)
        for model, place in zip(models, axes[0], strict=True):
            wide = rows[rows.model == model].pivot(index="task", columns="method", values="value")
            gaps = (wide[method] - wide.drop(columns=method).min(axis=1)).sort_values()
            at = np.arange(len(gaps))
            place.barh(at, gaps, color=[BLUE if gap < 0 else GREY if gap == 0 else ORANGE for gap in gaps])
            place.set_yticks(at, ["" for _ in gaps])
            for y, (task, gap) in enumerate(gaps.items()):
                place.annotate(str(task), (0, y), (4 if gap <= 0 else -4, 0), textcoords="offset points", size=8)
                place.texts[-1].set(ha="left" if gap <= 0 else "right", va="center")
            place.axvline(0, color=GREY, linewidth=1)
            place.set(title=f"{model}: {int((gaps < 0).sum())} of {len(gaps)}")
            place.xaxis.set_major_locator(MaxNLocator(4))
            lowest, cells = lowest + int((gaps < 0).sum()), cells + len(gaps)
        figure.supxlabel(f"{measure.replace('train_', 'training ')} of {label} minus the best other method's (nats)", size=11)
        headline(figure, f"{label} is strictly lowest in {lowest} of {cells} printed cells")
        return figure
