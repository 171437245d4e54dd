"""The command line: ``python -m hig_optax.experiments COMMAND``."""

import argparse
import dataclasses
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
from rich.console import Console

from hig_optax import problems
from hig_optax.experiments import (
    arguments,
    bench,
    compare,
    contest,
    doctor,
    functions,
    growth,
    machine,
    methods,
    on_points,
    page,
    picture,
    results,
    store,
    study,
    sweep,
    trust,
    watchdog,
)
from hig_optax.experiments.adjustments import ADJUSTMENTS
from hig_optax.experiments.budget import Budget
from hig_optax.experiments.report import Report
from hig_optax.experiments.train import problem_settings


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = arguments.parser(COMMANDS)
    options = parser.parse_args(words)
    console = Console()
    try:
        options.command(options, console)
    except (ValueError, OSError) as error:
        # A file that cannot be read or written is the user's to mend, as a wrong word is.
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    except KeyboardInterrupt:
        console.print(
            "\nInterrupted. Finished runs are kept, and the one in progress as it was a few seconds ago; the "
            "same command goes on from there."
        )
        return 130
    return 0


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
    seconds = arguments.QUICK_SECONDS if options.quick else options.seconds
    if seconds is None and options.steps is None:
        seconds = arguments.SECONDS
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
    asked = [_problem_and_overrides(name, options) for name in options.problems]
    names = [f"contest: {contest.title(problem)}" for problem, _ in asked]
    if options.into:
        page.check(options.into, names)
    for problem, overrides in asked:
        sweep.check(problem, options.methods, overrides)
    for problem, overrides in asked:
        entries = contest.hold(
            problem,
            options.methods,
            options.seeds,
            times,
            out=options.out,
            overrides=overrides,
            fresh=options.fresh,
            report=Report(console, problem.name if len(asked) > 1 else ""),
        )
        tables.append(contest.table(problem, entries, times))
        tables[-1].show(console)
    if options.into:
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
    name = options.name or " ".join([",".join(options.problems), options.method, *values])
    if options.into:
        page.check(options.into, [f"sweep: {name}"])
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
        page.write_into(options.into, {f"sweep: {name}": table})
        console.print(str(options.into), highlight=False, soft_wrap=True)


def _results(options: argparse.Namespace, console: Console) -> None:
    _configure(options)
    to = options.to or (options.out / "quick" if options.quick else Path("notebooks"))
    arguments.check_folder("--to", to)
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
        to,
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
    for name, value in settings.items():
        methods.check_kind(f"{problem.name}.{name}", value, getattr(problem, name))
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
    elif options.what == "pinns":
        table, written = on_points.pinns(options.problem, **shared)
    elif options.what == "functions":
        table, written = functions.functions(**shared)
    else:
        table, written = growth.scale(options.solver, report=console.print, **shared)
    table.show(console)
    for path in written:
        console.print(str(path), highlight=False, soft_wrap=True)


def _doctor(options: argparse.Namespace, console: Console) -> None:
    _write(doctor.page(), options.to, console)


def _trust(options: argparse.Namespace, console: Console) -> None:
    _write(trust.page(options.number), options.to, console)


def _watchdog(options: argparse.Namespace, console: Console) -> None:
    pieces = watchdog.page(repeat=options.repeat, limit=options.limit, report=console.print)
    _write(pieces, options.to, console)


def _write(pieces: Iterable[str], to: Path, console: Console) -> None:
    if to.is_dir():
        raise ValueError(f"--to must be a page, got the folder {to}.")
    store.write_text(to, "".join(pieces))
    console.print(str(to), highlight=False, soft_wrap=True)


def _configure(options: argparse.Namespace) -> None:
    arguments.check_folder("--out", options.out)
    machine.use_cores(options.cores)
    if options.x64:
        jax.config.update("jax_enable_x64", True)


def _summary(problem: problems.Problem) -> str:
    return (type(problem).__doc__ or "").strip().split("\n", 1)[0]


COMMANDS = {
    "compare": _compare,
    "contest": _contest,
    "sweep": _sweep,
    "results": _results,
    "picture": _picture,
    "list": _list,
    "doctor": _doctor,
    "trust": _trust,
    "watchdog": _watchdog,
    "bench": _bench,
}


if __name__ == "__main__":
    sys.exit(main())
