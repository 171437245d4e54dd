"""What a person sees while runs go on: a bar on a terminal, one line per run elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from hig_optax.experiments.budget import Budget
from hig_optax.experiments.history import History, Point
from hig_optax.experiments.train import Watch
from hig_optax.problems import Params


class Report:
    """Tells of the course of a comparison.

    Args:
        console: Where to; None says nothing.
        about: What the runs have in common, where that is not plain; put before each line.
    """

    def __init__(self, console: Console | None = None, about: str = "") -> None:
        self._console, self._about = console, about

    def of(self, about: str) -> "Report":
        """One that says what its runs are about."""
        return Report(self._console, about)

    @contextmanager
    def run(self, method: str, seed: int, budget: Budget) -> Iterator[Watch | None]:
        """A bar around one run, moved by what this yields."""
        if self._console is None or not self._console.is_terminal:
            yield None
            return
        columns = (
            TextColumn(self._name(method, seed), markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[text]}"),
        )
        # No refreshing thread: it would run beside the training, on what may be the only core.
        with Progress(
            *columns, console=self._console, auto_refresh=False, transient=True, expand=True
        ) as progress:
            task = progress.add_task(method, total=1.0, text="compiling")
            progress.refresh()

            def watch(point: Point, params: Params) -> None:
                del params
                spent = budget.share(point.step, point.seconds)
                progress.update(task, completed=spent, text=_course(point), refresh=True)

            yield watch

    def finished(self, history: History) -> None:
        """A run has ended and is stored."""
        remark = "" if history.stopped == "budget" else f", {history.stopped}"
        if history.resumed:
            remark += f", interrupted {history.resumed} time{'s' if history.resumed > 1 else ''}"
        self._line(history, remark)

    def found(self, history: History) -> None:
        """A run was done before."""
        self._line(history, ", done before")

    def _name(self, method: str, seed: int) -> str:
        return f"{f'{self._about}: ' if self._about else ''}{method}, seed {seed}"

    def _line(self, history: History, remark: str) -> None:
        if self._console is not None:
            self._console.print(
                f"{self._name(history.method, history.seed)}: {_course(history.points[-1])}{remark}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )


def _course(point: Point) -> str:
    rank = "" if point.rank is None else f", rank {point.rank}"
    loss = f"test loss {point.test_loss:.1e}"
    error = (
        "" if point.relative_error is None else f"relative L2 error {point.relative_error:.1e}, "
    )
    return f"{error}{loss}, step {point.step}, {point.seconds:.1f} s{rank}"
