"""Rows and Jacobian of a batch whose samples are spread over devices."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from hig_optax._devices.devices import Devices
from hig_optax._inputs.batch import Samples
from hig_optax._inputs.residual import Rows
from hig_optax._jacobian.blocks import Dense, Outer
from hig_optax._jacobian.differentiate import (
    LinearMaps,
    factored_jacobian,
    jacobian_slices,
    linear_maps,
    stacked_jacobian,
    stacked_rows,
)
from hig_optax._jacobian.shares import ColumnShare, RowShare
from hig_optax._jacobian.slices import Slices
from hig_optax._jacobian.taps import Tapped
from hig_optax._solvers.sliced import SlicedJacobian


def shared_jacobian(
    rows: Rows,
    columns: tuple[Array, ...],
    samples: Samples,
    devices: Devices,
    *,
    mode: Literal["reverse", "forward"],
    tapped: Tapped | None,
    chunk_size: int | None,
    dtype: Any,
    solver: Literal["svd", "gram"],
) -> tuple[Float[Array, " m"], ColumnShare | RowShare | SlicedJacobian]:
    """Rows of all samples and their Jacobian, of which each device differentiates its own samples.

    Args:
        rows: The residual.
        columns: Real parts of the parameters, n numbers.
        samples: This device's own samples.
        devices: Those that share the batch.
        mode: Reverse or forward.
        tapped: The residual with taps, where J is to be factored.
        chunk_size: Samples that are differentiated, and whose rows are exchanged, at once. None: all.
        dtype: Dtype of the Jacobian.
        solver: What it is for.

    Returns:
        Rows (m,), and J spread by columns where it has at least as many of them as rows, else by samples.
    """
    assert samples.size is not None
    m = devices.num_samples * rows.view.size
    n = sum(part.size for part in columns)
    keywords: dict[str, Any] = {"dtype": dtype, "chunk_size": chunk_size}
    if m > n:
        y, J = stacked_jacobian(rows, columns, samples, mode=mode, **keywords)
        is_padding = jnp.repeat(devices.is_padding(samples.size), rows.view.size)
        J = jnp.where(is_padding[:, None], 0, J)
        return devices.whole(y, size=m), RowShare(J, devices, m)

    in_chunks = chunk_size is not None and chunk_size < samples.size
    blocks: dict[int, Dense | Outer] = {}
    if tapped is not None:
        y, blocks = factored_jacobian(tapped, columns, samples, only_tapped=in_chunks, **keywords)
    elif in_chunks:
        y = stacked_rows(rows, columns, samples, chunk_size=chunk_size)
    else:
        y, J = stacked_jacobian(rows, columns, samples, mode=mode, **keywords)
        blocks = {0: Dense(J)}
    y = devices.whole(y, size=m)
    plain = [i for i in range(len(columns)) if i not in blocks]
    if not in_chunks or not plain:
        return y, _share(blocks, devices, m)

    assert chunk_size is not None
    height = max(k for k in range(1, chunk_size + 1) if samples.size % k == 0)
    own, _ = jacobian_slices(
        rows, columns, samples, mode=mode, parts=plain, chunk_size=height, dtype=dtype
    )
    J = _exchanged(own, devices, dtype)
    if solver == "svd":
        return y, ColumnShare(J, (), devices, m, sizes=(n,), is_outer=(False,))
    slices = _slices(J, height=devices.number * own.height, size=m)
    ends = np.cumsum([part.size for part in columns])
    held = tuple((slice(ends[i] - columns[i].size, ends[i]), x) for i, x in blocks.items())
    return y, SlicedJacobian(slices, True, (m, n), dtype, held, devices)


def _share(blocks: dict[int, Dense | Outer], devices: Devices, rows: int) -> ColumnShare:
    """Of what is written out some columns for the rows of all."""
    found = list(blocks.values())
    outers = tuple(block for block in found if isinstance(block, Outer))
    dense = [block.J for block in found if isinstance(block, Dense)]
    if not dense:
        return ColumnShare.of_outers(outers, devices, rows=rows)
    return ColumnShare(
        columns=devices.exchanged(jnp.concatenate(dense, axis=1)),
        outers=outers,
        devices=devices,
        rows=rows,
        sizes=tuple(block.size for block in found),
        is_outer=tuple(isinstance(block, Outer) for block in found),
    )


def _exchanged(own: Slices, devices: Devices, dtype: Any) -> Float[Array, "M w"]:
    """This device's share of the columns, for the rows of all, from slices of each one's rows.

    Each is written to its place at once: put side by side, they would have to be brought in order in a
    second copy of J.
    """
    width = -(-own.length // devices.number)

    def step(i: Array, J: Array) -> Array:
        rows = devices.exchanged(own.take(i)).reshape(devices.number, own.height, width)
        return jax.lax.dynamic_update_slice_in_dim(J, rows, i * own.height, 1)

    zeros = jnp.zeros((devices.number, own.size, width), dtype)
    J = jax.lax.fori_loop(np.int32(0), np.int32(own.number), step, zeros)
    return J.reshape(-1, width)


def _slices(J: Float[Array, "M w"], *, height: int, size: int) -> Slices:
    """The first rows of a matrix, in slices whose height divides that of all rows."""

    def take(i: Int[Array, ""]) -> Float[Array, "c w"]:
        rows = jax.lax.dynamic_slice_in_dim(J, i * height, height)
        if size == J.shape[0]:
            return rows
        index = i * height + jnp.arange(height, dtype=jnp.int32)
        return jnp.where(index[:, None] < size, rows, 0)

    return Slices(take, height, size, J.shape[1])


def shared_maps(
    rows: Rows,
    columns: tuple[Array, ...],
    samples: Samples,
    devices: Devices,
    *,
    chunk_size: int | None,
    dtype: Any,
) -> tuple[Float[Array, " m"], LinearMaps]:
    """As `linear_maps`, for the samples of all devices: vectors are whole, and alike on all of them."""
    m = devices.num_samples * rows.view.size
    y, own = linear_maps(rows, columns, samples, chunk_size=chunk_size, dtype=dtype)

    def matvec(v: Array) -> Array:
        return devices.whole(own.matvec(v), size=m)

    def rmatvec(u: Array) -> Array:
        return devices.sum(own.rmatvec(devices.own(u, length=y.size)))

    return devices.whole(y, size=m), LinearMaps(matvec, rmatvec)
