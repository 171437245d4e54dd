"""The figures of a comparison: one module each, which draws what `history` and `views` recorded."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from hig_optax.experiments.figures import (
    field,
    loss,
    oscillators,
    poisson,
    quantum_dipole,
    spectrum,
    toy,
)
from hig_optax.experiments.figures.style import save
from hig_optax.experiments.history import History, by_method

_OF_PROBLEMS: Mapping[str, tuple[str, Callable[[Sequence[History]], Figure]]] = {
    "toy": ("toy", toy.figure),
    "toy-balanced": ("toy", toy.figure),
    "linear-oscillators": ("trajectory", oscillators.figure),
    "nonlinear-oscillators": ("trajectory", oscillators.figure),
    "quantum-dipole": ("density", quantum_dipole.figure),
    "poisson": ("fields", poisson.figure),
}
"""A problem's own figure, and the name of its file."""


def draw(histories: Sequence[History]) -> dict[str, Figure]:
    """Every figure that the runs of one problem allow, by name."""
    figures = {"loss": loss.figure(histories)}
    for method, runs in by_method(histories).items():
        if any(point.singular_values for point in runs[0].points):
            figures[f"spectrum-{method}"] = spectrum.figure(runs[0])
    if "corners" in histories[0].views:
        figures["field"] = field.figure(histories)
    if own := _OF_PROBLEMS.get(histories[0].request["problem"]):
        name, figure = own
        figures[name] = figure(histories)
    return figures


def write(histories: Sequence[History], directory: Path) -> list[Path]:
    """Draw every figure that the runs allow; returns the paths of the PNG files."""
    return [save(figure, directory / f"{name}.png") for name, figure in draw(histories).items()]
