"""Samples whose rows or derivatives are not finite: how many there are, and a batch without them."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from hig_optax._devices.devices import Devices
from hig_optax._eager import while_loop
from hig_optax._inputs.batch import by_block, replaced, sample_axes, split_batch
from hig_optax._inputs.settings import Settings
from hig_optax._jacobian.layout import Layout
from hig_optax._jacobian.rows import Residual
from hig_optax._types import Tree


def count_unless(
    is_finite: Bool[Array, ""],
    y: Float[Array, " m"],
    image_of: Callable[[], Float[Array, " k"]],
    residual: Residual,
    sketched: Residual | None = None,
) -> Int[Array, ""]:
    """How many samples are not finite, see `Spectrum.num_bad_samples`; 0 where it is known that all are.

    A sample's derivatives are finite where J times ones is: NaN or inf in a row of J is in that sum, so that
    nothing is differentiated once more.

    Args:
        is_finite: Whether all are.
        y: Rows.
        image_of: J times ones, of the same samples.
        residual: What y is of.
        sketched: What J is of, if not of the same rows.
    """

    def count(_: Array) -> Array:
        of_rows, of_image = _are_finite(residual, y), _are_finite(sketched or residual, image_of())
        bad = [jnp.sum(~(a & b), dtype=jnp.int32) for a, b in zip(of_rows, of_image, strict=True)]
        return sum(bad[1:], bad[0])

    # A loop that is entered only where there is something to count: batched, a conditional would always be.
    return while_loop(lambda n: n < 0, count, jnp.where(is_finite, jnp.int32(0), -1))


def _are_finite(residual: Residual, w: Float[Array, " m"]) -> list[Bool[Array, " b"]]:
    """Which samples (rows, where there are none) have finite entries in a vector of the row side."""
    pieces = jnp.split(jnp.isfinite(w), np.cumsum([block.size for block in residual.blocks])[:-1])
    return [
        jnp.all(piece.reshape(block.total or block.size, -1), axis=1)
        for piece, block in zip(pieces, residual.blocks, strict=True)
    ]


def without_bad(
    layout: Layout, settings: Settings, batch: Tree, devices: Devices | None
) -> tuple[Layout, Tree]:
    """The layout and the batch without the samples that are not finite.

    In their place stand copies of one that is, whose rows are multiplied away: shapes are known before
    values. Where no sample of a block is finite, there is none to copy, and the block is not finite.
    """
    is_kept = [way.are_finite(layout.chunk_size) for way in layout.ways]
    number = _sum_of_bad(layout, is_kept, devices)
    names = [block.name for block in layout.residual.blocks]
    filled = {
        name: own if axes is None else _filled(own, axes, kept, devices)
        for (name, own, axes), kept in zip(
            by_block(names, batch, settings.batch_axis), is_kept, strict=True
        )
    }
    batch = filled.get(None, filled)
    samples = split_batch(settings.blocks, batch, settings.batch_axis)
    ways = tuple(
        way.without(kept, samples[way.block.name])
        for way, kept in zip(layout.ways, is_kept, strict=True)
    )
    own = jnp.concatenate(
        [
            kept if block.samples.size is None else jnp.repeat(kept, block.rows.view.size)
            for block, kept in zip(layout.residual.blocks, is_kept, strict=True)
        ]
    )
    residual = dataclasses.replace(
        layout.residual,
        blocks=tuple(way.block for way in ways),
        num_dropped=number if devices is None else devices.sum(number),
        is_kept=layout.residual.gathered(own),
    )
    return layout._replace(residual=residual, ways=ways), batch


def _sum_of_bad(
    layout: Layout, is_kept: list[Bool[Array, " b"]], devices: Devices | None
) -> Int[Array, ""]:
    """How many of this device's samples are not kept, without those that repeat the last one."""
    number = jnp.int32(0)
    for block, kept in zip(layout.residual.blocks, is_kept, strict=True):
        bad = ~kept
        if devices is not None and block.samples.size is not None:
            bad &= ~devices.is_padding(block.samples.size, devices.samples_of(block.name))
        number += jnp.sum(bad, dtype=jnp.int32)
    return number


def _filled(
    batch: Tree, batch_axis: Tree, is_kept: Bool[Array, " b"], devices: Devices | None
) -> Tree:
    """A batch with copies of the first sample that is kept in place of those that are not."""
    leaves, treedef = jax.tree.flatten(batch, is_leaf=lambda x: x is None)
    first = jnp.argmax(is_kept)

    def fill(x: Array, axis: int) -> Array:
        samples = jnp.moveaxis(jnp.asarray(x), axis, 0)
        copied = samples[first]
        if devices is not None:
            copied = devices.one_of(copied, jnp.any(is_kept))
        return jnp.moveaxis(replaced(samples, is_kept, copied), 0, axis)

    axes = sample_axes(batch_axis, batch)
    filled = [x if axis is None else fill(x, axis) for x, axis in zip(leaves, axes, strict=True)]
    return jax.tree.unflatten(treedef, filled)
