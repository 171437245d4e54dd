"""The Jacobian of the stacked rows, row block by row block."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hig_optax._batch import Samples
from hig_optax._residual import Rows


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


def _reverse(
    rows: Rows,
    columns: tuple[Array, ...],
    entries: tuple[Any, ...],
    dtype: Any,
    chunk_size: int | None,
) -> tuple[Float[Array, " r"], Float[Array, "r n"]]:
    y, pullback = jax.vjp(lambda columns: rows.evaluate(columns, entries), columns)

    def row(index: Array) -> Array:
        (parts,) = pullback(jax.nn.one_hot(index, y.size, dtype=y.dtype))
        return jnp.concatenate([part.ravel().astype(dtype) for part in parts])

    return y, _map(row, jnp.arange(y.size), y.size, chunk_size)


def _forward(
    rows: Rows,
    columns: tuple[Array, ...],
    entries: tuple[Any, ...],
    dtype: Any,
    chunk_size: int | None,
) -> tuple[Float[Array, " r"], Float[Array, "r n"]]:
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

    return y, _map(column, jnp.arange(sum(sizes)), sum(sizes), chunk_size).T


def _map(fun: Any, xs: Any, size: int, chunk_size: int | None) -> Any:
    if chunk_size is None or chunk_size >= size:
        return jax.vmap(fun)(xs)
    return jax.lax.map(fun, xs, batch_size=chunk_size)
