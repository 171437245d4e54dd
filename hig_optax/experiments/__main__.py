"""The command line: ``python -m hig_optax.experiments COMMAND``."""

import argparse
import ast
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
from rich.console import Console

from hig_optax import problems
from hig_optax.experiments import (
    bench,
    compare,
    contest,
    functions,
    growth,
    machine,
    methods,
    page,
    picture,
    results,
    study,
    sweep,
)
from hig_optax.experiments.adjustments import ADJUSTMENTS
from hig_optax.experiments.budget import Budget
from hig_optax.experiments.report import Report
from hig_optax.experiments.train import problem_settings

DEFAULT_METHODS = ("adaptive-hig", "hig", "adam", "gauss-newton")
QUICK_SECONDS = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    console = Console()
    try:
        options.command(options, console)
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    except KeyboardInterrupt:
        console.print(
            "\nInterrupted. Finished runs are kept, and the one in progress as it was a few seconds ago; the "
            "same command goes on from there."
        )
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hig_optax.experiments",
        description="Train networks through physics, and compare what trains them.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--cores", type=int, default=1, help="cores to use; 0: all (default: 1)")
    shared.add_argument(
        "--x64",
        action="store_true",
        help="float64 also where a problem does not ask for a precision (default there: float32)",
    )
    shared.add_argument("--out", type=Path, default=Path("results"), help="folder of results")

    parse = commands.add_parser(
        "compare", parents=[shared], help="train one problem by several methods"
    )
    parse.set_defaults(command=_compare)
    parse.add_argument("problem", metavar="PROBLEM", help="a problem's name; see list")
    parse.add_argument("--methods", type=_words, default=DEFAULT_METHODS, metavar="A,B")
    parse.add_argument("--seeds", type=_integers, default=(0,), metavar="0,1")
    budget = parse.add_mutually_exclusive_group()
    budget.add_argument("--seconds", type=float, help="training time of each run (default: 20)")
    budget.add_argument("--steps", type=int, help="steps of each run, in place of a time")
    budget.add_argument("--quick", action="store_true", help=f"{QUICK_SECONDS:g} s, to see it work")
    _add_set(parse)
    parse.add_argument("--fresh", action="store_true", help="repeat runs that are done already")

    parse = commands.add_parser(
        "contest", parents=[shared], help="test losses of several methods at several times"
    )
    parse.set_defaults(command=_contest)
    parse.add_argument("problems", type=_words, metavar="PROBLEM,...", help="problems; see list")
    parse.add_argument("--methods", type=_words, default=contest.CONTESTANTS, metavar="A,B")
    parse.add_argument("--seeds", type=_integers, default=(0, 1, 2), metavar="0,1")
    parse.add_argument("--times", type=_numbers, default=(10.0, 30.0), metavar="10,30", help="s")
    _add_set(parse)
    parse.add_argument("--into", type=Path, metavar="PAGE", help="page with a place for the tables")
    parse.add_argument("--fresh", action="store_true", help="repeat runs that are done already")

    parse = commands.add_parser(
        "sweep", parents=[shared], help="test losses of one method at several settings"
    )
    parse.set_defaults(command=_sweep)
    parse.add_argument("problems", type=_words, metavar="PROBLEM,...", help="problems; see list")
    parse.add_argument("method", metavar="METHOD", help="a method's name; see list")
    parse.add_argument(
        "--vary",
        type=_values,
        action="append",
        required=True,
        metavar="NAME=V1,V2",
        help="a setting",
    )
    parse.add_argument(
        "--singly",
        action="store_true",
        help="nothing changed, then one value at a time (default: all combinations)",
    )
    parse.add_argument("--seeds", type=_integers, default=(100,), metavar="0,1")
    length = parse.add_mutually_exclusive_group()
    length.add_argument("--times", type=_numbers, default=(10.0,), metavar="2,10", help="s")
    length.add_argument("--steps", type=int, help="steps of each run, in place of times")
    _add_set(parse)
    parse.add_argument("--into", type=Path, metavar="PAGE", help="page with a place for the table")
    parse.add_argument("--name", help="of that place (default: of problems, method and settings)")
    parse.add_argument("--fresh", action="store_true", help="repeat runs that are done already")

    parse = commands.add_parser(
        "results", parents=[shared], help="every experiment, and the page that tells of them"
    )
    parse.set_defaults(command=_results)
    parse.add_argument("--to", type=Path, help="folder of RESULTS.md (default: notebooks)")
    length = parse.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=float, default=20.0, help="of most runs (default: 20)")
    length.add_argument("--quick", action="store_true", help="far too short, to see it work")
    parse.add_argument("--fresh", action="store_true", help="repeat runs that are done already")

    parse = commands.add_parser("picture", parents=[shared], help="the picture of the README")
    parse.set_defaults(command=_picture)
    parse.add_argument("--seconds", type=float, default=20.0, help="of most runs (default: 20)")
    parse.add_argument(
        "--to",
        type=Path,
        default=picture.PICTURE,
        metavar="FILE",
        help=f"(default: {picture.PICTURE})",
    )

    parse = commands.add_parser("list", help="problems, methods and their settings")
    parse.set_defaults(command=_list)

    parse = commands.add_parser("bench", parents=[shared], help="what a step costs")
    parse.set_defaults(command=_bench)
    parse.add_argument(
        "what",
        choices=["step", "scale", "functions"],
        help="step: one optimizer step, part by part; scale: time and memory as rows and parameters grow; "
        "functions: ways to decompose a Gram matrix, or not to",
    )
    parse.add_argument(
        "--problem", type=_words, default=None, metavar="A,B", help="of step (default: all)"
    )
    parse.add_argument(
        "--solver", type=_words, default=None, metavar="A,B", help="of scale (default: all)"
    )
    parse.add_argument("--quick", action="store_true", help="far too little, to see it work")
    return parser


def _add_set(parse: argparse.ArgumentParser) -> None:
    parse.add_argument(
        "--set",
        type=_setting,
        action="append",
        default=[],
        metavar="METHOD.NAME=VALUE",
        help="a setting other than the recommended one; problem.NAME=VALUE for the problem's own",
    )


def _problem_and_overrides(
    name: str, options: argparse.Namespace
) -> tuple[problems.Problem, dict[str, dict[str, Any]]]:
    overrides: dict[str, dict[str, Any]] = {}
    for method, setting, value in options.set:
        overrides.setdefault(method, {})[setting] = value
    return _with(problems.get(name), overrides.pop("problem", {})), overrides


def _compare(options: argparse.Namespace, console: Console) -> None:
    _configure(options)
    problem, overrides = _problem_and_overrides(options.problem, options)
    seconds = QUICK_SECONDS if options.quick else options.seconds
    if seconds is None and options.steps is None:
        seconds = 20.0
    comparison = compare.compare(
        problem,
        options.methods,
        options.seeds,
        Budget(seconds, options.steps),
        out=options.out,
        overrides=overrides,
        fresh=options.fresh,
        report=Report(console),
    )
    written = comparison.write()
    if comparison.reused:
        console.print(
            f"{comparison.reused} of {len(comparison.histories)} runs were done before with the same "
            "settings and are shown as they were; --fresh trains them again.",
            style="bold",
            soft_wrap=True,
        )
    comparison.table().show(console)
    for path in written:
        console.print(str(path), highlight=False, soft_wrap=True)


def _contest(options: argparse.Namespace, console: Console) -> None:
    _configure(options)
    times, tables = sorted(options.times), []
    for name in options.problems:
        problem, overrides = _problem_and_overrides(name, options)
        entries = contest.hold(
            problem,
            options.methods,
            options.seeds,
            times,
            out=options.out,
            overrides=overrides,
            fresh=options.fresh,
            report=Report(console),
        )
        tables.append(contest.table(problem, entries, times))
        tables[-1].show(console)
    if options.into:
        names = [f"contest: {table.title}" for table in tables]
        page.write_into(options.into, dict(zip(names, tables, strict=True)))
        console.print(str(options.into), highlight=False, soft_wrap=True)


def _sweep(options: argparse.Namespace, console: Console) -> None:
    _configure(options)
    chosen, base = [], {}
    for name in options.problems:
        problem, overrides = _problem_and_overrides(name, options)
        base = overrides.pop(options.method, {})
        if overrides:
            raise ValueError(
                f"Settings are given for {', '.join(overrides)}, which is not swept here."
            )
        chosen.append(problem)
    values = dict(options.vary)
    variants = (sweep.one_at_a_time if options.singly else sweep.grid)(values)
    times = [] if options.steps else sorted(options.times)
    if len(times) > 1 and any(contest.decays(options.method, problem) for problem in chosen):
        raise ValueError(
            f"--times must be one number for {options.method}, whose steps decay to the end of a run; "
            f"got {len(times)}. Sweep once for each."
        )
    found = sweep.carry_out_all(
        chosen,
        options.method,
        variants,
        options.seeds,
        Budget(times[-1]) if times else Budget(steps=options.steps),
        base=base,
        out=options.out,
        fresh=options.fresh,
        report=Report(console),
    )
    table = sweep.table(options.method, found, times, base)
    table.show(console)
    if options.into:
        name = options.name or " ".join([",".join(options.problems), options.method, *values])
        page.write_into(options.into, {f"sweep: {name}": table})
        console.print(str(options.into), highlight=False, soft_wrap=True)


def _results(options: argparse.Namespace, console: Console) -> None:
    _configure(options)
    chosen = study.quick() if options.quick else study.full(options.seconds)
    plans = {name: experiment.plan(options.out) for name, experiment in chosen.items()}
    runs = [run for plan in plans.values() for run in plan.runs]
    missing = runs if options.fresh else [run for plan in plans.values() for run in plan.missing()]
    minutes = study.predicted_seconds(plans.values(), fresh=options.fresh) / 60
    console.print(
        f"{len(runs)} runs, {len(runs) - len(missing)} of them done before: about {minutes:.0f} minutes.",
        style="bold",
    )
    done = {}
    for name, plan in plans.items():
        done[name] = compare.carry_out(plan, fresh=options.fresh, report=Report(console))
        done[name].table().show(console)
    how = " --quick" if options.quick else f" --seconds {options.seconds:g}"
    written = results.write(
        done,
        options.to or (options.out / "quick" if options.quick else Path("notebooks")),
        command="python -m hig_optax.experiments results" + how,
        remark="A quick run, far too short to tell anything." if options.quick else "",
    )
    for table in results.summary(done):
        table.show(console)
    console.print(str(written[0]), highlight=False, soft_wrap=True)


def _picture(options: argparse.Namespace, console: Console) -> None:
    _configure(options)
    gallery = picture.draw_gallery(options.to.parent / "gallery")
    written = picture.draw(options.seconds, options.to, out=options.out, report=Report(console))
    for path in (written, *gallery):
        console.print(str(path), highlight=False, soft_wrap=True)


def _with(problem: problems.Problem, settings: Mapping[str, Any]) -> problems.Problem:
    if unknown := sorted(set(settings) - set(problem_settings(problem))):
        known = ", ".join(problem_settings(problem)) or "none"
        raise ValueError(f"{problem.name} has no setting {', '.join(unknown)}; it has {known}.")
    return dataclasses.replace(cast("Any", problem), **settings)


def _list(options: argparse.Namespace, console: Console) -> None:
    del options
    lines = ["Methods, and what they are set to unless a problem recommends otherwise"]
    for name, method in methods.METHODS.items():
        lines += [f"  {name}: {method.summary}", f"      {_settings(method.defaults)}"]
    lines += ["", "Problems, and the settings that differ there"]
    for name in problems.PROBLEMS:
        problem = problems.get(name)
        lines.append(f"  {name}: {_summary(problem)}")
        silent = set()
        if isinstance(problem, problems.PhysicsInformed):
            lines.append(
                f"      all {problem.num_points} points at every step, {problem.precision}"
            )
            silent.add("batch_size")
        for method in methods.METHODS.values():
            chosen = method.settings(problem)
            told = {k: v for k, v in chosen.items() if v != method.defaults[k] and k not in silent}
            if told:
                lines.append(f"      {method.name}: {_settings(told)}")
            if (adjusted := ADJUSTMENTS.get((name, method.name))) and adjusted.why:
                lines.append(f"          {adjusted.why}")
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())


def _bench(options: argparse.Namespace, console: Console) -> None:
    _configure(options)
    shared = {"out": options.out, "quick": options.quick}
    if options.what == "step":
        table, written = bench.step(options.problem, **shared)
    elif options.what == "functions":
        table, written = functions.functions(**shared)
    else:
        table, written = growth.scale(options.solver, report=console.print, **shared)
    table.show(console)
    for path in written:
        console.print(str(path), highlight=False, soft_wrap=True)


def _configure(options: argparse.Namespace) -> None:
    machine.use_cores(options.cores)
    if options.x64:
        jax.config.update("jax_enable_x64", True)


def _summary(problem: problems.Problem) -> str:
    return (type(problem).__doc__ or "").strip().split("\n", 1)[0]


def _words(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in _words(text))


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(word) for word in _words(text))


def _setting(text: str) -> tuple[str, str, Any]:
    target, _, value = text.partition("=")
    method, _, name = target.partition(".")
    if not (method and name and value):
        raise argparse.ArgumentTypeError(f"expected METHOD.NAME=VALUE, got {text!r}")
    return method, name, _value(value)


def _values(text: str) -> tuple[str, list[Any]]:
    name, _, values = text.partition("=")
    if not (name and values):
        raise argparse.ArgumentTypeError(f"expected NAME=V1,V2, got {text!r}")
    return name, [_value(word) for word in _words(values)]


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


if __name__ == "__main__":
    sys.exit(main())
