"""The ways to take a step and what each costs, as a table."""

from typing import Any, Literal, NamedTuple

from hig_optax._planning.traffic import Collective
from hig_optax._shown import table

Solver = Literal["svd", "gram", "krylov"]


class Option(NamedTuple):
    """One way to take a step; see `plan`."""

    solver: Solver
    """As in `scale_by_hig`."""

    chunk_size: int | None
    """As in `scale_by_hig`."""

    flops: float
    """Floating-point operations of a step, a multiplication and an addition counted as two."""

    peak_bytes: int
    """Most bytes that a step holds at once besides params, gradient and batch."""

    collectives: tuple[Collective, ...] = ()
    """What the devices of a mesh tell each other in a step, in order: kind, size and number of times."""

    @property
    def received_bytes(self) -> int:
        """What a device receives in a step, by the collectives that move least."""
        return sum(collective.received_bytes for collective in self.collectives)


class Plan(NamedTuple):
    """What a step will cost; printed, a small table. See `plan`."""

    rows: int
    """m, rows of J: numbers that the residual returns for the whole batch, a complex one counted twice."""

    columns: int
    """n, columns of J: numbers that are optimized."""

    jacobian: Literal["reverse", "forward"]
    """How J is differentiated where it is formed."""

    memory_budget: int
    """Bytes."""

    options: tuple[Option, ...]
    """What was weighed, in the order of preference."""

    chosen: Option
    """The one that a step will take."""

    reason: str
    """Why that one."""

    devices: int = 1
    """How many share the samples; flops, bytes and `chunk_size` of the options are those of each."""

    @property
    def settings(self) -> dict[str, Any]:
        """What to give to an optimizer for the chosen option: ``hig(1.0, residual_fn, **plan.settings)``."""
        return {"solver": self.chosen.solver, "chunk_size": self.chosen.chunk_size}

    def __repr__(self) -> str:
        return (
            f"Plan({self.rows} x {self.columns}, {self.chosen.solver}, chunk_size={self.chosen.chunk_size}, "
            f"{self.chosen.flops:.2g} flops, {_in_bytes(self.chosen.peak_bytes)})"
        )

    def _repr_html_(self) -> str:
        head, *rows = self._cells()
        for row, option in zip(rows, self.options, strict=True):
            row[0] += " (chosen)" if option == self.chosen else ""
        names = [name.replace("_", " ") for name in head]
        return table(names, rows, f"{self._head()}. Chosen: {self.reason}.")

    def __str__(self) -> str:
        marks = [" ", *("*" if option == self.chosen else " " for option in self.options)]
        lines = [
            f"{mark} {solver:6}" + "".join(f"  {cell:>10}" for cell in cells)
            for mark, (solver, *cells) in zip(marks, self._cells(), strict=True)
        ]
        return "\n".join([self._head(), *lines, f"* {self.reason}"])

    def _head(self) -> str:
        return (
            f"{self.rows} rows x {self.columns} columns, {self.jacobian} mode, "
            f"budget {_in_bytes(self.memory_budget)}"
            f"{f' on each of {self.devices} devices' if self.devices > 1 else ''}"
        )

    def _cells(self) -> list[list[str]]:
        """A table with its head, a line for each option; what is received only where there is anyone else."""
        found = [["solver", "chunk_size", "flops", "peak", "received"]]
        for option in self.options:
            size = "all" if option.chunk_size is None else str(option.chunk_size)
            memory = [_in_bytes(x) for x in (option.peak_bytes, option.received_bytes)]
            found.append([option.solver, size, f"{option.flops:.2g}", *memory])
        return found if self.devices > 1 else [line[:-1] for line in found]


def _in_bytes(number: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1024
    return f"{number:.3g} GiB"
