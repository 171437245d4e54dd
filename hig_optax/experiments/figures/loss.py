"""Test loss, or the relative error of a solution, against training time and against steps."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hig_optax.experiments.figures import style
from hig_optax.experiments.history import History, by_method

HEADROOM = 100.0  # a loss that grew by more is drawn beyond the edge


def figure(histories: Sequence[History]) -> Figure:
    """Median over seeds as a line, range as a band, for every method."""
    with style.styled():
        figure = Figure(figsize=(10.5, 4.2), layout="constrained")
        by_time, by_step = figure.subplots(1, 2, sharey=True)
        draw(by_step, histories, "step")
        # The axis is shared: label only when its limits are final.
        ends = draw(by_time, histories, "seconds")
        style.name_ends(by_time, ends)
        by_time.set(
            xlabel="training time in seconds, without compilation",
            ylabel=histories[0].measure,
            title=f"{histories[0].request['problem']}: {title(histories)}",
        )
        by_step.set(xlabel="optimizer steps", title="The same runs against steps")
    return figure


def title(histories: Sequence[History]) -> str:
    """What is seen: which method ends lowest."""
    if (lowest := style.lowest(histories)) is None:
        return histories[0].measure
    return f"{lowest[0]} ends lowest, at {lowest[1]:.1e}"


def draw(axes: Axes, histories: Sequence[History], abscissa: str) -> list[tuple[float, str, str]]:
    """Draw loss curves of all methods; returns where they end, for `style.name_ends`.

    Args:
        axes: Where to.
        histories: The runs.
        abscissa: ``"seconds"`` or ``"step"``; steps are drawn on a logarithmic scale.
    """
    ends = []
    for method, runs in by_method(histories).items():
        colour = style.colour(method)
        if (end := _draw_method(axes, runs, abscissa, colour)) is not None:
            ends.append((end, method + _divergence(runs), colour))
    # As far as the longest line goes; a line goes as far as all of its seeds do.
    limit = max(
        min(getattr(run.points[-1], abscissa) for run in runs)
        for runs in by_method(histories).values()
    )
    axes.set_yscale("log")
    if abscissa == "step":
        axes.set_xscale("log")
        axes.set_xlim(1, max(limit, 2))
    else:
        axes.set_xlim(0, limit)
    axes.set_ylim(*_range(histories))
    return ends


def _range(histories: Sequence[History]) -> tuple[float, float]:
    """From the lowest loss to the highest, or to `HEADROOM` times that at the start."""
    losses = np.array([point.measured for run in histories for point in run.points])
    most = HEADROOM * max(run.points[0].measured for run in histories)
    seen = losses[(losses > 0) & (losses <= most)]
    return (float(seen.min()) / 2, float(seen.max()) * 2) if seen.size else (1.0, 10.0)


def _draw_method(axes: Axes, runs: Sequence[History], abscissa: str, colour: str) -> float | None:
    """Draw the runs of one method; returns the last loss of its line, None where it has none."""
    curves = [_curve(run, abscissa) for run in runs]
    # One grid for all seeds, as far as all of them go: from one step on, where steps are counted.
    grid = np.unique(np.concatenate([x for x, _ in curves]))
    grid = grid[(grid >= (abscissa == "step")) & (grid <= min(x[-1] for x, _ in curves))]
    grid = grid[np.isfinite(grid)]
    logs = np.array([np.interp(grid, x, y) for x, y in curves])
    logs[np.isnan(logs)] = np.inf  # a run that blew up must not drop out of the median
    spread = np.array([logs.min(axis=0), np.median(logs, axis=0), logs.max(axis=0)])
    low, median, high = np.exp(np.where(np.isfinite(spread), spread, np.nan))
    axes.plot(grid, median, color=colour, zorder=3 if runs[0].method == "hig" else 2)
    if len(runs) > 1:
        axes.fill_between(grid, low, high, color=colour, alpha=0.18, linewidth=0)
    drawn = median[np.isfinite(median)]
    return float(drawn[-1]) if drawn.size else None


def _curve(run: History, abscissa: str) -> tuple[np.ndarray, np.ndarray]:
    """Abscissa and logarithm of what is measured; a run that diverged is infinite for ever after."""
    x = np.array([getattr(point, abscissa) for point in run.points], dtype=float)
    y = np.array([point.measured for point in run.points], dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        y = np.log(y)
    if run.stopped == "diverged":
        x, y = np.append(x, np.inf), np.append(y, np.inf)
    return x, y


def _divergence(runs: Sequence[History]) -> str:
    """What a label adds about runs that diverged."""
    failed = sum(run.stopped == "diverged" for run in runs)
    if not failed:
        return ""
    return "\ndiverged" + (f" ({failed} of {len(runs)})" if len(runs) > 1 else "")
