"""The picture at the top of the README: what networks have learned, and how losses fall at equal time."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from hig_optax.experiments.figures import loss, style
from hig_optax.experiments.history import History, by_method

TITLES = {"adam": "Adam", "gauss-newton": "Gauss-Newton", "hig": "HIG"}
NAMES = {
    "adaptive-hig": "adaptive_hig",
    "hig": "hig",
    "muon": "Muon, cosine",
    "adam-cosine": "Adam, cosine",
}


def figure(
    toy: Sequence[History], comparisons: Mapping[str, Sequence[History]], remark: str
) -> Figure:
    """Curves that networks of the toy have learned, beside losses against time.

    Args:
        toy: Runs of the toy; the first seed of each method is drawn.
        comparisons: Runs of other problems, by title.
        remark: What the curves are, for the title above them.
    """
    runs = {method: runs[0] for method, runs in by_method(toy).items()}
    with style.styled():
        figure = Figure(figsize=(12.6, 3.1), layout="constrained")
        left, right = figure.subfigures(1, 2, width_ratios=(1.15, 1.5), wspace=0.04)  # type: ignore[misc]
        left.suptitle(remark, x=0.01, ha="left", fontsize=10.5)
        for axes, (method, run) in zip(left.subplots(1, len(runs)), runs.items(), strict=True):
            axes.plot(*run.views["curve"].T, color="#CCCCCC", linewidth=5, zorder=1)
            # A network whose neurons are saturated answers with one point.
            axes.plot(*run.views["fit"][-1].T, color=style.colour(method), linewidth=1.8, zorder=2)
            axes.plot(
                *run.views["fit"][-1][0], color=style.colour(method), marker="o", markersize=4
            )
            axes.set(xlim=(-1.35, 1.35), ylim=(-1.35, 1.35), xticks=[], yticks=[], aspect="equal")
            axes.set_title(TITLES[method], color=style.colour(method))
            axes.set_xlabel(f"loss {run.last_measured:.0e}".replace("e-0", "e-"))
        panels = right.subplots(1, len(comparisons))
        for axes, (title, histories) in zip(panels, comparisons.items(), strict=True):
            ends = loss.draw(axes, histories, "seconds")
            style.name_ends(axes, [(y, NAMES[method], colour) for y, method, colour in ends])
            axes.set(xlabel="seconds of training, one core", title=title)
        panels[0].set_ylabel("test loss")
    return figure
