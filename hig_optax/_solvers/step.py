"""One step of the method on one batch: rows, Jacobian, cotangent, direction."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hig_optax._devices.devices import Devices
from hig_optax._inputs.batch import Samples, take_apart
from hig_optax._inputs.columns import Columns
from hig_optax._inputs.residual import Rows, trace_rows
from hig_optax._inputs.settings import Settings, check_passed
from hig_optax._inputs.wrappers import placeholder_type, refuse_multi_steps
from hig_optax._jacobian.blocks import Blocks, Dense
from hig_optax._jacobian.choices import (
    DEFAULT_MATVECS,
    choose_jacobian,
    choose_solver,
    exact_solver,
    may_be_held,
    refuse_custom_vjp,
)
from hig_optax._jacobian.differentiate import (
    LinearMaps,
    factored_jacobian,
    jacobian_slices,
    linear_maps,
    stacked_jacobian,
    stacked_rows,
)
from hig_optax._jacobian.row_blocks import RowBlock, blockwise_jacobian, split_batch, stacked
from hig_optax._jacobian.shares import ColumnShare, RowShare
from hig_optax._jacobian.taps import find_taps
from hig_optax._solvers.direction import Direction, RowBlocks, Scaling, half_inverse_direction
from hig_optax._solvers.krylov_direction import krylov_direction, krylov_step
from hig_optax._solvers.sliced import SlicedJacobian, sliced_direction
from hig_optax._solvers.spread import shared_jacobian, shared_maps
from hig_optax._types import LossFn, ResidualFn, Tree


def optimized_columns(settings: Settings, params: Tree, batch: Tree, all_params: Tree) -> Columns:
    """The parameters as columns, once it is clear that ``update`` was called with what it needs.

    Raises:
        TypeError: As `Columns.of`.
        ValueError: As `Columns.of`; `params` or `batch` was not passed; a call within ``optax.MultiSteps``.
    """
    refuse_multi_steps()
    check_passed(params, batch)
    return Columns.of(params, settings.mask, all_params)


def size_and_dtype(settings: Settings, params: Tree) -> tuple[int, Any]:
    """How many numbers are optimized, and the dtype of a state's: all that `init` takes from parameters.

    Raises:
        TypeError: As `Columns.of`.
        ValueError: As `Columns.of`.
    """
    if isinstance(params, placeholder_type()):
        return 0, jnp.dtype(jnp.float32)
    view = Columns.of(params, settings.mask).view
    return view.size, view.highest_dtype


class Layout(NamedTuple):
    """What is known of the rows of a batch before any is computed."""

    rows: Rows
    samples: Samples
    shape: tuple[int, int]
    """(m, n) of J, with the rows of all devices."""
    dtype: Any
    """Dtype of J."""
    mode: Literal["reverse", "forward"]
    """How J is differentiated where it is formed and `residual_fn` is one function."""
    blocks: Mapping[str, RowBlock]
    """The parts that a residual in blocks is stacked of: then the batch is one sample. Otherwise empty."""

    @property
    def row_blocks(self) -> RowBlocks:
        """Names and numbers of rows of the blocks."""
        return tuple((name, block.size) for name, block in self.blocks.items())

    @property
    def number(self) -> int:
        """What `chunk_size` counts: samples, or rows or columns of J where the batch is one sample."""
        return self.samples.size or self.shape[self.mode == "forward"]


def lay_out(
    settings: Settings, columns: Columns, batch: Tree, devices: Devices | None = None
) -> Layout:
    """Look at the residual on a batch, of several devices on this one's part; only shapes and dtypes matter.

    Raises:
        TypeError: Rows that are not floating-point numbers.
        ValueError: `batch` or the rows do not fit.
    """
    blocks: dict[str, RowBlock] = {}
    if isinstance(settings.residual_fn, Mapping):
        for name, samples in split_batch(settings.blocks, batch, settings.batch_axis).items():
            rows = _trace(settings.residual_fn[name], columns, samples, f"residual_fn[{name!r}]")
            blocks[name] = RowBlock(rows, samples)
        samples = Samples(None, (), lambda _: batch)
        rows = stacked(blocks, settings.chunk_size)
    else:
        samples = take_apart(batch, settings.batch_axis)
        rows = _trace(settings.residual_fn, columns, samples, "residual_fn")
    # J is no more precise than the least precise of its rows and columns, so it is held in that dtype.
    dtypes = (rows.view.lowest_dtype, columns.view.lowest_dtype)
    mode = choose_jacobian(
        settings.jacobian if settings.solver != "krylov" else "auto",
        rows=rows.view.size,
        columns=columns.view.size,
        has_custom_vjp=rows.has_custom_vjp,
    )
    num_samples = samples.size if devices is None else devices.num_samples
    return Layout(
        rows,
        samples,
        ((num_samples or 1) * rows.view.size, columns.view.size),
        min(dtypes, key=lambda dtype: jnp.finfo(dtype).bits),
        mode,
        blocks,
    )


class Linearised(NamedTuple):
    """The rows of a batch as a function of the parameters, at the parameters and to first order."""

    rows: Rows
    samples: Samples
    batch: Tree
    """The samples of all devices, where there is a loss to take of their rows."""
    devices: Devices | None
    y: Float[Array, " m"]
    J: Blocks | SlicedJacobian | ColumnShare | RowShare | LinearMaps
    dtype: Any
    solver: Any
    row_blocks: RowBlocks = ()

    @property
    def num_samples(self) -> int | None:
        """Number of samples of the whole batch, as `Samples.size`."""
        return self.samples.size if self.devices is None else self.devices.num_samples

    def evaluate(self, parts: tuple[Array, ...], chunk_size: int | None) -> Float[Array, " m"]:
        """The rows of the same batch at other values of the parameters."""
        y = stacked_rows(self.rows, parts, self.samples, chunk_size=chunk_size)
        return y if self.devices is None else self.devices.whole(y, size=self.y.size)


def linearise(
    settings: Settings, columns: Columns, batch: Tree, devices: Devices | None = None
) -> Linearised:
    """Rows and Jacobian of a batch, of which each device has its own samples if there are several.

    Raises:
        TypeError: Rows that are not floating-point numbers.
        ValueError: `batch` or the rows do not fit.
    """
    layout = lay_out(settings, columns, batch, devices)
    rows, samples, dtype = layout.rows, layout.samples, layout.dtype
    if devices is not None and settings.loss_fn is not None:
        batch = devices.whole_batch(batch, settings.batch_axis)
    solver = choose_solver(settings.solver, dtype=dtype, rtol=settings.rtol)
    if solver == "krylov":
        if rows.has_custom_vjp:
            refuse_custom_vjp()
        keywords: dict[str, Any] = {"chunk_size": settings.chunk_size, "dtype": dtype}
        if devices is None:
            y, maps = linear_maps(rows, columns.parts, samples, **keywords)
        else:
            y, maps = shared_maps(rows, columns.parts, samples, devices, **keywords)
        return Linearised(rows, samples, batch, devices, y, maps, dtype, solver, layout.row_blocks)
    if layout.blocks:
        y, whole = blockwise_jacobian(
            layout.blocks,
            columns.parts,
            jacobian=settings.jacobian,
            chunk_size=settings.chunk_size,
            dtype=dtype,
        )
        held = Blocks((Dense(whole),))
        return Linearised(rows, samples, batch, devices, y, held, dtype, solver, layout.row_blocks)
    y, J = _jacobian(settings, layout, columns, devices, solver=solver)
    return Linearised(rows, samples, batch, devices, y, J, dtype, solver)


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
        cotangent = jax.grad(loss_of_rows(settings.loss_fn, at))(at.y).astype(at.dtype)
    return direction_from(settings, at, columns.gradient(updates, at.dtype), cotangent)


def direction_from(
    settings: Settings,
    at: Linearised,
    gradient: Float[Array, " n"],
    cotangent: Float[Array, " m"] | None,
    scaling: Scaling | None = None,
) -> Direction:
    """The direction, or with `scaling` a step, by the solver for which the rows were linearised.

    It is finite only if the rows are, too.
    """
    numbers: dict[str, Any] = {
        "exponent": settings.exponent,
        "rtol": settings.rtol,
        "atol": settings.atol,
        "damping": settings.damping,
        "max_rank": settings.max_rank,
    }
    if isinstance(at.J, SlicedJacobian):
        found = sliced_direction(at.J, gradient, cotangent, scaling=scaling, **numbers)
    elif isinstance(at.J, LinearMaps):
        maps = (at.J.matvec, at.J.rmatvec)
        numbers["num_matvecs"] = settings.num_matvecs or DEFAULT_MATVECS
        numbers["solver"] = exact_solver(dtype=at.dtype, rtol=settings.rtol)
        numbers["row_blocks"] = at.row_blocks
        if scaling is None:
            found = krylov_direction(*maps, gradient, cotangent, **numbers)
        else:
            assert cotangent is not None
            found = krylov_step(*maps, gradient, cotangent, scaling, **numbers)
    else:
        found = half_inverse_direction(
            at.J,
            gradient,
            cotangent,
            solver=at.solver,
            scaling=scaling,
            row_blocks=at.row_blocks,
            **numbers,
        )
    return found._replace(is_finite=found.is_finite & jnp.all(jnp.isfinite(at.y)))


def _trace(residual_fn: ResidualFn, columns: Columns, samples: Samples, name: str) -> Rows:
    def residual(parts: tuple[jax.Array, ...], entries: tuple[Any, ...]) -> Tree:
        return residual_fn(columns.rebuild(parts), samples.assemble(entries))

    try:
        return trace_rows(residual, columns.parts, samples.example)
    except Exception as error:
        if name != "residual_fn":
            error.add_note(f"This is {name}.")
        if columns.is_one_vector:
            raise ValueError(
                "residual_fn failed on params that are one flat vector. If optax.flatten is wrapped around "
                "this transformation, remove it: residual_fn needs the parameters in their own structure."
            ) from error
        raise


def _jacobian(
    settings: Settings,
    layout: Layout,
    columns: Columns,
    devices: Devices | None,
    *,
    solver: Literal["svd", "gram"],
) -> tuple[Array, Blocks | SlicedJacobian | ColumnShare | RowShare]:
    """Rows and Jacobian.

    Where its Gram matrix is all that is wanted of it, what can be is factored, and what is left comes in
    slices if it should not be held. Several devices hold a share of it each.
    """
    rows, samples, shape, dtype, mode, _ = layout
    parts, chunk_size = columns.parts, settings.chunk_size
    keywords: dict[str, Any] = {"chunk_size": chunk_size, "dtype": dtype}
    tapped = None
    # Factors pay where the row side is the short one.
    pays = mode == "reverse" and samples.size is not None and shape[0] <= shape[1]
    if solver == "gram" and pays:
        tapped = find_taps(rows.evaluate, parts, samples.example)
    if devices is not None:
        return shared_jacobian(
            rows, parts, samples, devices, mode=mode, tapped=tapped, solver=solver, **keywords
        )
    if solver == "svd":
        y, J = stacked_jacobian(rows, parts, samples, mode=mode, **keywords)
        return y, Blocks((Dense(J),))

    plain = [i for i in range(len(parts)) if tapped is None or i not in tapped.matrices]
    is_held = (
        chunk_size is None
        or chunk_size >= layout.number
        or may_be_held(shape, columns=sum(parts[i].size for i in plain))
    )
    if tapped is not None:
        y, blocks = factored_jacobian(tapped, parts, samples, only_tapped=not is_held, **keywords)
        if is_held:
            return y, Blocks(tuple(blocks.values()))
    elif is_held:
        y, J = stacked_jacobian(rows, parts, samples, mode=mode, **keywords)
        return y, Blocks((Dense(J),))
    else:
        y, blocks = stacked_rows(rows, parts, samples, chunk_size=chunk_size), {}
    slices, by_rows = jacobian_slices(rows, parts, samples, mode=mode, parts=plain, **keywords)
    ends = np.cumsum([part.size for part in parts])
    held = tuple((slice(ends[i] - parts[i].size, ends[i]), block) for i, block in blocks.items())
    return y, SlicedJacobian(slices, by_rows, shape, dtype, held)


def loss_of_rows(
    loss_fn: LossFn, at: Linearised
) -> Callable[[Float[Array, " m"]], Float[Array, ""]]:
    """The user's loss as a function of the rows as one real vector, (m,)."""
    unravel, size = at.rows.view.unravel, at.num_samples

    def loss(y: jax.Array) -> jax.Array:
        tree = unravel(y) if size is None else jax.vmap(unravel)(y.reshape(size, -1))
        value = loss_fn(tree, at.batch)
        is_array = isinstance(value, jax.Array)
        if not is_array or value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
            what = f"shape {value.shape} and dtype {value.dtype}" if is_array else repr(value)
            raise ValueError(
                f"loss_fn must return a real scalar array, got {what}. Reduce the rows to one number, as "
                "jnp.mean over the samples does."
            )
        return value

    return loss
