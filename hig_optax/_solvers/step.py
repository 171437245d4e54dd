"""One step of the method on one batch: rows, Jacobian, cotangent, direction."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hig_optax._devices.devices import Devices
from hig_optax._inputs.columns import Columns
from hig_optax._inputs.settings import Settings
from hig_optax._jacobian.algebra import Jacobian
from hig_optax._jacobian.bad_samples import count_unless, without_bad
from hig_optax._jacobian.choices import DEFAULT_MATVECS, choose_solver, exact_solver
from hig_optax._jacobian.form import form, form_products
from hig_optax._jacobian.layout import Layout, lay_out
from hig_optax._jacobian.rows import Residual, residual_of
from hig_optax._jacobian.sketch import Sketch, rows_left, shortened, sketch
from hig_optax._jacobian.strips import Condensed
from hig_optax._solvers.direction import half_inverse_direction
from hig_optax._solvers.formula import Direction, RowBlocks, Scaling
from hig_optax._solvers.subspace import krylov_direction, krylov_step
from hig_optax._types import LossFn, Tree


class Linearised(NamedTuple):
    """The rows of a batch as a function of the parameters, at the parameters and to first order."""

    residual: Residual
    batch: Tree
    """The samples of all devices, where there is a loss to take of their rows."""
    y: Float[Array, " m"]
    J: Jacobian
    """Of all rows, or of those that a sketch leaves."""
    solver: Any
    sketch: Sketch | None = None
    image: Float[Array, " k"] | None = None
    """J times ones, where it has to be taken before J is decomposed."""
    held: Callable[[], Jacobian] | None = None
    """J to be condensed, where products alone were chosen and it may be had as well."""

    def kept(self, w: Float[Array, " m"]) -> Float[Array, " k"]:
        """A vector of the row side as J has it: what the sketch leaves of it."""
        w = w.astype(self.dtype)
        return w if self.sketch is None else self.sketch.of(w)

    def num_bad(self, is_finite: Bool[Array, ""]) -> Int[Array, ""]:
        """How many samples are not finite, where the step may not be."""
        if self.residual.num_dropped is not None:
            return self.residual.num_dropped
        sketched = None if self.sketch is None else self.sketch.residual
        return count_unless(is_finite, self.y, self._image_of_ones, self.residual, sketched)

    def _image_of_ones(self) -> Float[Array, " k"]:
        return _of_ones(self.J) if self.image is None else self.image

    @property
    def sizes(self) -> RowBlocks:
        """Names and numbers of rows of the named blocks of J."""
        return (self.residual if self.sketch is None else self.sketch.residual).sizes

    @property
    def dtype(self) -> Any:
        """Dtype of J."""
        return self.J.dtype

    def relative_damping(self, damping: Float[Array, ""]) -> Float[Array, ""]:
        """What solvers are to multiply the mean of σ² by, where it is that of the rows that count.

        They take it over all min(m, n) singular values, and rows that were left out are zeros among them.
        """
        if self.residual.is_kept is None or self.solver == "krylov":
            return damping.astype(self.dtype)
        m, n = self.J.shape
        share = jnp.mean(self.residual.is_kept.astype(self.dtype))
        counted = jnp.clip(share * m, 1, n)
        return damping.astype(self.dtype) * (min(m, n) / counted)


def layout_of(
    settings: Settings, columns: Columns, batch: Tree, devices: Devices | None = None
) -> Layout:
    """How J of a batch is to be had, before anything is computed.

    Raises:
        TypeError: Rows that are not floating-point numbers.
        ValueError: `batch` or the rows do not fit.
    """
    residual = residual_of(settings, columns, batch, devices)
    left = _rows_left(settings, residual, columns)
    return _layout_of(settings, shortened(residual, left) if any(left) else residual, columns)


def _layout_of(settings: Settings, residual: Residual, columns: Columns) -> Layout:
    # J is no more precise than the least precise of its rows and columns, so it is held in that dtype.
    dtypes = (residual.lowest_dtype, columns.view.lowest_dtype)
    dtype = min(dtypes, key=lambda dtype: jnp.finfo(dtype).bits)
    return lay_out(
        residual,
        columns.parts,
        jacobian=settings.jacobian if settings.solver != "krylov" else "auto",
        chunk_size=settings.chunk_size,
        dtype=dtype,
        is_condensed=_solver_of(settings, dtype) == "gram",
    )


def _solver_of(settings: Settings, dtype: Any) -> Literal["svd", "gram", "krylov"]:
    return choose_solver(
        settings.solver, dtype=dtype, rtol=settings.rtol, is_damped=settings.is_damped
    )


def linearise(
    settings: Settings,
    columns: Columns,
    batch: Tree,
    devices: Devices | None = None,
    count: Int[Array, ""] | int = 0,
) -> Linearised:
    """Rows and Jacobian of a batch, of which each device has its own samples if there are several.

    Args:
        settings: What the rows are, and how J is to be had.
        columns: The parameters.
        batch: The samples.
        devices: Those that share them.
        count: Number of updates so far, the seed of a sketch.

    Raises:
        TypeError: Rows that are not floating-point numbers.
        ValueError: `batch` or the rows do not fit.
    """
    residual, layout = residual_of(settings, columns, batch, devices), None
    if settings.bad_samples == "drop":
        layout = _layout_of(settings, residual, columns)
        layout, batch = without_bad(layout, settings, batch, devices)
        residual = layout.residual
    if devices is not None and settings.loss_fn is not None:
        batch = devices.whole_batch(batch, settings.batch_axis)
    left = _rows_left(settings, residual, columns)
    y, found = None, None
    if any(left):
        y = g = residual.evaluate(columns.parts, settings.chunk_size)
        if settings.loss_fn is not None:
            g = jax.grad(loss_of_rows(settings.loss_fn, residual, batch))(y)
        found = sketch(residual, columns.parts, g, left, seed=count, chunk_size=settings.chunk_size)
        layout = _layout_of(settings, found.residual, columns)
    elif layout is None:
        layout = _layout_of(settings, residual, columns)
    solver, held = _solver_of(settings, layout.dtype), None
    if solver == "krylov":
        rows, J = form_products(
            layout.residual, columns.parts, chunk_size=settings.chunk_size, dtype=layout.dtype
        )
        if settings.may_hold:
            condensed = dataclasses.replace(settings, solver="gram")
            held = functools.partial(_held, _layout_of(condensed, residual, columns))
    else:
        rows, J = form(layout)
    # A singular value decomposition writes over J: to ask J again would keep a copy of it.
    image = _of_ones(J) if solver == "svd" else None
    y = rows if y is None else y
    return Linearised(residual, batch, y, J, solver, found, image, held)


def _held(layout: Layout) -> Jacobian:
    return form(layout)[1]


def _of_ones(J: Jacobian) -> Float[Array, " k"]:
    return J.matvec(jnp.ones(J.shape[1], J.dtype))


def _rows_left(settings: Settings, residual: Residual, columns: Columns) -> tuple[int | None, ...]:
    if settings.solver == "krylov" or settings.jacobian == "forward":
        return (None,) * len(residual.blocks)
    return rows_left(residual, columns.view.size, settings.rows_per_sample)


def find_direction(
    settings: Settings,
    columns: Columns,
    updates: Tree,
    batch: Tree,
    devices: Devices | None = None,
) -> Direction:
    """The direction on one batch, as `linearise` takes it.

    Raises:
        TypeError: Rows that are not floating-point numbers.
        ValueError: `updates`, `batch` or the rows do not fit.
    """
    at = linearise(settings, columns, batch, devices)
    cotangent = None
    if settings.loss_fn is not None:
        loss = loss_of_rows(settings.loss_fn, at.residual, at.batch)
        cotangent = at.kept(jax.grad(loss)(at.y))
    gradient = usable(columns.gradient(updates, at.dtype), at)
    return counted(direction_from(settings, at, gradient, cotangent), gradient, at)


def direction_from(
    settings: Settings,
    at: Linearised,
    gradient: Float[Array, " n"],
    cotangent: Float[Array, " m"] | None,
    scaling: Scaling | None = None,
    condensed: Condensed | None = None,
) -> Direction:
    """The direction, or with `scaling` a step, by the solver for which the rows were linearised.

    It is finite only if the rows are, too.
    """
    keywords: dict[str, Any] = {
        "exponent": settings.exponent,
        "rtol": settings.rtol,
        "atol": settings.atol,
        "damping": settings.damping,
        "max_rank": settings.max_rank,
        "row_blocks": at.sizes,
    }
    if at.solver == "krylov":
        keywords["num_matvecs"] = settings.num_matvecs or DEFAULT_MATVECS
        keywords["solver"] = exact_solver(
            dtype=at.dtype, rtol=settings.rtol, is_damped=settings.is_damped
        )
        if scaling is None:
            found = krylov_direction(at.J, gradient, cotangent, **keywords)
        else:
            assert cotangent is not None
            found = krylov_step(at.J, gradient, cotangent, scaling, **keywords)
    else:
        found = half_inverse_direction(
            at.J,
            gradient,
            cotangent,
            solver=at.solver,
            scaling=scaling,
            condensed=condensed,
            **keywords,
        )
    return found._replace(is_finite=found.is_finite & jnp.all(jnp.isfinite(at.y)))


def usable(gradient: Float[Array, " n"], at: Linearised) -> Float[Array, " n"]:
    """The incoming gradient, and zeros where it is not finite while samples were left out.

    It is that of all samples, and NaN where one of them is. Nothing is taken from it then.
    """
    number = at.residual.num_dropped
    if number is None:
        return gradient
    return jnp.where((number > 0) & ~jnp.all(jnp.isfinite(gradient)), 0, gradient)


def counted(found: Direction, gradient: Float[Array, " n"], at: Linearised) -> Direction:
    """A direction that tells how many samples were not finite; where all were, it is not finite either.

    Args:
        found: The direction.
        gradient: The incoming one, as `usable` returns it.
        at: The rows.
    """
    found = found._replace(num_bad=at.num_bad(found.is_finite))
    if at.residual.num_dropped is None:
        return found
    number, gradient_cosine = at.residual.num_dropped, found.gradient_cosine
    if gradient_cosine is not None:
        is_compared = (number == 0) | jnp.any(gradient != 0)
        gradient_cosine = jnp.where(is_compared, gradient_cosine, jnp.nan)
    is_finite = found.is_finite & (number < at.residual.num_parts)
    return found._replace(is_finite=is_finite, gradient_cosine=gradient_cosine)


def loss_of_rows(
    loss_fn: LossFn, residual: Residual, batch: Tree
) -> Callable[[Float[Array, " m"]], Float[Array, ""]]:
    """The user's loss as a function of the rows as one real vector, (m,)."""

    def loss(y: jax.Array) -> jax.Array:
        is_kept = residual.is_kept
        if is_kept is not None:  # at rows of zero, too, a loss may have a derivative of NaN
            y = jnp.where(is_kept, y, 0)
        value = loss_fn(residual.unravel(y), batch)
        is_array = isinstance(value, jax.Array)
        if not is_array or value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
            what = f"shape {value.shape} and dtype {value.dtype}" if is_array else repr(value)
            raise ValueError(
                f"loss_fn must return a real scalar array, got {what}. Reduce the rows to one number, as "
                "jnp.mean over the samples does."
            )
        return value

    return loss
