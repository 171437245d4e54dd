"""Rows and Jacobian of a batch: what J is made of is decided here, and nowhere else."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hig_optax._devices.devices import Devices
from hig_optax._jacobian.algebra import Beside, Chunked, Dense, Jacobian
from hig_optax._jacobian.choices import (
    choose_jacobian,
    may_be_held,
    refuse_custom_vjp,
    refuse_forward_only,
)
from hig_optax._jacobian.differentiate import (
    Derivative,
    Differentiator,
    even,
    products,
    take_samples,
)
from hig_optax._jacobian.outer import Outer
from hig_optax._jacobian.rows import Residual
from hig_optax._jacobian.shared import SharedColumns, SharedOuter, SharedRows
from hig_optax._jacobian.strips import Strips, stacked
from hig_optax._jacobian.taps import find_taps
from hig_optax._types import JacobianMode

# Columns of a matrix that are as many entries of J as this lie in memory by themselves: to put them beside
# the others would copy them.
APART = 2**18


class Layout(NamedTuple):
    """How J is to be had."""

    residual: Residual
    columns: tuple[Array, ...]
    ways: tuple[Differentiator, ...]
    """Of each block of rows."""
    kept: tuple[int, ...]
    """Column parts that stay in factors."""
    plain: tuple[int, ...]
    """All others."""
    chunk_size: int | None
    dtype: Any
    is_condensed: bool
    """Whether J is wanted for its Gram matrix alone."""

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n), with the rows of all devices."""
        return self.residual.size, sum(part.size for part in self.columns)

    @property
    def by_rows(self) -> bool:
        """Whether J has no more rows than columns."""
        m, n = self.shape
        return m <= n

    @property
    def number(self) -> int:
        """What `chunk_size` counts: samples, or rows or columns of J where there is one block without."""
        samples = [block.samples.size for block in self.residual.blocks]
        if samples == [None]:
            return self.shape[self.ways[0].mode == "forward"]
        return max(size or 1 for size in samples)

    @property
    def is_held(self) -> bool:
        """Whether what stays in no factors is formed once."""
        size = sum(self.columns[i].size for i in self.plain)
        is_whole = self.chunk_size is None or self.chunk_size >= self.number
        return not self.is_condensed or is_whole or may_be_held(self.shape, columns=size)

    def columns_of(self, parts: Sequence[int]) -> np.ndarray:
        """Numbers of the columns of some parts."""
        return columns_of(self.columns, parts)


def columns_of(columns: tuple[Array, ...], parts: Sequence[int]) -> np.ndarray:
    """Numbers of the columns of some parts."""
    ends = np.cumsum([part.size for part in columns])
    spans = [np.arange(ends[i] - columns[i].size, ends[i]) for i in parts]
    return np.concatenate(spans).astype(np.int32)


def lay_out(
    residual: Residual,
    columns: tuple[Array, ...],
    *,
    jacobian: JacobianMode,
    chunk_size: int | None,
    dtype: Any,
    is_condensed: bool,
) -> Layout:
    """Choose how each block is differentiated, and which parts stay in factors.

    Args:
        residual: The rows.
        columns: Real parts of the parameters, n numbers.
        jacobian: What the user asked for.
        chunk_size: As in `scale_by_hig`.
        dtype: Dtype of J.
        is_condensed: Whether J is wanted for its Gram matrix alone.
    """
    n = sum(part.size for part in columns)
    ways = []
    for block in residual.blocks:
        r = block.rows.view.size
        mode = choose_jacobian(
            jacobian,
            rows=r,
            columns=n,
            has_custom_vjp=block.rows.has_custom_vjp,
            is_forward_only=block.rows.is_forward_only,
        )
        tapped = None
        if mode == "reverse" and block.samples.size is not None:
            tapped = find_taps(block.rows.evaluate, columns, block.samples.example)
        ways.append(Differentiator(block, columns, mode, dtype, tapped))
    kept: set[int] = set()
    if is_condensed and residual.size <= n:
        kept = set.intersection(*({*_may_be_kept(way)} for way in ways))
    ways = [dataclasses.replace(way, kept=frozenset(kept)) for way in ways]
    plain = tuple(i for i in range(len(columns)) if i not in kept)
    return Layout(
        residual,
        columns,
        tuple(ways),
        kept=tuple(sorted(kept)),
        plain=plain,
        chunk_size=chunk_size,
        dtype=dtype,
        is_condensed=is_condensed,
    )


def _may_be_kept(way: Differentiator) -> list[int]:
    tapped = way.tapped
    if tapped is None:
        return []
    return [i for i in tapped.matrices if tapped.may_stay_factored(i, way.columns[i].shape)]


def form(layout: Layout) -> tuple[Float[Array, " m"], Jacobian]:
    """Rows and J, for a solver that decomposes it: held, in factors, or in chunks."""
    if layout.residual.spread is not None:
        return _shared(layout)
    if layout.is_held:
        y, found = _derivatives(layout, layout.kept + layout.plain)
        return y, _beside(_outers(found, layout) + _dense(found, layout))
    parts: Parts = []
    if layout.kept:
        y, found = _derivatives(layout, layout.kept)
        parts += _outers(found, layout)
    else:
        y = layout.residual.own(layout.columns, layout.chunk_size)
    if layout.plain:
        parts.append((_chunked(layout), layout.columns_of(layout.plain)))
    return y, _beside(parts)


def form_products(
    residual: Residual, columns: tuple[Array, ...], *, chunk_size: int | None, dtype: Any
) -> tuple[Float[Array, " m"], Jacobian]:
    """Rows, and the products with J, of which nothing is formed."""
    if residual.has_custom_vjp:
        refuse_custom_vjp()
    if residual.is_forward_only:
        refuse_forward_only()
    y, J = products(residual, columns, chunk_size=chunk_size, dtype=dtype)
    if residual.spread is None:
        return y, J
    return residual.spread.gather(y), SharedRows(J, residual.spread)


Parts = list[tuple[Jacobian, np.ndarray]]
"""Matrices side by side, and which columns of J each of them is."""


def _beside(parts: Parts) -> Jacobian:
    found, columns = zip(*parts, strict=True)
    if len(found) == 1 and np.array_equal(columns[0], np.arange(columns[0].size)):
        return found[0]
    return Beside(found, columns)


def _derivatives(layout: Layout, parts: Sequence[int]) -> tuple[Array, list[Derivative]]:
    """The rows of this device, and what is asked for of their derivatives, block by block."""
    found = []
    for way in layout.ways:
        if way.block.samples.size is None:
            found.append(way.whole_batch(layout.chunk_size))
        else:
            found.append(way.samples(way.block.samples.mapped, parts, layout.chunk_size))
    dtype = layout.residual.dtype
    return jnp.concatenate([d.y.astype(dtype) for d in found]), found


def _outers(found: list[Derivative], layout: Layout) -> Parts:
    return [
        (Outer(tuple(d.factors[i] for d in found)), layout.columns_of([i])) for i in layout.kept
    ]


def _dense(found: list[Derivative], layout: Layout) -> Parts:
    m, apart = layout.residual.size, []
    if layout.by_rows and layout.is_condensed:  # written out, they have to lie beside the others
        apart = [i for i in layout.plain if m * layout.columns[i].size >= APART]
    rest = [i for i in layout.plain if i not in apart]
    groups = [[i] for i in apart] + ([rest] if rest else [])
    return [(Dense(_written(found, group)), layout.columns_of(group)) for group in groups]


def _written(found: list[Derivative], parts: Sequence[int]) -> Float[Array, "r size"]:
    return jnp.concatenate([jnp.concatenate([d.dense[i] for i in parts], axis=1) for d in found])


def _chunked(layout: Layout) -> Chunked:
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
            J = _written([way.whole_batch(None)], parts)
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


def _shared(layout: Layout) -> tuple[Float[Array, " m"], Jacobian]:
    """Rows and J over devices: by columns where it has at least as many of them as rows, else by samples."""
    spread, residual = layout.residual.spread, layout.residual
    assert spread is not None
    in_chunks = layout.chunk_size is not None and layout.chunk_size < layout.number
    if not layout.by_rows:
        y, found = _derivatives(layout, layout.plain)
        own = []
        for way, d in zip(layout.ways, found, strict=True):
            is_padding = spread.over.is_padding(way.block.samples.size or 1, way.block.total or 1)
            rows = jnp.repeat(is_padding, way.block.rows.view.size)
            own.append(jnp.where(rows[:, None], 0, _written([d], layout.plain)))
        return spread.gather(y), SharedRows(Dense(jnp.concatenate(own)), spread)
    parts: Parts = []
    if in_chunks:
        y = residual.own(layout.columns, layout.chunk_size)
        found = _derivatives(layout, layout.kept)[1] if layout.kept else []
    else:
        y, found = _derivatives(layout, layout.kept + layout.plain)
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
                piece = spread.over.exchanged(_written([found[i]], layout.plain))
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
    return spread.gather(y), _beside(parts)


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
