"""Rows, Jacobian and gradient of one batch, looked at outside jit: which part of them is to blame."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hig_optax._diagnosis.course import Course
from hig_optax._diagnosis.signs import ALIKE, FEW, Sign
from hig_optax._inputs.call import optimized_columns
from hig_optax._inputs.columns import Columns
from hig_optax._inputs.settings import Settings
from hig_optax._jacobian.rows import Residual
from hig_optax._optimizers.control import FIXED_AFTER
from hig_optax._planning.cost import cost_of
from hig_optax._planning.planning import plan
from hig_optax._solvers.step import linearise, loss_of_rows
from hig_optax._types import ResidualFns, Tree

# Entries of J up to which it is written out: 64 MiB in float32.
LARGE_JACOBIAN = 2**24
# What part of a gradient may be left unexplained by an explanation of it.
UNEXPLAINED = 1e-2
# A step of so many gradients is dear: Adam would have taken as many in its time.
DEAR = 300
ROWS_PER_DIRECTION = 4
# A parameter counts if a change by its own size moves the rows by such a share of what the best one's does.
COUNTS = 1e-2
# By how much of their norm the rows change where the parameters do by their rounding, at the floor.
NOISE_OF_ROWS = 0.1


class _Seen(NamedTuple):
    """Rows, Jacobian and gradients at one place."""

    residual: Residual
    columns: Columns
    params: Tree
    y: np.ndarray
    J: np.ndarray | None
    """None where it is too large to be written out."""
    of_rows: np.ndarray
    """The gradient of the loss that is minimised: that of the rows, ½Σy², or of `loss_fn`."""
    gradient: np.ndarray | None
    """What ``update`` was given; None where the doctor was not."""


def look_closer(
    course: Course,
    residual_fn: ResidualFns,
    params: Tree,
    batch: Tree,
    grads: Tree,
    settings: Mapping[str, Any],
) -> list[Sign]:
    """What rows, Jacobian and gradient show that a state does not.

    Args:
        course: What the state shows.
        residual_fn: The residual.
        params: The parameters.
        batch: A batch.
        grads: The gradient that ``update`` was given; None: not known.
        settings: Others of `scale_by_hig`.

    Raises:
        TypeError: As `scale_by_hig`.
        ValueError: As `scale_by_hig`.
    """
    if unknown := sorted(set(settings) - {f.name for f in dataclasses.fields(Settings)}):
        raise TypeError(
            f"diagnose takes the settings of scale_by_hig, got {', '.join(unknown)}. Leave out those of "
            "other optimizers: the closer look is the same for all."
        )
    given = Settings(residual_fn=residual_fn, **settings)
    seen = _see(given, params, batch, grads)
    found = list(_not_finite(seen))
    if found:
        return found
    found += [*_influence(seen), *_sizes(seen), *_floor(seen)]
    if seen.gradient is not None and np.any(seen.gradient):
        found += _gradients(course, given, seen)
    return [*found, *_price(course, given, seen, params, batch)]


def _see(settings: Settings, params: Tree, batch: Tree, grads: Tree) -> _Seen:
    columns = optimized_columns(settings, params, batch, None)
    whole = dataclasses.replace(
        settings, solver="svd", num_matvecs=None, chunk_size=None, rows_per_sample=None
    )
    at = linearise(dataclasses.replace(whole, solver="krylov"), columns, batch)
    g = at.y
    if settings.loss_fn is not None:
        g = jax.grad(loss_of_rows(settings.loss_fn, at.residual, at.batch))(at.y)
    J = None
    if math.prod(at.J.shape) <= LARGE_JACOBIAN:
        J = np.asarray(linearise(whole, columns, batch).J.matrix())
        of_rows = J.T @ np.asarray(g)
    else:
        of_rows = np.asarray(at.J.rmatvec(g.astype(at.dtype)))
    gradient = None if grads is None else np.asarray(columns.gradient(grads, at.dtype))
    return _Seen(at.residual, columns, params, np.asarray(at.y), J, of_rows, gradient)


def _not_finite(seen: _Seen) -> Iterator[Sign]:
    if (bad := ~np.isfinite(seen.y)).any():
        yield Sign("rows not finite", f"rows of {_samples(seen, bad)}", {"rows": float(bad.sum())})
    elif seen.J is not None and not np.isfinite(seen.J).all():
        wrong = ~np.isfinite(seen.J)
        where = f"{_samples(seen, wrong.any(axis=1))}, by {_leaves(seen, np.asarray(wrong.any(axis=0)))}"
        numbers = {"rows": float(wrong.any(axis=1).sum())}
        yield Sign("derivatives not finite", f"derivatives of {where}", numbers)
    elif seen.gradient is not None and not np.isfinite(seen.gradient).all():
        infinite = np.asarray(~np.isfinite(seen.gradient))
        where = _leaves(seen, infinite)
        yield Sign("gradient not finite", f"gradient by {where}", {})


def _influence(seen: _Seen) -> Iterator[Sign]:
    if seen.J is None:
        return
    silent = np.asarray(~seen.J.any(axis=0))
    if names := _leaves(seen, silent, whole=True):
        numbers = {"share": float(silent.mean())}
        evidence = (
            f"{silent.sum()} of {silent.size} columns of the Jacobian are 0, all those of {names}"
        )
        yield Sign("parameters without influence", evidence, numbers)


def _sizes(seen: _Seen) -> Iterator[Sign]:
    """Parameters that matter by their own size, and not in the units of the others."""
    if seen.J is None or not seen.J.size:
        return
    lengths = np.linalg.norm(seen.J.astype(np.float64), axis=0)
    effects = lengths * np.abs(_theta(seen, seen.J.dtype))
    longest = lengths.max()
    hidden = lengths < math.sqrt(np.finfo(seen.J.dtype).eps) * longest
    hidden &= (effects > 0) & (effects >= COUNTS * effects.max())
    if hidden.any():
        ratio = float(lengths[hidden].min() / longest)
        evidence = (
            f"columns of the Jacobian for {_leaves(seen, hidden)} are down to {ratio:.1g} of the longest "
            f"one, that for {_leaves(seen, lengths == longest)}"
        )
        yield Sign("parameters of unlike size", evidence, {"ratio": ratio})


def _floor(seen: _Seen) -> Iterator[Sign]:
    """Move every parameter by its rounding, this way and that: rows that change as much are no more."""
    rng, moved = np.random.default_rng(0), []
    for part in seen.columns.parts:
        sign = rng.choice([-1.0, 1.0], size=part.shape)
        moved.append(part * (1 + jnp.asarray(sign * jnp.finfo(part.dtype).eps, part.dtype)))
    change = np.asarray(seen.residual.evaluate(tuple(moved), None)) - seen.y
    share = float(np.linalg.norm(change) / max(np.linalg.norm(seen.y), np.finfo(seen.y.dtype).tiny))
    if share > NOISE_OF_ROWS:
        evidence = f"rounding the parameters changes the rows by {share:.2g} of their norm"
        yield Sign("rounding floor", evidence, {"noise_of_rows": share})


def _gradients(course: Course, settings: Settings, seen: _Seen) -> Iterator[Sign]:
    assert seen.gradient is not None
    x, v = seen.gradient, seen.of_rows
    cosine = _cosine(x, v)
    if course.optimizer == "ScaleByHigState" and settings.loss_fn is None:
        # Any loss of the rows will do there; only its size is worth a word.
        samples, ratio = int(seen.residual.num_averaged), np.linalg.norm(x) / np.linalg.norm(v)
        is_sum = any(abs(ratio / size - 1) < UNEXPLAINED for size in (1, 2))
        if cosine >= ALIKE and samples > 1 and is_sum:
            evidence = f"the gradient is {ratio:.3g} Jᵀy, not {ratio:.3g}/{samples}"
            yield Sign("summed loss", evidence, {"ratio": float(ratio), "samples": float(samples)})
        return
    if cosine >= ALIKE:
        return
    (a, c), left = _explained(x, np.stack([v, _theta(seen, x.dtype)], axis=1))
    numbers = {"gradient_cosine": cosine, "left": left}
    if left < UNEXPLAINED and c > 0 and a > 0:
        evidence = f"the gradient is {a:.2g} Jᵀy + {c:.2g} θ, up to {left:.1g} of its norm"
        yield Sign("weight decay in the loss", evidence, numbers | {"decay": float(c)})
    elif cosine <= -ALIKE:
        yield Sign("opposite gradient", "it is at these parameters, too", numbers)
    elif seen.J is not None:
        yield from _by_rows(seen, x, numbers)


def _by_rows(seen: _Seen, x: np.ndarray, numbers: dict[str, float]) -> Iterator[Sign]:
    assert seen.J is not None
    along = _cosine(x, seen.J.sum(axis=0))
    if along >= ALIKE and (seen.y >= 0).all():
        evidence = f"no row is negative, and the gradient is along their sum (cosine {along:.3g})"
        yield Sign("rows squared already", evidence, numbers | {"along_sum": along})
    elif (left := _explained(x, seen.J.T)[1]) < UNEXPLAINED:
        evidence = (
            f"the gradient comes through the rows, up to {left:.1g} of its norm, but its cosine with that of "
            f"their squares is {numbers['gradient_cosine']:.2g}"
        )
        yield Sign("rows without their target", evidence, numbers)


def _price(
    course: Course, settings: Settings, seen: _Seen, params: Tree, batch: Tree
) -> Iterator[Sign]:
    rank, rows = int(course.rank[-1]), seen.y.size
    is_fixed = course.repeats is not None and course.repeats[-1] >= FIXED_AFTER
    if is_fixed or rank <= 0 or rows < ROWS_PER_DIRECTION * rank:
        return
    kept = {f.name: getattr(settings, f.name) for f in dataclasses.fields(Settings)}
    step = plan(kept.pop("residual_fn"), params, batch, **kept).chosen
    half = jax.grad(lambda parts: jnp.sum(seen.residual.evaluate(parts, None) ** 2) / 2)
    gradient = cost_of(jax.make_jaxpr(half)(seen.columns.parts)).flops
    if step.flops >= DEAR * gradient:
        evidence = (
            f"a step takes {step.flops:.1g} operations, as many as {step.flops / gradient:.0f} gradients, "
            f"for {rows} rows that determine {rank} directions"
        )
        numbers = {"rows": float(rows), "rank": float(rank), "gradients": step.flops / gradient}
        yield Sign("batch too dear", evidence, numbers)


def _samples(seen: _Seen, marked: np.ndarray) -> str:
    """The samples that marked rows belong to, in words."""
    words, start = [], 0
    for block in seen.residual.blocks:
        mine = marked[start : start + block.size]
        start += block.size
        if not mine.any():
            continue
        name = "" if block.name is None else f" in block {block.name!r}"
        if block.total is None:
            words.append(
                f"the whole batch{name}: {_listed(np.flatnonzero(mine))} of {mine.size} rows"
            )
        else:
            which = np.flatnonzero(mine.reshape(block.total, -1).any(axis=1))
            plural = "s" if len(which) > 1 else ""
            words.append(f"sample{plural} {_listed(which)} of {block.total} samples{name}")
    return "; ".join(words)


def _listed(numbers: np.ndarray) -> str:
    return ", ".join(map(str, numbers[:FEW])) + (", ..." if len(numbers) > FEW else "")


def _leaves(seen: _Seen, marked: np.ndarray, *, whole: bool = False) -> str:
    """The parameters that marked columns belong to, in words; with `whole`, those marked throughout."""
    names, start = [], 0
    paths = jax.tree.flatten_with_path(seen.params)[0]
    chosen = [path for (path, _), yes in zip(paths, seen.columns.is_optimized, strict=True) if yes]
    for path, shape, dtype in zip(
        chosen, seen.columns.view.shapes, seen.columns.view.dtypes, strict=True
    ):
        size = math.prod(shape) * (1 + jnp.issubdtype(dtype, jnp.complexfloating))
        mine = marked[start : start + size]
        if size and (mine.all() if whole else mine.any()):
            names.append(f"params{jax.tree_util.keystr(path)}")
        start += size
    return ", ".join(names[:FEW]) + (", ..." if len(names) > FEW else "")


def _theta(seen: _Seen, dtype: Any) -> np.ndarray:
    """The optimized parameters, in the order of the columns of J."""
    view = seen.columns.view
    return np.asarray(view.ravel(view.merge(seen.columns.parts), dtype))


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    size = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / size) if size > 0 else 0.0


def _explained(x: np.ndarray, by: np.ndarray) -> tuple[np.ndarray, float]:
    """Coefficients of `x` by the columns of a matrix, and the share of its norm that is left."""
    wide = by.astype(np.float64)
    scale = np.linalg.norm(wide, axis=0)
    scale = np.where(scale > 0, scale, 1)
    coefficients = np.linalg.lstsq(wide / scale, x.astype(np.float64), rcond=1e-6)[0]
    left = np.linalg.norm(x - wide / scale @ coefficients) / np.linalg.norm(x)
    return coefficients / scale, float(left)
