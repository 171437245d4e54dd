"""How each symptom shows in the course of a run."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from hig_optax._diagnosis.course import Course
from hig_optax._optimizers.control import MAX_DAMPING, SHORTER, TRIALS
from hig_optax._optimizers.recipe import DECIDED, OPEN, STEADY

# Rounding leaves more than this of the cosine of one gradient, computed in two ways, until the rows
# themselves are rounding.
ALIKE = 0.99
# A run of steps says more than a single one: of fewer, one rejection or one cut means nothing.
SEVERAL = 5
MOST = 0.8
# A step whose change of the loss is within so many roundings of it.
FLOOR_IN_EPS = 8
# A loss that fell to this many roundings, squared, of what it was: rows are differences of numbers of the
# size that they had at the start.
FLOOR_OF_ROWS = 30
FEW = 5
# Steps a tenth as long, while the loss falls more slowly than this power of the number of batches.
SHORT_STEPS, STANDSTILL = 0.1, 0.1
# A damping, relative to the mean of σ², that shortens all of a step.
SHORTENING = 10.0
MINIMA: tuple[Any, ...] = (
    OPEN.least_damping,
    DECIDED.least_damping,
    STEADY.least_damping,
)


class Sign(NamedTuple):
    """A symptom that shows."""

    symptom: str
    evidence: str
    numbers: dict[str, float]


Look = Callable[[Course], Iterator[Sign]]


def signs_of(course: Course) -> list[Sign]:
    """All symptoms that a course shows by itself."""
    if course.count is not None and not np.any(course.count > 0):
        return [Sign("no step taken", "count is 0", {"count": 0})]
    with np.errstate(invalid="ignore", over="ignore"):  # NaN is what is looked for
        return [sign for look in LOOKS for sign in look(course)]


def _not_finite(course: Course) -> Iterator[Sign]:
    bad = ~course.is_finite
    if not bad.any():
        return
    of_rows = np.zeros_like(bad) if course.loss is None else bad & ~np.isfinite(course.loss)
    for symptom, mask in (("rows not finite", of_rows), ("step not finite", bad & ~of_rows)):
        if mask.any():
            numbers = {"steps": float(mask.sum()), "share": float(mask.mean())}
            yield Sign(symptom, f"is_finite is false {course.where(mask)}", numbers)


def _losses(course: Course) -> Iterator[Sign]:
    known = course.is_finite & np.isfinite(course.gradient_cosine)
    if not known.any() or is_at_floor(course):
        return
    cosine = course.gradient_cosine[known]
    first, last = float(cosine[0]), float(np.median(cosine[-max(1, len(cosine) // 4) :]))
    if last >= ALIKE:
        return
    symptom = "opposite gradient" if last <= -ALIKE else "another loss"
    evidence = f"gradient_cosine is {last:.3g}, and 1 is right"
    if len(cosine) > 1 and first >= ALIKE:
        evidence += (
            f"; at first it was {first:.3g}, so that a term outside the rows has outgrown them"
        )
    yield Sign(symptom, evidence, {"gradient_cosine": last, "first_gradient_cosine": first})


def _zero_jacobian(course: Course) -> Iterator[Sign]:
    zero = course.is_finite & (course.rank == 0)
    if course.late(zero).all():
        yield Sign("zero Jacobian", f"rank is 0 {course.where(zero)}", {"rank": 0})


def is_at_floor(course: Course) -> bool:
    """Whether the loss is down at its rounding."""
    return any(True for _ in _floor(course))


def _floor(course: Course) -> Iterator[Sign]:
    if course.loss is None or course.trial_loss is None or course.accepted is None:
        return
    assert course.trial_scale is not None
    assert course.damping is not None
    # A trial that was refused for another reason was never made, and left the loss exactly as it was. One
    # that was shortened or damped because others had failed may change it by as little anywhere.
    tried = course.is_finite & (course.gradient_cosine > 0)
    tried &= (course.trial_scale >= SHORTER**TRIALS) & (course.damping <= SHORTENING)
    change = np.where(tried, np.abs(course.loss - course.trial_loss), np.inf)
    lost = tried & (change <= FLOOR_IN_EPS * course.eps * np.abs(course.loss))
    last = float(course.loss[-1])
    if course.late(lost).mean() > MOST:
        evidence = (
            f"the last trial changed the loss of {last:.2g} by {change[-1]:.1g}, less than "
            f"{FLOOR_IN_EPS} times the rounding of the loss"
        )
        yield Sign("rounding floor", evidence, {"loss": last, "change": float(change[-1])})
        return
    finite = course.loss[np.isfinite(course.loss)]
    if course.steps < SEVERAL or not len(finite):
        return
    start, floor = float(finite[0]), (FLOOR_OF_ROWS * course.eps) ** 2
    if 0 <= last <= floor * start and not course.late(course.accepted).all():
        evidence = (
            f"the loss fell from {start:.2g} to {last:.2g}: its square root to less than {FLOOR_OF_ROWS} "
            "roundings of what it was"
        )
        yield Sign("rounding floor", evidence, {"loss": last, "first_loss": start})


def _rejected(course: Course) -> Iterator[Sign]:
    if course.accepted is None or course.trial_scale is None or is_at_floor(course):
        return
    assert course.damping is not None
    scale, damping = float(course.trial_scale[-1]), float(course.damping[-1])
    tried = course.is_finite & (course.gradient_cosine > 0)
    rejected = tried & ~course.accepted
    if course.steps >= SEVERAL:
        shows = course.late(rejected).mean() > MOST
    else:  # every failed step shortens or damps the next one by as much as its trials
        is_short = scale <= SHORTER ** (2 * TRIALS) or damping > SHORTENING
        shows = bool(rejected[-1]) and is_short
    if shows:
        where = f"{course.where(rejected)}; " if course.steps > 1 else "; "
        following = f"tried at {scale:.1g} of its length"
        if scale == 1:
            following = f"damped by {damping:.1g} times the mean of σ²"
        evidence = f"no trial lowered the loss {where}the next is {following}"
        yield Sign("every step rejected", evidence.replace(" ;", ";"), {"trial_scale": scale})


def _damping(course: Course) -> Iterator[Sign]:
    if course.damping is None:
        return
    last = float(course.damping[-1])
    numbers = {"damping": last}
    if last >= 0.99 * MAX_DAMPING:
        yield Sign("damping at its maximum", f"damping is {last:.1g}", numbers)
    if any(abs(last / minimum - 1) < 1e-3 for minimum in MINIMA):
        yield Sign("damping at its minimum", f"damping is {last:.1g}", numbers)


def _cut(course: Course) -> Iterator[Sign]:
    if course.is_cut is None or course.steps < SEVERAL:
        return
    share = float(course.late(course.is_cut).mean())
    if share > MOST:
        evidence = f"{share:.0%} of the last steps were shortened to max_relative_step"
        yield Sign("steps cut to their bound", evidence, {"share": share})


def _noise(course: Course) -> Iterator[Sign]:
    if course.plateau_scale is None:
        return
    assert course.plateau_power is not None
    scale, power = float(course.plateau_scale[-1]), float(course.plateau_power[-1])
    if scale < SHORT_STEPS and power < STANDSTILL:
        evidence = (
            f"plateau.scale is {scale:.2g}, steps are {scale:.2g} of what they were, and plateau.power is "
            f"{power:.2g}"
        )
        yield Sign("noise stops progress", evidence, {"plateau_scale": scale})


def _rank(course: Course) -> Iterator[Sign]:
    known = course.is_finite & (course.rank > 0)
    if not known.any():
        return
    rank = float(np.median(course.rank[known][-max(1, known.sum() // 4) :]))
    full, kept = int(course.full_rank[known][-1]), float(course.gradient_kept[known][-1])
    if FEW * rank <= full:
        evidence = f"rank {rank:.0f} of at most {full}"
        yield Sign("low rank", evidence, {"rank": rank, "full_rank": float(full)})
    if kept < 1 / 2:
        evidence = f"the directions that are kept hold {kept:.0%} of the squared gradient"
        yield Sign("gradient cut off", evidence, {"gradient_kept": kept})


LOOKS: tuple[Look, ...] = (
    _not_finite,
    _losses,
    _zero_jacobian,
    _floor,
    _rejected,
    _damping,
    _cut,
    _noise,
    _rank,
)
