"""Singular values of the Jacobian over a run, the cut among them, and the rank that is kept."""

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from hig_optax.experiments.figures import style
from hig_optax.experiments.history import History

MOST_LINES = 64  # of many singular values so many are drawn, evenly over the indices


def figure(history: History) -> Figure:
    """Spectrum above, rank below, of one run whose points have a spectrum."""
    points = [point for point in history.points if point.singular_values]
    by_steps = style.by_steps(history)
    x = np.array([point.step if by_steps else point.seconds for point in points], dtype=float)
    values = np.full((len(points), max(len(p.singular_values or ()) for p in points)), np.nan)
    for row, point in zip(values, points, strict=True):
        row[: len(point.singular_values or ())] = point.singular_values
    full = min(history.num_rows, history.num_params)
    with style.styled():
        figure = Figure(figsize=(7, 5.4), layout="constrained")
        spectrum, kept = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        _draw_values(spectrum, x, values)
        _draw_cut(spectrum, x, np.array([np.nan if p.cutoff is None else p.cutoff for p in points]))
        spectrum.set(
            yscale="log",
            ylabel="singular values of J",
            title=f"{history.request['problem']}, {history.method}, seed {history.seed}: "
            "what lies above the cut is kept",
        )
        colours = mpl.cm.ScalarMappable(mpl.colors.Normalize(1, values.shape[1]), "viridis")
        figure.colorbar(colours, ax=spectrum, label="index of the singular value", pad=0.01)
        _draw_rank(
            kept,
            x,
            np.array([point.rank for point in points], dtype=float),
            full,
            style.colour(history.method),
        )
        kept.set_xlabel(
            "optimizer steps" if by_steps else "training time in seconds, without compilation"
        )
        if len(x) > 1:
            kept.set_xlim(x[0], x[-1])
    return figure


def _draw_values(axes: Axes, x: np.ndarray, values: np.ndarray) -> None:
    last = max(values.shape[1] - 1, 1)
    for i in np.unique(np.linspace(0, values.shape[1] - 1, MOST_LINES).round().astype(int)):
        axes.plot(x, values[:, i], color=mpl.colormaps["viridis"](i / last), linewidth=0.8)


def _draw_cut(axes: Axes, x: np.ndarray, cutoff: np.ndarray) -> None:
    axes.plot(x, cutoff, color="black", linewidth=1.6)
    label = axes.annotate(
        "cut",
        (x[-1], cutoff[-1]),
        xytext=(-8, 5),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontweight="bold",
    )
    label.set_path_effects([withStroke(linewidth=3, foreground="white")])


def _draw_rank(axes: Axes, x: np.ndarray, rank: np.ndarray, full: int, colour: str) -> None:
    axes.plot(x, rank, color=colour, drawstyle="steps-post")
    axes.set(ylabel="rank kept", ylim=(0, 1.08 * full))
    axes.axhline(full, color=style.FADED, linewidth=1.0, linestyle="--", zorder=1)
    axes.annotate(
        f"full rank {full}",
        (1, full),
        xycoords=("axes fraction", "data"),
        xytext=(0, 2),
        textcoords="offset points",
        ha="right",
        va="bottom",
        color=style.FADED,
        fontsize=9,
        annotation_clip=False,
    )
