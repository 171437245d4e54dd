"""A solution of Poisson's equation beside what networks say."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hig_optax.experiments.figures import style
from hig_optax.experiments.history import History

MOST_METHODS = 3


def figure(histories: Sequence[History]) -> Figure:
    """One test sample: right-hand side and solution, then each network's field and its error."""
    shown = style.first_and_best(histories, MOST_METHODS)
    views = shown[0].views
    fields, errors = (
        [views[name][0], *(run.views[name][1] for run in shown)] for name in ("field", "error")
    )
    names = ["network\nbefore training", *(f"after training by\n{run.method}" for run in shown)]
    colours = [style.FADED, *(style.colour(run.method) for run in shown)]
    highest = float(np.abs(views["solution"]).max())
    with style.styled():
        figure = Figure(figsize=(2.25 * (len(fields) + 1) + 1.0, 5.2), layout="constrained")
        axes = figure.subplots(2, len(fields) + 1)
        image = _show(
            axes[0, 0], views["solution"], highest, "test sample:\nexact solution", "black"
        )
        _show(
            axes[1, 0],
            views["target"],
            np.abs(views["target"]).max(),
            "right-hand side\n(own scale)",
            "black",
        )
        for (top, bottom), field, error, name, colour in zip(
            axes[:, 1:].T, fields, errors, names, colours, strict=True
        ):
            _show(top, field, highest, name, colour)
            _show(bottom, error, highest, f"rms error {_rms(error):#.2g}", colour)
        figure.colorbar(image, ax=axes, label="field; error likewise", pad=0.01, aspect=35)
        figure.suptitle("Poisson: solution of one test sample, and its error", x=0.01, ha="left")
    return figure


def _show(axes: Axes, values: np.ndarray, highest: float, title: str, colour: str) -> Any:
    image = axes.imshow(values, cmap="RdBu_r", vmin=-highest, vmax=highest, interpolation="nearest")
    axes.grid(visible=False)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, color=colour)
    return image


def _rms(error: np.ndarray) -> float:
    return float(np.sqrt(np.mean(error**2)))
