"""The figures of a comparison."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from hig_optax.experiments.history import History

# Okabe and Ito's palette, which colour-blind readers can tell apart; one colour per method, always.
COLOURS = {
    "hig": "#D55E00",
    "gauss-newton": "#0072B2",
    "levenberg-marquardt": "#56B4E9",
    "adam": "#000000",
    "adam-cosine": "#7F7F7F",
    "muon": "#009E73",
    "sgd": "#CC79A7",
}
_SPARE = ("#E69F00", "#882255", "#332288", "#999933")

STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "figure.dpi": 150,
    "savefig.dpi": 150,
}


def write(histories: Sequence[History], directory: Path) -> list[Path]:
    """Draw every figure that the runs allow; returns the paths of the PNG files."""
    figures = {"loss.png": loss_figure(histories)}
    seen: set[str] = set()
    for history in histories:
        if history.method not in seen and any(p.singular_values for p in history.points):
            seen.add(history.method)
            figures[f"spectrum-{history.method}.png"] = spectrum_figure(history)
    return [save(figure, directory / name) for name, figure in figures.items()]


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(path)
    return path


def loss_figure(histories: Sequence[History]) -> Figure:
    """Test loss against training time and against steps: median over seeds, range as a band."""
    groups: dict[str, list[History]] = {}
    for history in histories:
        groups.setdefault(history.method, []).append(history)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 4.2), layout="constrained")
        by_time, by_step = figure.subplots(1, 2, sharey=True)
        ends = []
        for i, (method, runs) in enumerate(groups.items()):
            colour = COLOURS.get(method, _SPARE[i % len(_SPARE)])
            _draw_loss(by_step, runs, "step", colour)
            if (end := _draw_loss(by_time, runs, "seconds", colour)) is not None:
                ends.append((end, method + _divergence(runs), colour))
        by_time.set(
            yscale="log",
            xlabel="training time in seconds, without compilation",
            ylabel="test loss",
            title=f"{histories[0].request['problem']}: loss against wall time",
        )
        by_step.set(xscale="log", xlabel="optimizer steps", title="The same runs against steps")
        by_time.set_xlim(0, max(run.seconds for run in histories))
        by_step.set_xlim(1, max(run.steps for run in histories))
        _label_ends(by_time, ends)
    return figure


def _draw_loss(axes: Axes, runs: Sequence[History], abscissa: str, colour: str) -> float | None:
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
    axes.plot(grid, median, color=colour)
    if len(runs) > 1:
        axes.fill_between(grid, low, high, color=colour, alpha=0.18, linewidth=0)
    drawn = median[np.isfinite(median)]
    return float(drawn[-1]) if drawn.size else None


def _curve(run: History, abscissa: str) -> tuple[np.ndarray, np.ndarray]:
    """Abscissa and logarithm of the test loss; a run that diverged is infinite for ever after."""
    x = np.array([getattr(point, abscissa) for point in run.points], dtype=float)
    y = np.array([point.test_loss for point in run.points], dtype=float)
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


def _label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Name every line at the right edge, beside its last value, moved apart where they crowd."""
    low, high = np.log(axes.get_ylim())
    line = 0.055  # height of a line of text, as a share of the axes
    labels = sorted(((np.log(y) - low) / (high - low), text, colour) for y, text, colour in ends)
    floor = 0.0
    for share, text, colour in labels:
        height = line * (1 + text.count("\n"))
        middle = max(share, floor + height / 2)
        floor = middle + height / 2
        axes.annotate(
            text,
            (1, middle),
            xycoords="axes fraction",
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontweight="bold",
            fontsize=9,
            linespacing=1.0,
        )


def spectrum_figure(history: History) -> Figure:
    """Singular values of the mini-batch Jacobian over a run, the cut among them, and the rank kept."""
    points = [point for point in history.points if point.singular_values]
    seconds = np.array([point.seconds for point in points])
    values = np.full((len(points), max(len(p.singular_values or ()) for p in points)), np.nan)
    for row, point in zip(values, points, strict=True):
        row[: len(point.singular_values or ())] = point.singular_values
    cutoff = np.array([np.nan if p.cutoff is None else p.cutoff for p in points])
    rank = [point.rank for point in points]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7, 5.4), layout="constrained")
        spectrum, kept = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        last = max(values.shape[1] - 1, 1)
        for i, column in enumerate(values.T):
            spectrum.plot(seconds, column, color=mpl.colormaps["viridis"](i / last), linewidth=0.7)
        spectrum.plot(seconds, cutoff, color="#D55E00", linewidth=1.6)
        label = spectrum.annotate(
            "cut",
            (seconds[-1], cutoff[-1]),
            xytext=(-8, -5),
            textcoords="offset points",
            ha="right",
            va="top",
            color="#D55E00",
            fontweight="bold",
        )
        label.set_path_effects([withStroke(linewidth=3, foreground="white")])
        spectrum.set(
            yscale="log",
            ylabel="singular values of J",
            title=f"{history.request['problem']}, {history.method}, seed {history.seed}: "
            "what is kept lies above the cut",
        )
        colours = mpl.cm.ScalarMappable(mpl.colors.Normalize(1, last + 1), "viridis")
        figure.colorbar(colours, ax=spectrum, label="index", pad=0.01)
        kept.plot(seconds, rank, color="#D55E00", drawstyle="steps-post")
        rows = min(history.num_rows, history.num_params)
        kept.set(
            ylabel="rank kept",
            xlabel="training time in seconds, without compilation",
            xlim=(seconds[0], seconds[-1]),
            ylim=(0, 1.08 * rows),
        )
        kept.axhline(rows, color="#7F7F7F", linewidth=1.0, linestyle="--")
        kept.annotate(
            f"full rank {rows}",
            (1, rows),
            xycoords=("axes fraction", "data"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="right",
            va="bottom",
            color="#7F7F7F",
            fontsize=9,
            annotation_clip=False,
        )
    return figure
