"""The path of two controlled oscillators before and after training."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hig_optax.experiments.figures import style
from hig_optax.experiments.history import History

NAMES = ("position x₁", "position x₂", "velocity v₁", "velocity v₂")


def figure(histories: Sequence[History]) -> Figure:
    """State and control over time, for one test sample and the first method's first run."""
    (run,) = style.first_runs(histories, 1)
    colour, views = style.colour(run.method), run.views
    before, after = views["trajectory"]
    times = run.request["problem_settings"]["dt"] * np.arange(len(before))
    with style.styled():
        figure = Figure(figsize=(10.5, 6.0), layout="constrained")
        grid = figure.subplot_mosaic(
            [[0, 1], [2, 3], ["u", "u"]], sharex=True, height_ratios=(3, 3, 2)
        )
        for i, name in enumerate(NAMES):
            _draw_path(grid[i], times, before[:, i], after[:, i], views["target"][i], colour)
            grid[i].set_title(name)
        _draw_control(grid["u"], times, views["control"], colour)
        grid["u"].set(xlabel="time", title="control u, a force on the second oscillator")
        missed = views["miss"]
        figure.suptitle(
            f"{run.request['problem']}, one test sample: {_gain(run.method, missed)}\n",
            x=0.01,
            ha="left",
        )
        handles = [
            Line2D([], [], color=style.BEFORE, linestyle="--", label=_label("before", missed[0])),
            Line2D([], [], color=colour, label=_label("after", missed[1])),
            _star("target"),
        ]
        figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.0, 0.965), ncols=3)
    return figure


def _draw_path(
    axes: Axes, times: np.ndarray, before: np.ndarray, after: np.ndarray, target: float, colour: str
) -> None:
    axes.axhline(target, color=style.TARGET, linewidth=0.8, linestyle=":")
    axes.plot(times, before, color=style.BEFORE, linestyle="--")
    axes.plot(times, after, color=colour)
    axes.plot(times[-1], before[-1], color=style.BEFORE, marker="o", clip_on=False)
    star = _star("")
    star.set(xdata=[times[-1]], ydata=[target], clip_on=False, zorder=5)
    axes.add_line(star)
    axes.set_xlim(0, times[-1])


def _draw_control(axes: Axes, times: np.ndarray, control: np.ndarray, colour: str) -> None:
    for values, c, line in zip(control, (style.BEFORE, colour), ("--", "-"), strict=True):
        axes.stairs(values, times, color=c, linestyle=line, linewidth=1.8, baseline=None)
    axes.axhline(0, color=style.TARGET, linewidth=0.8)


def _gain(method: str, missed: np.ndarray) -> str:
    """What is seen."""
    if missed[1] < missed[0]:
        return (
            f"trained by {method}, it ends {missed[0] / missed[1]:.3g} times closer to its target"
        )
    return f"trained by {method}, it ends no closer to its target"


def _label(when: str, missed: float) -> str:
    return f"{when} training: misses by {missed:.2g}"


def _star(label: str) -> Line2D:
    return Line2D(
        [], [], color="gold", marker="*", markersize=14, mec="black", linestyle="", label=label
    )
