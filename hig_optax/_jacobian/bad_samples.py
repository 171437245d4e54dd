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
        of_rows = _by_sample(residual, jnp.isfinite(y))
        of_image = _by_sample(sketched or residual, jnp.isfinite(image_of()))
        return jnp.sum(~(of_rows & of_image), dtype=jnp.int32)

    # A loop that is entered only where there is something to count: batched, a conditional would always be.
    return while_loop(lambda n: n < 0, count, jnp.where(is_finite, jnp.int32(0), -1))


def _by_sample(residual: Residual, marks: Bool[Array, " m"]) -> Bool[Array, " b"]:
    """Which samples of all blocks (rows, where there are none) have all of their rows marked."""
    pieces = jnp.split(marks, np.cumsum([block.size for block in residual.blocks])[:-1])
    return jnp.concatenate(
        [
            jnp.all(piece.reshape(block.total or block.size, -1), axis=1)
            for piece, block in zip(pieces, residual.blocks, strict=True)
        ]
    )


def without_bad(
    layout: Layout, settings: Settings, batch: Tree, devices: Devices | None
) -> tuple[Layout, Tree]:
    """The layout and the batch without the samples that are not finite.

    In their place stand copies of one that is, whose rows are multiplied away: shapes are known before
    values. Where no sample of a block is finite, there is none to copy, and the block is not finite.
    """
    is_kept = [way.are_finite(layout.chunk_size) for way in layout.ways]
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
    marks = layout.residual.gathered(own)
    residual = dataclasses.replace(
        layout.residual,
        blocks=tuple(way.block for way in ways),
        num_dropped=jnp.sum(~_by_sample(layout.residual, marks), dtype=jnp.int32),
        is_kept=marks,
    )
    return layout._replace(residual=residual, ways=ways), batch


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
