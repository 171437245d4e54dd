"""What all figures share: colours, type, and small things that are drawn in more than one."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from hig_optax.experiments.history import History, by_method

# Okabe and Ito's palette, which colour-blind readers can tell apart; one colour per method, always.
_COLOURS = {
    "adaptive-hig": "#CC79A7",
    "hig": "#D55E00",
    "gauss-newton": "#0072B2",
    "levenberg-marquardt": "#56B4E9",
    "adam": "#000000",
    "adam-cosine": "#9467BD",
    "muon": "#009E73",
    "sgd": "#332288",
    "sip": "#882255",
    "lbfgs": "#E69F00",
    "spring": "#8C564B",
    "ssbroyden": "#117733",
    "geodesic-lm": "#44AA99",
    "soap": "#AA4499",
}
_SPARE = ("#999933", "#AA4499", "#44AA99")

BEFORE = "#999999"  # whatever was there before training
TARGET = "#000000"
FADED = "#7F7F7F"  # notes and guides

_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "figure.titlesize": 12,
    "figure.titleweight": "bold",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}
DPI = 150.0


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the house style."""
    with mpl.rc_context(_STYLE):
        yield


def colour(method: str) -> str:
    """The colour of a method, the same in every figure."""
    return _COLOURS.get(method, _SPARE[sum(map(ord, method)) % len(_SPARE)])


def save(figure: Figure, path: Path, dpi: float = DPI) -> Path:
    """Write a figure as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.set_dpi(dpi)
    with styled():  # text is laid out at this point
        FigureCanvasAgg(figure).print_png(path)
    return path


def save_small(figure: Figure, path: Path, max_bytes: int) -> Path:
    """Write a figure as PNG with 256 colours, as sharp as `max_bytes` allow."""
    for dpi in (110.0, 95.0, 80.0, 65.0, 50.0):
        save(figure, path, dpi)
        with Image.open(path) as image:
            image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size <= max_bytes:
            break
    return path


def first_runs(histories: Sequence[History], most: int) -> list[History]:
    """The first run of each of the first `most` methods, as long as it stayed finite, if any did."""
    runs = [runs[0] for runs in by_method(histories).values()]
    return ([run for run in runs if np.isfinite(run.last_measured)] or runs)[:most]


def first_and_best(histories: Sequence[History], most: int) -> list[History]:
    """Of the first runs of all methods that of the first method and the lowest others, `most` in all."""
    first, *others = first_runs(histories, len(histories))
    best = sorted(others, key=lambda run: run.last_measured)[: most - 1]
    return [first, *(run for run in others if any(run is chosen for chosen in best))]


def lowest(histories: Sequence[History]) -> tuple[str, float] | None:
    """The method whose median test loss ends lowest, and that loss; None if there is no telling."""
    medians = {
        m: np.median([run.last_measured for run in runs])
        for m, runs in by_method(histories).items()
    }
    best = min(medians, key=lambda method: medians[method])
    if len(medians) == 1 or not np.isfinite(medians[best]):
        return None
    return best, float(medians[best])


def by_steps(history: History) -> bool:
    """Whether the run's budget counts steps rather than time."""
    return history.request["budget"].endswith("steps")


def name_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Name lines at the right edge, each beside its last value, moved apart where they crowd.

    Args:
        axes: With a logarithmic ordinate whose limits are final.
        ends: Last value, text and colour of each line.
    """
    low, high = np.log(axes.get_ylim())
    inches = axes.bbox.height / mpl.rcParams["figure.dpi"]
    line = 0.16 / inches  # height of a line of text, as a share of the axes
    labels = sorted(
        (float(np.clip((np.log(y) - low) / (high - low), 0, 1)), text, c) for y, text, c in ends
    )
    heights = [line * (1 + text.count("\n")) for _, text, _ in labels]
    middles = _apart([share for share, _, _ in labels], heights)
    for middle, (_, text, colour) in zip(middles, labels, strict=True):
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


def _apart(wanted: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Ascending places as near to those wanted as boxes of these heights allow."""
    clusters: list[list[int]] = []
    wanted = [min(place, 1 - height / 2) for place, height in zip(wanted, heights, strict=True)]
    centres: list[float] = []
    for i, place in enumerate(wanted):
        clusters.append([i])
        centres.append(place)
        # Boxes that overlap become one, centred where its members would be on average.
        while len(clusters) > 1:
            above, below = clusters[-1], clusters[-2]
            reach = (sum(heights[j] for j in above) + sum(heights[j] for j in below)) / 2
            if centres[-1] - centres[-2] >= reach:
                break
            merged = below + above
            clusters[-2:] = [merged]
            middle = sum(wanted[j] for j in merged) / len(merged)
            half = sum(heights[j] for j in merged) / 2
            centres[-2:] = [min(max(middle, half - 0.1), 1 - half)]
    places = []
    for cluster, centre in zip(clusters, centres, strict=True):
        bottom = centre - sum(heights[j] for j in cluster) / 2
        for j in cluster:
            places.append(bottom + heights[j] / 2)
            bottom += heights[j]
    return places
