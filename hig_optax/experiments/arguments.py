"""The words of the command line, and what of them is refused before anything runs."""

import argparse
import ast
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import hig_optax
from hig_optax.experiments import contest, picture, trust

DEFAULT_METHODS = ("adaptive-hig", "hig", "adam", "gauss-newton")
QUICK_SECONDS = 1.0
SECONDS = 20.0

EXAMPLES = """examples:
  python -m hig_optax.experiments list
  python -m hig_optax.experiments compare linear-oscillators --seconds 20
  python -m hig_optax.experiments compare toy --methods adaptive-hig,adam --seeds 0,1,2 --steps 2000
  python -m hig_optax.experiments compare toy --set hig.learning_rate=0.5 --set problem.lam=1.0
  python -m hig_optax.experiments contest toy,quantum-dipole --times 10,30
  python -m hig_optax.experiments sweep toy adaptive-hig --vary momentum=0.0,0.9 --steps 500
  python -m hig_optax.experiments bench step --problem toy
"""

Command = Callable[[argparse.Namespace, Any], None]


def parser(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """The parser of all commands; the function of a command goes into its options as ``command``."""
    top = argparse.ArgumentParser(
        prog="python -m hig_optax.experiments",
        description="Train networks through physics, and compare what trains them.",
        epilog=EXAMPLES + "\nCOMMAND --help tells the options of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"hig_optax {hig_optax.__version__}")
    group = top.add_subparsers(required=True, metavar="COMMAND")
    shared = _shared()
    for name, (summary, add, has_runs) in _COMMANDS.items():
        parse = group.add_parser(
            name,
            parents=[shared] if has_runs else [],
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=_examples_of(name),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parse.set_defaults(command=commands[name])
        add(parse)
    return top


def check_folder(name: str, path: Path) -> None:
    """Refuse a folder for results that cannot be one.

    Raises:
        ValueError: It is a file, or lies below one.
    """
    for place in (path, *path.parents):
        if place.exists() and not place.is_dir():
            raise ValueError(f"{name} must be a folder, got {path}: {place} is a file.")


def _examples_of(name: str) -> str:
    lines = [line for line in EXAMPLES.splitlines() if f"experiments {name}" in line]
    return "\n".join(["examples:", *lines]) if lines else ""


def _shared() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--cores", type=_count, default=1, metavar="N", help="cores to use; 0: all (default: 1)"
    )
    shared.add_argument(
        "--x64",
        action="store_true",
        help="float64 also where a problem does not ask for a precision (default there: float32)",
    )
    shared.add_argument(
        "--out",
        type=Path,
        default=Path("results"),
        metavar="FOLDER",
        help="folder of results; runs found there are not repeated (default: results)",
    )
    return shared


def _compare(parse: argparse.ArgumentParser) -> None:
    parse.add_argument("problem", metavar="PROBLEM", help="a problem's name; see list")
    _add_methods(parse, DEFAULT_METHODS)
    _add_seeds(parse, (0,))
    budget = parse.add_mutually_exclusive_group()
    _add_seconds(budget, "each run", None)
    budget.add_argument("--steps", type=_steps, metavar="N", help="steps of each run, not a time")
    budget.add_argument("--quick", action="store_true", help=f"{QUICK_SECONDS:g} s, to see it work")
    _add_set(parse)
    _add_fresh(parse)


def _contest(parse: argparse.ArgumentParser) -> None:
    parse.add_argument("problems", type=_words, metavar="PROBLEM,...", help="problems; see list")
    _add_methods(parse, contest.CONTESTANTS)
    _add_seeds(parse, (0, 1, 2))
    _add_times(parse, (10.0, 30.0))
    _add_set(parse)
    _add_into(parse)
    _add_fresh(parse)


def _sweep(parse: argparse.ArgumentParser) -> None:
    parse.add_argument("problems", type=_words, metavar="PROBLEM,...", help="problems; see list")
    parse.add_argument("method", metavar="METHOD", help="a method's name; see list")
    parse.add_argument(
        "--vary",
        type=_values,
        action="append",
        required=True,
        metavar="NAME=V1,V2",
        help="a setting of the method and its values; may be repeated",
    )
    parse.add_argument(
        "--singly",
        action="store_true",
        help="nothing changed, then one value at a time (default: all combinations)",
    )
    _add_seeds(parse, (100,))
    length = parse.add_mutually_exclusive_group()
    _add_times(length, (10.0,))
    length.add_argument("--steps", type=_steps, metavar="N", help="steps of each run, not times")
    _add_set(parse)
    _add_into(parse)
    parse.add_argument(
        "--name",
        metavar="WORDS",
        help="name of that place (default: made of problems, method and settings)",
    )
    _add_fresh(parse)


def _results(parse: argparse.ArgumentParser) -> None:
    parse.add_argument(
        "--to", type=Path, metavar="FOLDER", help="folder of RESULTS.md (default: notebooks)"
    )
    length = parse.add_mutually_exclusive_group()
    _add_seconds(length, "most runs", SECONDS)
    length.add_argument("--quick", action="store_true", help="far too short, to see it work")
    _add_fresh(parse)


def _picture(parse: argparse.ArgumentParser) -> None:
    _add_seconds(parse, "most runs", SECONDS)
    parse.add_argument(
        "--to",
        type=Path,
        default=picture.PICTURE,
        metavar="FILE",
        help=f"the picture to write (default: {picture.PICTURE})",
    )


def _nothing(parse: argparse.ArgumentParser) -> None:
    del parse


def _doctor(parse: argparse.ArgumentParser) -> None:
    _add_page(parse, "docs/doctor.md")


def _trust(parse: argparse.ArgumentParser) -> None:
    parse.add_argument(
        "--number",
        type=_steps,
        default=trust.NUMBER,
        metavar="N",
        help=f"matrices for each solver and dtype, at least (default: {trust.NUMBER})",
    )
    _add_page(parse, "notebooks/TRUST.md")


def _watchdog(parse: argparse.ArgumentParser) -> None:
    parse.add_argument(
        "--repeat", type=_steps, default=3, metavar="N", help="runs of each program (default: 3)"
    )
    parse.add_argument(
        "--limit",
        type=_positive,
        default=60.0,
        metavar="S",
        help="seconds after which a run is said to hang, and ended (default: 60)",
    )
    _add_page(parse, "notebooks/WATCHDOG.md")


def _bench(parse: argparse.ArgumentParser) -> None:
    parse.add_argument(
        "what",
        choices=["step", "pinns", "scale", "functions"],
        help="step: one optimizer step, part by part; pinns: one on fixed points, beside what it cannot do "
        "without; scale: time and memory as rows and parameters grow; "
        "functions: ways to decompose a Gram matrix, or not to",
    )
    parse.add_argument(
        "--problem",
        type=_words,
        default=None,
        metavar="A,B",
        help="of step or pinns (default: all)",
    )
    parse.add_argument(
        "--solver", type=_words, default=None, metavar="A,B", help="of scale (default: all)"
    )
    parse.add_argument("--quick", action="store_true", help="far too little, to see it work")


_COMMANDS: Mapping[str, tuple[str, Callable[[argparse.ArgumentParser], None], bool]] = {
    "compare": ("train one problem by several methods", _compare, True),
    "contest": ("test losses of several methods at several times", _contest, True),
    "sweep": ("test losses of one method at several settings", _sweep, True),
    "results": ("every experiment, and the page that tells of them", _results, True),
    "picture": ("the picture of the README, and one of each problem", _picture, True),
    "list": ("problems, methods and their settings", _nothing, False),
    "doctor": ("runs broken on purpose, and what hig_optax.diagnose says of them", _doctor, False),
    "trust": (
        "directions of random matrices with known factors, against their bounds",
        _trust,
        False,
    ),
    "watchdog": ("whether programs with many decompositions at once end", _watchdog, False),
    "bench": ("what a step costs", _bench, True),
}


def _add_page(parse: argparse.ArgumentParser, default: str) -> None:
    parse.add_argument(
        "--to",
        type=Path,
        default=Path(default),
        metavar="PAGE",
        help=f"the page to write (default: {default})",
    )


def _add_methods(parse: argparse.ArgumentParser, default: tuple[str, ...]) -> None:
    parse.add_argument(
        "--methods",
        type=_words,
        default=default,
        metavar="A,B",
        help=f"methods; see list (default: {','.join(default)})",
    )


def _add_seeds(parse: argparse.ArgumentParser, default: tuple[int, ...]) -> None:
    parse.add_argument(
        "--seeds",
        type=_integers,
        default=default,
        metavar="0,1",
        help=f"seeds of data, network and batches (default: {','.join(map(str, default))})",
    )


def _add_seconds(parse: Any, of: str, default: float | None) -> None:
    parse.add_argument(
        "--seconds",
        type=_positive,
        default=default,
        metavar="S",
        help=f"training time of {of} (default: {SECONDS:g})",
    )


def _add_times(parse: Any, default: tuple[float, ...]) -> None:
    parse.add_argument(
        "--times",
        type=_numbers,
        default=default,
        metavar="10,30",
        help="seconds of training after which the loss is read (default: "
        f"{','.join(f'{t:g}' for t in default)})",
    )


def _add_into(parse: argparse.ArgumentParser) -> None:
    parse.add_argument(
        "--into", type=Path, metavar="PAGE", help="a page with a place for the table"
    )


def _add_fresh(parse: argparse.ArgumentParser) -> None:
    parse.add_argument("--fresh", action="store_true", help="repeat runs that are done already")


def _add_set(parse: argparse.ArgumentParser) -> None:
    parse.add_argument(
        "--set",
        type=_setting,
        action="append",
        default=[],
        metavar="METHOD.NAME=VALUE",
        help="a setting other than the recommended one; problem.NAME=VALUE for the problem's own",
    )


def _words(text: str) -> tuple[str, ...]:
    words = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not words:
        raise argparse.ArgumentTypeError(f"expected one name or several, as in A,B, got {text!r}")
    return words


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in _words(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected whole numbers, got {text!r}") from None


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(_positive(word) for word in _words(text))


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number of seconds, got {text!r}")
    return number


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, 0 or more, got {text!r}")
    return int(text)


def _steps(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
    return int(text)


def _setting(text: str) -> tuple[str, str, Any]:
    target, _, value = text.partition("=")
    method, _, name = target.partition(".")
    if not (method and name and value):
        raise argparse.ArgumentTypeError(f"expected METHOD.NAME=VALUE, got {text!r}")
    return method, name, _value(value)


def _values(text: str) -> tuple[str, list[Any]]:
    name, _, values = text.partition("=")
    if not (name and values.strip(", ")):
        raise argparse.ArgumentTypeError(f"expected NAME=V1,V2, got {text!r}")
    return name, [_value(word) for word in _words(values)]


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
