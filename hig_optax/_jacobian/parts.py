"""What is differentiated once and held: derivatives of all blocks, in factors or written out."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hig_optax._jacobian.algebra import Jacobian
from hig_optax._jacobian.beside import Beside
from hig_optax._jacobian.differentiate import Derivative
from hig_optax._jacobian.layout import Layout
from hig_optax._jacobian.leaves import Dense
from hig_optax._jacobian.outer import Outer

# Columns of a matrix that are as many entries of J as this lie in memory by themselves: to put them beside
# the others would copy them.
APART = 2**18


Parts = list[tuple[Jacobian, np.ndarray]]
"""Matrices side by side, and which columns of J each of them is."""


def beside(parts: Parts) -> Jacobian:
    """J of its parts; of one that is all of it, that."""
    found, columns = zip(*parts, strict=True)
    if len(found) == 1 and np.array_equal(columns[0], np.arange(columns[0].size)):
        return found[0]
    return Beside(found, columns)


def derivatives(layout: Layout, parts: Sequence[int]) -> tuple[Array, list[Derivative]]:
    """The rows of this device, and what is asked for of their derivatives, block by block."""
    found = []
    for way in layout.ways:
        if way.block.samples.size is None:
            found.append(way.whole_batch(layout.chunk_size))
        else:
            found.append(way.samples(way.block.samples.mapped, parts, layout.chunk_size))
    dtype = layout.residual.dtype
    return jnp.concatenate([d.y.astype(dtype) for d in found]), found


def outers(found: list[Derivative], layout: Layout) -> Parts:
    """The parts that stay in factors."""
    return [
        (Outer(tuple(d.factors[i] for d in found)), layout.columns_of([i])) for i in layout.kept
    ]


def dense(found: list[Derivative], layout: Layout) -> Parts:
    """All others, written out."""
    m, apart = layout.residual.size, []
    if layout.by_rows and layout.is_condensed:  # written out, they have to lie beside the others
        apart = [i for i in layout.plain if m * layout.columns[i].size >= APART]
    rest = [i for i in layout.plain if i not in apart]
    groups = [[i] for i in apart] + ([rest] if rest else [])
    return [(Dense(written(found, group)), layout.columns_of(group)) for group in groups]


def written(found: list[Derivative], parts: Sequence[int]) -> Float[Array, "r size"]:
    """These columns of all blocks."""
    return jnp.concatenate([jnp.concatenate([d.dense[i] for i in parts], axis=1) for d in found])
