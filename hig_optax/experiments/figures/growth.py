"""Time and memory of a step as rows and parameters grow, on logarithmic axes."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hig_optax.experiments.figures import style

Results = Sequence[Mapping[str, Any]]
_SIDES = {"rows": "rows m", "columns": "parameters n"}
_COLOURS = {"svd": "#0072B2", "gram": "#D55E00", "krylov": "#009E73", "adam": "#000000"}


def time(results: Results) -> Figure:
    """Seconds of a step."""
    return _figure(results, "seconds", "seconds a step", "Time of a step")


def memory(results: Results) -> Figure:
    """By how much a step makes the process grow, and what was predicted (dashed, hollow)."""
    figure = _figure(results, "grown", "MiB", "Memory of a step: measured, and planned (hollow)")
    for axes, side in zip(figure.axes, _SIDES, strict=True):
        for solver, points in _lines(results, side).items():
            if all(point["predicted"] is not None for point in points):
                _draw(axes, points, side, "predicted", solver, fillstyle="none", linestyle="--")
    return figure


def _figure(results: Results, key: str, label: str, title: str) -> Figure:
    with style.styled():
        figure = Figure(figsize=(10.5, 4.2), layout="constrained")
        figure.suptitle(title, x=0.01, ha="left")
        for axes, (side, name) in zip(
            figure.subplots(1, 2, sharey=True), _SIDES.items(), strict=True
        ):
            for solver, points in _lines(results, side).items():
                _draw(axes, points, side, key, solver, label=solver)
            axes.set(xscale="log", yscale="log", xlabel=name)
        figure.axes[0].set_ylabel(label)
        figure.axes[1].legend()
    return figure


def _lines(results: Results, side: str) -> dict[str, list[Mapping[str, Any]]]:
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        if side in result.get("grows", ()):
            lines.setdefault(result["solver"], []).append(result)
    return lines


def _draw(axes: Axes, points: Results, side: str, key: str, solver: str, **how: Any) -> None:
    x, y = ([point[name] for point in points] for name in (side, key))
    axes.plot(x, y, "o", **({"linestyle": "-"} | how), color=_COLOURS.get(solver))
