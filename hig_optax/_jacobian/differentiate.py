"""The Jacobian of the stacked rows: row block by row block, or as a pair of linear maps."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hig_optax._inputs.batch import Samples
from hig_optax._inputs.residual import Rows
from hig_optax._jacobian.blocks import Dense, Outer
from hig_optax._jacobian.slices import Slices
from hig_optax._jacobian.taps import Tapped


def stacked_jacobian(
    rows: Rows,
    columns: tuple[Array, ...],
    samples: Samples,
    *,
    mode: Literal["reverse", "forward"],
    chunk_size: int | None,
    dtype: Any,
) -> tuple[Float[Array, " m"], Float[Array, "m n"]]:
    """Rows of all samples and their Jacobian, sample after sample.

    Reverse mode pulls back one cotangent per row and sample, so that row i of the result is ∂rows[i]/∂θ;
    each pullback passes through its own sample alone. (Pulling back all m rows of the batch through the
    whole batch costs b times as much: 14.2 ms against 0.47 ms on the linear oscillators, 32 samples of 4
    rows, one core.) Forward mode pushes n tangents through every sample.

    Args:
        rows: The residual.
        columns: Real parts of the parameters, n numbers.
        samples: b samples; or the whole batch as one.
        mode: Reverse or forward.
        chunk_size: Samples whose Jacobian is built at once; rows (reverse) or columns (forward) where the
            residual takes the whole batch. None: all.
        dtype: Dtype of the Jacobian.

    Returns:
        Rows (m,) in the dtype of `rows`, and J (m, n) in `dtype`, m = b times the rows of a sample.
    """
    block = _reverse if mode == "reverse" else _forward
    if samples.size is None:
        return block(rows, columns, (), dtype, chunk_size)

    def one_sample(entries: tuple[Any, ...]) -> tuple[Array, Array]:
        return block(rows, columns, entries, dtype, None)

    y, J = _map(one_sample, samples.mapped, samples.size, chunk_size)
    return y.reshape(-1), J.reshape(-1, J.shape[-1])


def jacobian_slices(
    rows: Rows,
    columns: tuple[Array, ...],
    samples: Samples,
    *,
    mode: Literal["reverse", "forward"],
    chunk_size: int,
    dtype: Any,
    parts: Sequence[int] | None = None,
) -> tuple[Slices, bool]:
    """The Jacobian of `stacked_jacobian`, formed slice by slice where it is asked for.

    Args:
        rows: As in `stacked_jacobian`.
        columns: As in `stacked_jacobian`.
        samples: As in `stacked_jacobian`.
        mode: As in `stacked_jacobian`.
        chunk_size: Samples of a slice, at most: slices are of equal size. Rows (reverse) or columns (forward)
            where the residual takes the whole batch.
        dtype: As in `stacked_jacobian`.
        parts: Which column parts to differentiate by. None: all.

    Returns:
        The slices, and whether they are rows of J (or else columns).
    """
    parts = range(len(columns)) if parts is None else parts
    free = tuple(columns[i] for i in parts)

    def evaluate(free: tuple[Array, ...], entries: tuple[Any, ...]) -> Array:
        values = list(columns)
        for i, value in zip(parts, free, strict=True):
            values[i] = value
        return rows.evaluate(tuple(values), entries)

    restricted = dataclasses.replace(rows, evaluate=evaluate)
    r, n = rows.view.size, sum(part.size for part in free)
    size = samples.size
    if size is None:
        by_rows = mode == "reverse"
        one, _ = (_pullbacks if by_rows else _pushes)(restricted, free, (), dtype)
        size, length = (r, n) if by_rows else (n, r)
        height = _even(size, chunk_size)
        indices = jnp.arange(height, dtype=jnp.int32)
        return Slices(lambda i: jax.vmap(one)(i * height + indices), height, size, length), by_rows

    block = _reverse if mode == "reverse" else _forward
    count = _even(size, chunk_size)

    def take(i: Array) -> Array:
        index = i * count + jnp.arange(count, dtype=jnp.int32)
        entries = jax.tree.map(lambda x: x[jnp.minimum(index, size - 1)], samples.mapped)
        J = jax.vmap(lambda entries: block(restricted, free, entries, dtype, None)[1])(entries)
        return jnp.where((index < size)[:, None, None], J, 0).reshape(-1, n)

    return Slices(take, count * r, size * r, n), True


def _even(size: int, chunk_size: int) -> int:
    """The size of a chunk where as few as need be are of equal size."""
    return -(-size // -(-size // chunk_size))


def stacked_rows(
    rows: Rows, columns: tuple[Array, ...], samples: Samples, *, chunk_size: int | None
) -> Float[Array, " m"]:
    """The rows alone, (m,), in the order of `stacked_jacobian`: one forward pass."""
    if samples.size is None:
        return rows.evaluate(columns, ())
    y = _map(
        lambda entries: rows.evaluate(columns, entries), samples.mapped, samples.size, chunk_size
    )
    return y.reshape(-1)


def factored_jacobian(
    tapped: Tapped,
    columns: tuple[Array, ...],
    samples: Samples,
    *,
    chunk_size: int | None,
    dtype: Any,
    only_tapped: bool = False,
) -> tuple[Float[Array, " m"], dict[int, Dense | Outer]]:
    """Rows of all samples and their Jacobian, with the tapped weight matrices as outer products.

    By reverse mode, which stops at the products of those matrices: their derivatives, of the size of the
    matrices for every row, are not formed.

    Args:
        tapped: The residual of one sample, with taps.
        columns: Real parts of the parameters, n numbers.
        samples: b samples.
        chunk_size: Samples that are differentiated at once. None: all.
        dtype: Dtype of the Jacobian.
        only_tapped: Leave out the blocks of all other columns.

    Returns:
        Rows (m,), and the blocks of J by column part, in order.
    """
    plain = [] if only_tapped else [i for i in range(len(columns)) if i not in tapped.matrices]
    zeros = [jnp.zeros(tap.shape, tap.dtype) for tap in tapped.taps]

    def one_sample(entries: tuple[Any, ...]) -> tuple[Array, list, list, list]:
        def rows(free: list[Array], taps: list[Array]) -> tuple[Array, list]:
            values = list(columns)
            for i, value in zip(plain, free, strict=True):
                values[i] = value
            return tapped.evaluate(tuple(values), entries, taps)

        y, pullback, inputs = jax.vjp(rows, [columns[i] for i in plain], zeros, has_aux=True)
        free, taps = jax.vmap(pullback)(jnp.eye(y.size, dtype=y.dtype))
        dense = [x.reshape(y.size, -1).astype(dtype) for x in free]
        return y, dense, [x.astype(dtype) for x in taps], [x.astype(dtype) for x in inputs]

    y, dense, taps, inputs = _map(one_sample, samples.mapped, samples.size, chunk_size)
    blocks: dict[int, Dense | Outer] = {}
    for i in sorted({*plain, *tapped.matrices}):
        if i in plain:
            block = dense[plain.index(i)]
            blocks[i] = Dense(block.reshape(-1, block.shape[-1]))
        else:
            uses = [use for use, part in enumerate(tapped.matrices) if part == i]
            a = jnp.concatenate([inputs[use] for use in uses], axis=1)
            blocks[i] = Outer(a, jnp.concatenate([taps[use] for use in uses], axis=2))
    return y.reshape(-1), blocks


class LinearMaps(NamedTuple):
    """The products with a Jacobian of which no entry is held."""

    matvec: Callable[[Float[Array, " n"]], Float[Array, " m"]]
    """``v -> J v``."""

    rmatvec: Callable[[Float[Array, " m"]], Float[Array, " n"]]
    """``u -> Jᵀ u``."""


def linear_maps(
    rows: Rows,
    columns: tuple[Array, ...],
    samples: Samples,
    *,
    chunk_size: int | None,
    dtype: Any,
) -> tuple[Float[Array, " m"], LinearMaps]:
    """Rows of all samples, and their Jacobian as maps; the rows are linearised once for all products.

    Args:
        rows: The residual; it must have a forward rule.
        columns: Real parts of the parameters, n numbers.
        samples: b samples; or the whole batch as one.
        chunk_size: Samples that are differentiated at once. The intermediate values of all others are
            computed anew for every product, not kept. None: all are kept. Without meaning where the residual
            takes the whole batch.
        dtype: Dtype of the vectors that the maps take and return.

    Returns:
        Rows (m,) in the dtype of `rows`, and the maps, in the order of rows of `stacked_jacobian`.
    """

    def all_rows(columns: tuple[Array, ...]) -> Array:
        if samples.size is None:
            return rows.evaluate(columns, ())

        def one_sample(entries: tuple[Any, ...]) -> Array:
            return rows.evaluate(columns, entries)

        is_chunked = chunk_size is not None and chunk_size < samples.size
        fun = jax.checkpoint(one_sample) if is_chunked else one_sample
        return _map(fun, samples.mapped, samples.size, chunk_size).reshape(-1)

    y, push = jax.linearize(all_rows, columns)
    pull = jax.linear_transpose(push, columns)
    ends = np.cumsum([part.size for part in columns])[:-1]

    def matvec(v: Array) -> Array:
        tangents = tuple(
            piece.reshape(part.shape).astype(part.dtype)
            for piece, part in zip(jnp.split(v, ends), columns, strict=True)
        )
        return push(tangents).astype(dtype)

    def rmatvec(u: Array) -> Array:
        (parts,) = pull(u.astype(y.dtype))
        return jnp.concatenate([part.ravel().astype(dtype) for part in parts])

    return y, LinearMaps(matvec, rmatvec)


def _reverse(
    rows: Rows,
    columns: tuple[Array, ...],
    entries: tuple[Any, ...],
    dtype: Any,
    chunk_size: int | None,
) -> tuple[Float[Array, " r"], Float[Array, "r n"]]:
    row, y = _pullbacks(rows, columns, entries, dtype)
    return y, _map(row, jnp.arange(y.size), y.size, chunk_size)


def _forward(
    rows: Rows,
    columns: tuple[Array, ...],
    entries: tuple[Any, ...],
    dtype: Any,
    chunk_size: int | None,
) -> tuple[Float[Array, " r"], Float[Array, "r n"]]:
    column, y = _pushes(rows, columns, entries, dtype)
    size = sum(part.size for part in columns)
    return y, _map(column, jnp.arange(size), size, chunk_size).T


def _pullbacks(
    rows: Rows, columns: tuple[Array, ...], entries: tuple[Any, ...], dtype: Any
) -> tuple[Callable[[Array], Array], Float[Array, " r"]]:
    """``i -> row i of J``, zero where there is none, and the rows."""
    y, pullback = jax.vjp(lambda columns: rows.evaluate(columns, entries), columns)

    def row(index: Array) -> Array:
        (parts,) = pullback(jax.nn.one_hot(index, y.size, dtype=y.dtype))
        return jnp.concatenate([part.ravel().astype(dtype) for part in parts])

    return row, y


def _pushes(
    rows: Rows, columns: tuple[Array, ...], entries: tuple[Any, ...], dtype: Any
) -> tuple[Callable[[Array], Array], Float[Array, " r"]]:
    """``i -> column i of J``, zero where there is none, and the rows."""
    y, push = jax.linearize(lambda columns: rows.evaluate(columns, entries), columns)
    sizes = [part.size for part in columns]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]

    def column(index: Array) -> Array:
        # one_hot is all zero for an index outside its range: the other parts' tangents.
        tangents = tuple(
            jax.nn.one_hot(index - start, part.size, dtype=part.dtype).reshape(part.shape)
            for start, part in zip(starts, columns, strict=True)
        )
        return push(tangents).astype(dtype)

    return column, y


def _map(fun: Any, xs: Any, size: int | None, chunk_size: int | None) -> Any:
    if chunk_size is None or size is None or chunk_size >= size:
        return jax.vmap(fun)(xs)
    return jax.lax.map(fun, xs, batch_size=chunk_size)
