"""J in strips that are differentiated anew whenever they are asked for."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from hig_optax._jacobian.differentiate import (
    Differentiator,
    even,
    take_samples,
)
from hig_optax._jacobian.layout import Layout, columns_of
from hig_optax._jacobian.leaves import Chunked
from hig_optax._jacobian.parts import written
from hig_optax._jacobian.strips import Strips, stacked


def chunked(layout: Layout) -> Chunked:
    """The parts that stay in no factors, chunk by chunk."""
    way, chunk_size = layout.ways[0], layout.chunk_size
    assert chunk_size is not None
    if len(layout.ways) == 1 and way.block.samples.size is None:
        are_rows = way.mode == "reverse"
        one, _ = way.pullbacks(()) if are_rows else way.pushes(())
        size, length = layout.shape if are_rows else layout.shape[::-1]
        height = even(size, chunk_size)

        def take(i: Array) -> Array:
            return jax.vmap(one)(i * height + jnp.arange(height, dtype=jnp.int32))

        strips = Strips.even(take, height=height, size=size, length=length)
        return Chunked(strips, are_rows, layout.dtype)
    most = chunk_size * max(
        [w.block.rows.view.size for w in layout.ways if w.block.samples.size], default=1
    )
    counts = [_count(w, most) for w in layout.ways]
    height = max(
        count * (w.block.rows.view.size if w.block.samples.size else 1)
        for w, count in zip(layout.ways, counts, strict=True)
    )
    each = [
        _strips(w, layout.plain, count, height)
        for w, count in zip(layout.ways, counts, strict=True)
    ]
    return Chunked(stacked(each), are_rows=True, of=layout.dtype)


def _count(way: Differentiator, most: int) -> int:
    """Samples of a strip of at most so many rows; rows, where the block takes its whole batch."""
    size = way.block.samples.size
    if size is None:
        return even(way.block.size, most)
    return even(size, max(1, most // way.block.rows.view.size))


def _strips(way: Differentiator, parts: Sequence[int], count: int, height: int) -> Strips:
    """The rows of a block, those of so many samples in a strip."""
    block, samples = way.block, way.block.samples
    length = sum(way.columns[i].size for i in parts)
    if samples.size is None:
        number, rows = -(-block.size // count), count
        if way.mode == "reverse":
            one, _ = way.pullbacks(())
            wanted = columns_of(way.columns, parts)

            def strip(i: Array) -> Array:
                return jax.vmap(one)(i * count + jnp.arange(count, dtype=jnp.int32))[:, wanted]
        else:  # columns come whole, so that rows are taken from what is held
            J = written([way.whole_batch(None)], parts)
            J = jnp.pad(J, ((0, number * count - block.size), (0, 0)))

            def strip(i: Array) -> Array:
                return jax.lax.dynamic_slice_in_dim(J, i * count, count)
    else:
        total: int = samples.size
        number, rows = -(-total // count), count * block.rows.view.size

        def strip(i: Array) -> Array:
            index = i * count + jnp.arange(count, dtype=jnp.int32)
            J = way.samples(take_samples(samples, index), parts).side_by_side()
            is_real = jnp.repeat(index < total, block.rows.view.size)
            return jnp.where(is_real[:, None], J, 0)

    def take(i: Array) -> Array:
        return jnp.pad(strip(i), ((0, height - rows), (0, 0)))

    places = np.concatenate([k * height + np.arange(rows) for k in range(number)])
    return Strips(take, height, number, length, places[: block.own_size].astype(np.int32))
