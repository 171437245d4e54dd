"""Rows and Jacobian of a batch whose samples are spread over devices."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hig_optax._devices.devices import Devices
from hig_optax._jacobian.algebra import Jacobian
from hig_optax._jacobian.differentiate import Differentiator, take_samples
from hig_optax._jacobian.layout import Layout
from hig_optax._jacobian.leaves import Dense
from hig_optax._jacobian.outer import Outer
from hig_optax._jacobian.parts import Parts, beside, derivatives, written
from hig_optax._jacobian.shared import SharedColumns, SharedOuter, SharedRows


def form_over_devices(layout: Layout) -> tuple[Float[Array, " m"], Jacobian]:
    """Rows and J over devices: by columns where it has at least as many of them as rows, else by samples."""
    spread, residual = layout.residual.spread, layout.residual
    assert spread is not None
    in_chunks = layout.chunk_size is not None and layout.chunk_size < layout.number
    if not layout.by_rows:
        y, found = derivatives(layout, layout.plain)
        own = []
        for way, d in zip(layout.ways, found, strict=True):
            is_padding = spread.over.is_padding(way.block.samples.size or 1, way.block.total or 1)
            rows = jnp.repeat(is_padding, way.block.rows.view.size)
            own.append(jnp.where(rows[:, None], 0, written([d], layout.plain)))
        return spread.gather(y), SharedRows(Dense(jnp.concatenate(own)), spread)
    parts: Parts = []
    if in_chunks:
        y = residual.own(layout.columns, layout.chunk_size)
        found = derivatives(layout, layout.kept)[1] if layout.kept else []
    else:
        y, found = derivatives(layout, layout.kept + layout.plain)
    parts += [
        (SharedOuter(Outer(tuple(d.factors[i] for d in found)), spread), layout.columns_of([i]))
        for i in layout.kept
    ]
    if layout.plain:
        pieces = []
        for i, way in enumerate(layout.ways):
            if in_chunks:
                piece = _exchanged(way, layout.plain, layout.chunk_size, spread.over)
            else:
                piece = spread.over.exchanged(written([found[i]], layout.plain))
            pieces.append(piece[: way.block.size])
        columns = layout.columns_of(layout.plain)
        # Strips are held beside J: where it is shared to save memory, an eighth of it at a time.
        most = max(64, layout.residual.size // 8)
        if in_chunks:
            r = max(way.block.rows.view.size for way in layout.ways)
            most = spread.over.number * (layout.chunk_size or 1) * r
        J = jnp.concatenate(pieces) if len(pieces) > 1 else pieces[0]
        share = Dense(J, most_rows=most)
        parts.append((SharedColumns(share, spread.over, columns.size), columns))
    return spread.gather(y), beside(parts)


def _exchanged(
    way: Differentiator, parts: Sequence[int], chunk_size: int | None, devices: Devices
) -> Float[Array, "M w"]:
    """This device's share of the columns, for the rows of all, from chunks of each one's rows.

    Each is written to its place at once: put side by side, they would have to be brought in order in a
    second copy of J.
    """
    size, r = way.block.samples.size, way.block.rows.view.size
    assert size is not None
    assert chunk_size is not None
    count = max(k for k in range(1, min(chunk_size, size) + 1) if size % k == 0)
    width = -(-sum(way.columns[i].size for i in parts) // devices.number)

    def step(i: Array, J: Array) -> Array:
        index = i * count + jnp.arange(count, dtype=jnp.int32)
        own = way.samples(take_samples(way.block.samples, index), parts).side_by_side()
        rows = devices.exchanged(own).reshape(devices.number, count * r, width)
        return jax.lax.dynamic_update_slice_in_dim(J, rows, i * count * r, 1)

    zeros = jnp.zeros((devices.number, size * r, width), way.dtype)
    J = jax.lax.fori_loop(np.int32(0), np.int32(size // count), step, zeros)
    return J.reshape(-1, width)
