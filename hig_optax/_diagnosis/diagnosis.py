"""Read the state of an optimizer, and say in sentences what is going on."""

import html
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np

from hig_optax._diagnosis.closer import look_closer
from hig_optax._diagnosis.course import Course, courses_of
from hig_optax._diagnosis.signs import Sign, signs_of
from hig_optax._diagnosis.symptoms import BY_NAME, SYMPTOMS
from hig_optax._types import ResidualFns, Tree


class Finding(NamedTuple):
    """Something that a run suffers from; see `diagnose`."""

    symptom: str
    """Its name in the table of docs/doctor.md."""

    evidence: str
    """What shows it, with the numbers."""

    meaning: str
    """What is going on."""

    remedy: str
    """What to change."""

    kind: Literal["fault", "hint"]
    """A fault stops the run or spoils it; a hint says where the run could be faster."""

    numbers: dict[str, float]
    """The numbers of the evidence by name."""

    def __str__(self) -> str:
        return (
            f"{self.kind.upper()}: {self.symptom} ({self.evidence}).\n"
            f"  Meaning: {self.meaning}\n  Remedy:  {self.remedy}"
        )


class Diagnosis(tuple[Finding, ...]):
    """The findings, causes first, and what was read; a tuple that prints as text. See `diagnose`."""

    summary: str
    """One line on what was read."""

    def __new__(cls, findings: Iterable[Finding], summary: str) -> "Diagnosis":
        self = super().__new__(cls, findings)
        self.summary = summary
        return self

    @property
    def faults(self) -> tuple[Finding, ...]:
        """The findings that are more than hints."""
        return tuple(finding for finding in self if finding.kind == "fault")

    @property
    def symptoms(self) -> tuple[str, ...]:
        """The names of what was found."""
        return tuple(finding.symptom for finding in self)

    def __str__(self) -> str:
        return (
            "\n".join([self.summary, *map(str, self)])
            if self
            else f"{self.summary}\nNothing found."
        )

    def __repr__(self) -> str:
        return f"Diagnosis({', '.join(self.symptoms) or 'nothing found'})"

    def _repr_html_(self) -> str:
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in finding[:4]) + "</tr>"
            for finding in self
        )
        head = "".join(f"<th>{name}</th>" for name in Finding._fields[:4])
        table = f"<table><tr>{head}</tr>{rows}</table>" if self else "<p>Nothing found.</p>"
        return f"<p>{html.escape(self.summary)}</p>{table}"


def diagnose(
    state: Tree,
    residual_fn: ResidualFns | None = None,
    params: Tree = None,
    batch: Tree = None,
    grads: Tree = None,
    **settings: Any,
) -> Diagnosis:
    """Say what is going on in a run, what that means, and what to change.

    Call it outside ``jit``, on a state that ``update`` returned: that of the last step, or the states that
    `jax.lax.scan` returns stacked, which say more. Of an ensemble (`jax.vmap`) each member is read by
    itself. With the residual, the parameters and a batch it takes a closer look: it evaluates rows and
    Jacobian once and names the sample, the row or the parameter that is to blame. Pass the parameters of the
    step that went wrong: those before the update, which a refused step leaves as they were.

    Args:
        state: The state of `scale_by_hig`, `hig`, `adaptive_hig`, `accumulate` or `baselines.spring`, with
            whatever chain or wrapper is around it; or several, stacked along leading axes; or a `Spectrum`.
        residual_fn: As given to the optimizer; with `params` and `batch`, for a closer look.
        params: The parameters, a tree of arrays.
        batch: As in `scale_by_hig`: a batch, that of the last step if you can, (b, ...) per leaf.
        grads: The gradient that ``update`` was given, there: it is compared with that of the rows.
        settings: For the closer look, settings of `scale_by_hig` that the optimizer was given: `batch_axis`,
            `mask`, `loss_fn` and so on.

    Returns:
        A `Diagnosis`: a tuple of `Finding`, empty where nothing was found, that prints as text. Numbers have
        the units of the fields of the state that they are read from.

    Raises:
        TypeError: `state` holds no state of this package, or traced numbers; as `scale_by_hig`.
        ValueError: `residual_fn` without `params`; as `scale_by_hig`.

    Example:
        >>> import hig_optax, jax, jax.numpy as jnp
        >>> residual_fn = lambda w, x: jnp.log(x) * w - 1.0
        >>> opt = hig_optax.adaptive_hig(residual_fn)
        >>> w, batch = jnp.array(0.5), jnp.array([1.0, 2.0, 0.0, 3.0])
        >>> grads = jnp.array(1.0)
        >>> _, state = opt.update(grads, opt.init(w), w, batch=batch)
        >>> hig_optax.diagnose(state)
        Diagnosis(rows not finite)
        >>> finding, *_ = hig_optax.diagnose(state, residual_fn, w, batch)
        >>> finding.evidence
        'is_finite is false in the last step; rows of sample 2 of 4 samples'
    """
    courses = courses_of(state)
    close: list[Sign] = []
    if residual_fn is not None:
        close = look_closer(courses[-1], residual_fn, params, batch, grads, settings)
    found: dict[str, list[tuple[int, Sign]]] = {}
    for i, course in enumerate(courses):
        for sign in _merged(signs_of(course), close if course is courses[-1] else []):
            found.setdefault(sign.symptom, []).append((i, sign))
    findings = [
        _finding(found[symptom.name], len(courses)) for symptom in SYMPTOMS if symptom.name in found
    ]
    return Diagnosis(findings, _summary(courses))


# What the closer look finds in place of what it explains.
_EXPLAINED = {
    "step not finite": ("derivatives not finite", "gradient not finite"),
    "opposite gradient": ("weight decay in the loss",),
    "another loss": (
        "weight decay in the loss",
        "rows squared already",
        "rows without their target",
        "parameters without influence",
    ),
    "every step rejected": ("parameters of unlike size", "rounding floor"),
    "rounding floor": ("parameters of unlike size",),
    "low rank": ("parameters of unlike size", "parameters without influence"),
}


def _merged(signs: list[Sign], close: list[Sign]) -> list[Sign]:
    """What shows in the state and what a closer look adds: causes in place of what they explain."""
    causes, kept = {sign.symptom: sign for sign in close}, {}
    for sign in signs:
        explaining = [c for c in (sign.symptom, *_EXPLAINED.get(sign.symptom, ())) if c in causes]
        if not explaining:
            kept[sign.symptom] = sign
        elif explaining[0] not in kept:
            known = causes[explaining[0]]
            evidence = f"{sign.evidence}; {known.evidence}"
            kept[known.symptom] = Sign(known.symptom, evidence, sign.numbers | known.numbers)
    return list({**causes, **kept}.values())


def _finding(shown: list[tuple[int, Sign]], members: int) -> Finding:
    _, sign = shown[0]
    evidence = sign.evidence
    if members > 1:
        numbers = ", ".join(str(i) for i, _ in shown[:8]) + (", ..." if len(shown) > 8 else "")
        evidence = f"{len(shown)} of {members} members ({numbers}): {evidence}"
    symptom = BY_NAME[sign.symptom]
    return Finding(
        symptom.name, evidence, symptom.meaning, symptom.remedy, symptom.kind, sign.numbers
    )


def _summary(courses: list[Course]) -> str:
    last = courses[-1]
    parts = [last.optimizer]
    if len(courses) > 1:
        parts.append(f"{len(courses)} members, the last of them")
    if last.count is not None:
        parts.append(f"{int(last.count[-1])} steps")
    if last.steps > 1:
        parts.append(f"{last.steps} states")
    if last.loss is not None and last.accepted is not None:
        end = last.trial_loss if last.accepted[-1] else last.loss
        assert end is not None
        parts.append(f"batch loss {float(last.loss[0]):.2g} to {float(end[-1]):.2g}")
        parts.append(
            f"{np.mean(last.accepted):.0%} of the steps accepted" if last.steps > 1 else ""
        )
    rank = int(last.rank[-1])
    parts.append(f"rank {rank} of {int(last.full_rank[-1])}" if rank >= 0 else "rank not computed")
    parts.append(f"condition {float(last.condition[-1]):.1g}")
    if last.damping is not None:
        parts.append(f"damping {float(last.damping[-1]):.1g}")
    return ", ".join(part for part in parts if part)
