"""The toy's three panels: loss, neurons, and the way of one output to its target."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from hig_optax.experiments.figures import loss, style
from hig_optax.experiments.history import History

MOST_METHODS = 4  # whose neurons are shown


def figure(histories: Sequence[History]) -> Figure:
    """Loss of all runs; neurons and way of the first seed, for the first few methods."""
    shown = style.first_runs(histories, MOST_METHODS)
    lam = histories[0].request["problem_settings"]["lam"]
    with style.styled():
        figure = Figure(figsize=(13.5, 4.8), layout="constrained")
        figure.suptitle(f"Toy problem, λ = {lam:g}", x=0.01, ha="left")
        left, middle, right = figure.subfigures(  # type: ignore[misc]
            1, 3, width_ratios=(1.15, 1.05, 1.0), wspace=0.03
        )
        losses = left.subplots()
        ends = loss.draw(losses, histories, "step")
        style.name_ends(losses, ends)
        losses.set(xlabel="optimizer steps", ylabel="test loss", title=loss.title(histories))
        columns = middle.subplots(len(shown), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for axes, run in zip(columns, shown, strict=True):
            _draw_neurons(axes, run)
        columns[0].set_title("Neurons: mean ± standard deviation over x")
        columns[-1].set_xlabel("optimizer steps")
        _draw_ways(right.subplots(), shown)
    return figure


def _draw_neurons(axes: Axes, run: History) -> None:
    colour = style.colour(run.method)
    steps = np.array([point.step for point in run.points], dtype=float)
    for mean, std in zip(run.views["neuron_mean"].T, run.views["neuron_std"].T, strict=True):
        axes.fill_between(steps, mean - std, mean + std, color=colour, alpha=0.10, linewidth=0)
        axes.plot(steps, mean, color=colour, linewidth=1.2)
    axes.set(ylim=(-1.25, 1.25), yticks=(-1, 0, 1), xlim=(1, max(steps[-1], 2)), xscale="log")
    axes.text(
        1.02,
        0.5,
        f"{run.method}\nmean std {run.views['neuron_std'][-1].mean():.2f}\nat the end",
        transform=axes.transAxes,
        color=colour,
        fontweight="bold",
        fontsize=9,
        va="center",
    )


def _draw_ways(axes: Axes, shown: Sequence[History]) -> None:
    views = shown[0].views
    axes.plot(*views["curve"].T, color="#CCCCCC", linewidth=4, zorder=1)
    for run in shown:
        colour, way = style.colour(run.method), run.views["path"]
        axes.plot(*way.T, color=colour, linewidth=1.4, marker="o", markersize=2.5, zorder=3)
        axes.plot(*way[-1], color=colour, marker="o", markersize=8, zorder=4)
    axes.plot(*views["path"][0], color="white", marker="o", markersize=8, mec="black", zorder=5)
    axes.plot(*views["target"], color="gold", marker="*", markersize=16, mec="black", zorder=5)
    for name, at, shift in (
        ("start", views["path"][0], (8, -12)),
        ("target", views["target"], (10, 6)),
    ):
        label = axes.annotate(name, tuple(at), xytext=shift, textcoords="offset points", fontsize=9)
        label.set_path_effects([withStroke(linewidth=3, foreground="white")])
        label.set_zorder(6)
    axes.set(
        xlim=(-1.6, 1.6),
        ylim=(-1.6, 1.6),
        xlabel="y₁",
        ylabel="y₂",
        title="One output on its way to its target",
        aspect="equal",
    )
