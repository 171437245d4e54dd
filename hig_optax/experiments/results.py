"""The page of results, written from the runs of a study."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

from hig_optax.experiments import criteria, figures, machine, store
from hig_optax.experiments.claims import CLAIMS, median_loss
from hig_optax.experiments.compare import Comparison
from hig_optax.experiments.figures.style import save_small
from hig_optax.experiments.history import by_method
from hig_optax.experiments.study import OURS
from hig_optax.experiments.table import Table

PICTURES = ("toy", "loss", "trajectory", "density", "fields", "spectrum-hig")
MAX_BYTES = 150_000  # of a picture

SOURCES = """\
* Book: Thuerey et al., Physics-based Deep Learning, the chapter and the notebook on half-inverse
  gradients.
* Paper: Schnell, Holl and Thuerey, Half-Inverse Gradients for Physical Deep Learning, ICLR 2022.
"""


def write(
    comparisons: Mapping[str, Comparison], to: Path, *, command: str, remark: str = ""
) -> list[Path]:
    """Write ``RESULTS.md``, and its pictures into a folder ``results`` beside it.

    Args:
        comparisons: The finished experiments by their names in the study.
        to: Folder to write to.
        command: What a reader types to write it again.
        remark: A sentence to stand above everything.

    Returns:
        Paths of all files.
    """
    pictures = {
        name: _draw(name, comparison, to / "results") for name, comparison in comparisons.items()
    }
    page = to / "RESULTS.md"
    parts = [
        _introduction(comparisons, command, remark),
        *(table.markdown(2) for table in summary(comparisons)),
        *(_section(name, comparisons[name], pictures[name]) for name in comparisons),
        f"## Sources\n\n{SOURCES}",
    ]
    store.write_text(page, "\n".join(parts))
    return [page, *(path for paths in pictures.values() for path in paths)]


def summary(comparisons: Mapping[str, Comparison]) -> list[Table]:
    """The tables that stand above the experiments."""
    return [
        claims_table(comparisons),
        ranking(comparisons),
        criteria.table(_runs(comparisons)),
    ]


def claims_table(comparisons: Mapping[str, Comparison]) -> Table:
    """What the sources claim, what was measured, whether it holds, and why."""
    runs, rows = _runs(comparisons), []
    for claim in CLAIMS:
        verdict = claim.check(runs[claim.experiment])
        holds = "holds" if verdict.holds else "**does not hold**"
        why = " ".join([verdict.why, *comparisons[claim.experiment].remarks()]).strip()
        rows.append((f"{claim.text} ({claim.source})", verdict.measured, holds, why))
    return Table(
        "What the sources claim, and what was measured",
        ("claim", "measured", "verdict", "why"),
        tuple(rows),
        "Medians over seeds of the test loss at the end of the budget, which is given with each problem "
        "below; at equal wall time where the budget is a time. Verdicts are computed from the runs.",
        prose=True,
    )


def ranking(comparisons: Mapping[str, Comparison]) -> Table:
    """Where half-inverse gradients come first, and where they do not."""
    rows = []
    for name, comparison in comparisons.items():
        losses = {m: median_loss(r) for m, r in by_method(comparison.histories).items()}
        order = sorted(losses, key=lambda method: losses[method])
        told = [
            f"**{method} {losses[method]:.1e}**"
            if method in OURS
            else f"{method} {losses[method]:.1e}"
            for method in order
        ]
        places = ", ".join(f"{m} {order.index(m) + 1}" for m in order if m in OURS)
        rows.append(
            (name, comparison.budget.in_words(), f"{places} of {len(order)}", " < ".join(told))
        )
    return Table(
        "Where half-inverse gradients come first, and where not",
        ("experiment", "budget of a run", "places", "median test losses"),
        tuple(rows),
        prose=True,
    )


def _runs(comparisons: Mapping[str, Comparison]) -> dict[str, dict]:
    return {name: by_method(comparison.histories) for name, comparison in comparisons.items()}


def _introduction(comparisons: Mapping[str, Comparison], command: str, remark: str) -> str:
    where = next(iter(comparisons.values())).histories[0].request["environment"]
    count = sum(len(comparison.histories) for comparison in comparisons.values())
    return (
        "# Results\n\n"
        + (f"**{remark}**\n\n" if remark else "")
        + f"This page is written by `{command}` from {count} training runs. Do not edit it: the next "
        "run overwrites this page. Every method runs with its recommended settings (`python -m "
        "hig_optax.experiments list`), on the same data from the same initial network.\n\n"
        f"{machine.describe(where)}\n"
    )


def _section(name: str, comparison: Comparison, pictures: list[Path]) -> str:
    title = f"{name}: {comparison.budget.in_words()} per run"
    table = dataclasses.replace(comparison.table(), title=title)
    shown = "\n\n".join(f"![{name}: {path.stem}](results/{path.name})" for path in pictures)
    return f"{table.markdown(2)}\n{shown}\n"


def _draw(name: str, comparison: Comparison, directory: Path) -> list[Path]:
    drawn = figures.draw(comparison.histories)
    wanted = [picture for picture in PICTURES if picture in drawn]
    if (
        "toy" in drawn
    ):  # its own figure has the loss against steps; against time only the loss is new
        wanted = ["toy"] if comparison.budget.steps else ["loss"]
    stem = re.sub(r"[^\w-]+", "-", name)
    return [
        save_small(drawn[picture], directory / f"{stem}-{picture}.png", MAX_BYTES)
        for picture in wanted
    ]
