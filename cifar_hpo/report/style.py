"""How the report's figures look: their colours, Matplotlib's parameters, and empty axes.

Ink is one colour, which a page replaces by its own.
"""

from __future__ import annotations

from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from cycler import cycler
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#010203"
"""Nearly black on a picture; a page puts its own text colour in its place."""

COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#e45756", "#b279a2", "#9d755d")
BLUE, ORANGE = COLOURS[:2]
STATE_COLOURS = {
    "FINISHED": COLOURS[0],
    "PRUNED": COLOURS[1],
    "FAILED": COLOURS[3],
    "KILLED": COLOURS[5],
}

RC_PARAMS: Any = {  # its type in newer Matplotlib names every parameter
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "cifar_hpo",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "axes.prop_cycle": cycler(color=COLOURS),
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.axisbelow": True,
}


def new_axes(width: float = 7, height: float = 3.6) -> tuple[Figure, Axes]:
    """A figure of one pair of axes; its size in inches."""
    figure, axes = plt.subplots(figsize=(width, height))
    style(axes)
    return figure, axes


def style(axes: Axes) -> None:
    """No background and a light grid."""
    axes.set_facecolor("none")
    axes.grid(visible=True, color=INK, alpha=0.12)


def as_text(name: str) -> str:
    """A name as Matplotlib shows it, which takes what is between two dollars for a formula."""
    return name.replace("$", r"\$")


def limit_to_share(axes: Axes, metric: str) -> None:
    """Keep the axis of an accuracy within 0 and 1; intervals of few replicas reach beyond."""
    if metric.endswith("accuracy"):
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, 0), min(high, 1))
