"""The density of a particle in a box over space and time, before and after training."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hig_optax.experiments.figures import style
from hig_optax.experiments.history import History

MOST_METHODS = 3


def figure(histories: Sequence[History]) -> Figure:
    """Density over space and time before training and after it by the first few methods, and its end."""
    shown = style.first_and_best(histories, MOST_METHODS)
    settings = shown[0].request["problem_settings"]
    end = settings["num_steps"] * settings["dt"]
    overlaps = [shown[0].views["overlap"][0], *(run.views["overlap"][1] for run in shown)]
    names = ["before training", *(f"after {run.method}" for run in shown)]
    colours = [style.BEFORE, *(style.colour(run.method) for run in shown)]
    densities = [shown[0].views["density"][0], *(run.views["density"][1] for run in shown)]
    highest = max(float(np.max(density)) for density in densities)
    with style.styled():
        figure = Figure(figsize=(3.0 * len(densities) + 4.4, 3.9), layout="constrained")
        *maps, profile = figure.subplots(
            1, len(densities) + 1, sharey=True, width_ratios=(*[1.0] * len(densities), 0.9)
        )
        for axes, density, name, overlap, colour in zip(
            maps, densities, names, overlaps, colours, strict=True
        ):
            image = axes.imshow(
                density.T,
                origin="lower",
                extent=(0, end, *_span(settings)),
                aspect="auto",
                cmap="magma",
                vmin=0,
                vmax=highest,
                interpolation="nearest",
            )
            axes.grid(visible=False)
            axes.set(xlabel="time", ylim=(0, 2), facecolor="black")
            axes.set_title(f"{name}:\noverlap with target {overlap:.3f}", color=colour)
        maps[0].set_ylabel("place in the box")
        figure.colorbar(image, ax=maps, label="|ψ|²", pad=0.01)
        _draw_profile(profile, shown[0].views["target"], densities, colours)
        figure.suptitle(
            "Quantum dipole: |ψ|² over space and time, from the ground state to a mixture of the next two",
            x=0.01,
            ha="left",
        )
    return figure


def _span(settings: Mapping[str, Any]) -> tuple[float, float]:
    """The cells around the inner points, in a box of length 2."""
    dx = 2 / (settings["num_points"] + 1)
    return dx / 2, 2 - dx / 2


def _draw_profile(
    axes: Axes,
    target: np.ndarray,
    densities: Sequence[np.ndarray],
    colours: Sequence[str],
) -> None:
    x = np.linspace(0, 2, len(target) + 2)
    axes.fill_betweenx(x, _walled(target), color="gold", alpha=0.6, label="target", linewidth=0)
    for density, colour in zip(densities, colours, strict=True):
        axes.plot(_walled(density[-1]), x, color=colour)
    axes.set(xlabel="|ψ|² at the end", title="the end beside the target\n(yellow)", xlim=(0, None))


def _walled(density: np.ndarray) -> np.ndarray:
    """With the zeros at the walls."""
    return np.pad(density, 1)
