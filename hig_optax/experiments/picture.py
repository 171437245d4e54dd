"""The picture of the README, from runs of its own, and a small one of each problem."""

from pathlib import Path

from hig_optax import problems
from hig_optax.experiments import compare
from hig_optax.experiments.budget import Budget
from hig_optax.experiments.figures import pitch, thumbnails
from hig_optax.experiments.figures.style import save_small
from hig_optax.experiments.history import History
from hig_optax.experiments.machine import precision_of
from hig_optax.experiments.report import Report

PICTURE = Path("docs/pictures/pitch.png")
MAX_BYTES = 60_000
THUMBNAIL_BYTES = 16_000
TOY_METHODS = ("adam", "gauss-newton", "hig")
METHODS = ("adaptive-hig", "hig", "muon", "adam-cosine")
TITLES = {
    "nonlinear-oscillators": "Controlling nonlinear oscillators",
    "quantum-dipole": "Steering a quantum state",
}


def draw(
    seconds: float,
    to: Path = PICTURE,
    *,
    out: Path,
    seeds: tuple[int, ...] = (0, 1, 2),
    report: Report | None = None,
) -> Path:
    """Train what the picture shows, or find it done, and draw it.

    Args:
        seconds: Training time of each run on the two problems; those of the toy get a fifth.
        to: File of the picture.
        out: Folder of results.
        seeds: Seeds of the runs on the two problems; of the toy's, the first.
        report: Told of the progress.

    Returns:
        The file.
    """

    def runs(name: str, methods: tuple[str, ...], seconds: float) -> tuple[History, ...]:
        chosen = seeds[:1] if name == "toy" else seeds
        return compare.compare(
            problems.get(name), methods, chosen, Budget(seconds), out=out, report=report
        ).histories

    toy = runs("toy", TOY_METHODS, seconds / 5)
    others = {title: runs(name, METHODS, seconds) for name, title in TITLES.items()}
    remark = f"A badly scaled curve (grey), learned in {seconds / 5:g} s"
    return save_small(pitch.figure(toy, others, remark), to, MAX_BYTES)


def draw_gallery(folder: Path) -> list[Path]:
    """A small picture of each problem, for the gallery of the documentation."""
    written = []
    for name in problems.PROBLEMS:
        problem = problems.get(name)
        with precision_of(problem):
            figure = thumbnails.figure(problem)
        written.append(save_small(figure, folder / f"{name}.png", THUMBNAIL_BYTES))
    return written
