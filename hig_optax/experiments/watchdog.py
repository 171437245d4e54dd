"""Whether programs with several large decompositions at once end, each tried in a process of its own."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from hig_optax.experiments import machine
from hig_optax.experiments.programs import MEMBERS, PARAMETERS, PROGRAMS, ROWS, STEPS
from hig_optax.experiments.table import Table

HEAD = """# Programs that might wait for ever

    python -m hig_optax.experiments watchdog{options}

A program on a CPU may wait for ever where batches of matrices are decomposed at once: jaxlib hands the
matrices of a batch to the threads that programs run on, from one of these threads, and waits for them there.
With as many such batches at once as there are threads, one for each core, nobody is left to decompose
anything. `jax.vmap` makes batches of what `svd`, `gram` and `adaptive_hig` decompose; on a CPU hig_optax
takes them one after the other, and so waits for nothing. Left to jaxlib, two of these programs hang on two
cores: the ensemble of `svd` (a QR decomposition beside the Q of the one before) and that of `adaptive_hig`
(`eigh` beside `cholesky`). The last two programs are without hig_optax.

"""

NOTE = (
    f"Ensembles are {MEMBERS} members by `jax.vmap`, each of {ROWS} rows and {PARAMETERS} parameters, "
    f"{STEPS} steps. Seconds are those of a whole process, compilation included. "
)


class Watched(NamedTuple):
    """What became of the runs of a program."""

    name: str
    finished: int
    hung: int
    failed: int
    longest: float
    """Seconds of the longest that finished."""


def watch(name: str, command: Sequence[str], *, repeat: int, limit: float) -> tuple[Watched, str]:
    """Run a command some times, and end it where it takes too long.

    Args:
        name: What it is called.
        command: Words; it should end with status 0.
        repeat: How many times.
        limit: Seconds after which a run is said to hang.

    Returns:
        What became of it, and what the last run that failed wrote to its standard error.
    """
    finished, hung, failed, longest, told = 0, 0, 0, 0.0, ""
    for _ in range(repeat):
        start = time.perf_counter()
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=limit
            )
        except subprocess.TimeoutExpired:
            hung += 1
            continue
        if done.returncode:
            failed, told = failed + 1, done.stderr
        else:
            finished, longest = finished + 1, max(longest, time.perf_counter() - start)
    return Watched(name, finished, hung, failed, longest), told


def page(*, repeat: int, limit: float, report: Callable[[str], None] = print) -> Iterator[str]:
    """The page, piece by piece, for which every program runs.

    Args:
        repeat: How many times each.
        limit: Seconds after which a run is said to hang.
        report: Is told each program before it runs.

    Raises:
        RuntimeError: A program failed.
    """
    rows = []
    for name in PROGRAMS:
        report(name)
        command = [sys.executable, "-m", "hig_optax.experiments.programs", name]
        found, told = watch(name, command, repeat=repeat, limit=limit)
        if found.failed:
            raise RuntimeError(f"{name} failed:\n{told}")
        rows.append(found)
    options = f" --repeat {repeat} --limit {limit:g}"
    yield HEAD.format(options=options)
    yield table(rows, limit).markdown(level=2)


def table(rows: Sequence[Watched], limit: float) -> Table:
    """How many runs of each program finished, and the longest time."""
    told = tuple(
        (
            row.name,
            f"{row.finished} of {row.finished + row.hung + row.failed}",
            f"{row.longest:.1f}" if row.finished else "none",
            str(row.hung),
        )
        for row in rows
    )
    where = machine.describe(machine.environment())
    columns = ("program", "finished", "longest, s", f"not within {limit:g} s")
    return Table("Runs", columns, told, NOTE + where)
