"""The solution of a differential equation beside what networks say, and how far off they are."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hig_optax import problems
from hig_optax.experiments.figures import style
from hig_optax.experiments.history import History

MOST_METHODS = 3
DECADES = 2  # of the best network's errors that are told apart


def figure(histories: Sequence[History]) -> Figure:
    """The solution, and for some methods the network's field and the size of its error."""
    shown = style.first_and_best(histories, MOST_METHODS)
    views = shown[0].views
    errors = [np.abs(run.views["error"][1]) for run in shown]
    name = histories[0].request["problem"]
    with style.styled():
        figure = Figure(figsize=(2.7 * (len(shown) + 1) + 1.4, 5.6), layout="constrained")
        axes = figure.subplots(2, len(shown) + 1)
        highest = float(np.abs(views["solution"]).max())
        scale = {"cmap": "RdBu_r", "vmin": -highest, "vmax": highest}
        image = _show(axes[0, 0], views, views["solution"], "solution", "black", scale)
        axes[1, 0].set_visible(False)
        # One scale for all, from below the largest error of the best to that of the worst, or 100 %.
        largest = np.log10([min(_largest(error), highest) for error in errors])
        decades = {"cmap": "viridis", "vmin": largest.min() - DECADES, "vmax": largest.max()}
        for (top, bottom), run, error in zip(axes[:, 1:].T, shown, errors, strict=True):
            colour = style.colour(run.method)
            _show(top, views, run.views["field"][1], run.method, colour, scale)
            with np.errstate(divide="ignore"):
                logs = _show(bottom, views, np.log10(error), _told(run), colour, decades)
        _name_axes(axes, name)
        figure.colorbar(image, ax=axes[0], label="field", pad=0.01)
        figure.colorbar(logs, ax=axes[1], label="log₁₀ of the absolute error", pad=0.01)
        figure.suptitle(f"{name}: the networks after training, and their errors", x=0.01, ha="left")
    return figure


def _show(axes: Axes, views: Any, values: np.ndarray, title: str, colour: str, scale: Any) -> Any:
    """An image of values (i, j), the first axis to the right."""
    (left, bottom), (right, top) = views["corners"]
    image = axes.imshow(
        values.T, origin="lower", extent=(left, right, bottom, top), aspect="auto", **scale
    )
    axes.grid(visible=False)
    axes.set_title(title, color=colour)
    return image


def _name_axes(axes: Any, name: str) -> None:
    problem = problems.get(name)
    assert isinstance(problem, problems.PhysicsInformed)
    for i, j in np.ndindex(axes.shape):
        first = j == 0 if i == 0 else j == 1
        axes[i, j].set(xlabel=problem.coordinates[0] if i == 1 or j == 0 else "")
        axes[i, j].set(ylabel=problem.coordinates[1] if first else "")


def _largest(error: np.ndarray) -> float:
    finite = error[np.isfinite(error)]
    return float(finite.max()) if finite.size and finite.max() > 0 else 1.0


def _told(run: History) -> str:
    return f"{run.measure} {run.last_measured:.1e}"
