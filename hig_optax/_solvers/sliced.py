"""The direction by the Gram matrix of a J that is never held: only slices of it are, one or two at a time."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hig_optax._devices.devices import Devices
from hig_optax._float64 import Wide, float64_island, power_of_two
from hig_optax._jacobian.blocks import Blocks, Dense, Outer
from hig_optax._jacobian.shares import ColumnShare
from hig_optax._jacobian.slices import (
    Slices,
    assemble_across,
    assemble_along,
    product,
    sums_across,
    sums_along,
    transposed_product,
)
from hig_optax._solvers.direction import Direction, Scaling, carried_on, cosine, decompose
from hig_optax._solvers.gram import ColumnGram, RowGram
from hig_optax._types import Known, Scalar


@dataclasses.dataclass(frozen=True)
class SlicedJacobian:
    """J, (m, n), of which some columns are held as outer products and the others come in slices."""

    slices: Slices
    """The columns that are not held."""

    by_rows: bool
    """Whether the slices are rows of J. Otherwise they are columns, rows of Jᵀ, and there is no more."""

    shape: tuple[int, int]
    """(m, n)."""

    dtype: Any
    """Dtype of J."""

    held: tuple[tuple[slice, Dense | Outer], ...] = ()
    """The blocks that are held, and the columns that each stands for. Only with slices of rows, m <= n."""

    devices: Devices | None = None
    """Those that share it: then the slices are of this one's share of the columns that are not factored, and
    the held blocks, all factored, are of its own samples."""

    @property
    def blocks(self) -> Blocks | ColumnShare | None:
        """What is held, side by side."""
        if not self.held:
            return None
        if self.devices is None:
            return Blocks(tuple(block for _, block in self.held))
        outers = [block for _, block in self.held if isinstance(block, Outer)]
        assert len(outers) == len(self.held)
        return ColumnShare.of_outers(outers, self.devices, rows=self.shape[0])

    def parts(self, x: Float[Array, "n k"]) -> tuple[Array, Array]:
        """What belongs to the held columns, and what to those of the slices."""
        is_held = self._is_held()
        held, others = x[np.flatnonzero(is_held)], x[np.flatnonzero(~is_held)]
        if self.devices is not None:
            others = self.devices.own(others, length=self.slices.length)
        return held, others

    def joined(self, held: Float[Array, "h k"], others: Float[Array, "q k"]) -> Array:
        """The inverse of `parts`."""
        is_held = self._is_held()
        if self.devices is not None:
            others = self.devices.whole(others, size=self.shape[1] - held.shape[0])
        order = np.argsort(np.concatenate([np.flatnonzero(is_held), np.flatnonzero(~is_held)]))
        return jnp.concatenate([held, others])[order]

    def _is_held(self) -> np.ndarray:
        is_held = np.zeros(self.shape[1], bool)
        for columns, _ in self.held:
            is_held[columns] = True
        return is_held


def sliced_direction(
    J: SlicedJacobian,
    gradient: Float[Array, " n"],
    cotangent: Float[Array, " m"] | None,
    *,
    exponent: Scalar,
    rtol: Scalar,
    atol: Scalar,
    damping: Scalar,
    max_rank: int | None,
    scaling: Scaling | None = None,
) -> Direction:
    """As `half_inverse_direction` with ``solver="gram"``, equal to it but for rounding in float64.

    A first pass over the slices sums up the Gram matrix of the shorter side and the images of the vectors
    that the direction asks about. On the row side a second one makes the direction of the vector w of which
    it is the image Jᵀw. That is not left to one pullback of w in the dtype of J: w is large where singular
    values are small, and in Jᵀw those parts cancel.

    Args:
        J: The Jacobian.
        gradient: As in `half_inverse_direction`, and so are all others.
        cotangent: ∂loss/∂rows.
        exponent: κ.
        rtol: Relative cut.
        atol: Absolute cut.
        damping: λ.
        max_rank: Largest number of kept singular values.
        scaling: For a step of its own length.

    Returns:
        As `half_inverse_direction`.
    """
    settings = tuple(jnp.asarray(x, J.dtype) for x in (exponent, rtol, atol, damping))
    eps = float(jnp.finfo(J.dtype).eps)
    find = _by_rows if J.shape[0] <= J.shape[1] else _by_columns
    keywords: dict[str, Any] = {"max_rank": max_rank, "solver": "gram", "data_eps": eps}
    return carried_on(find(J, gradient, cotangent, scaling, settings, keywords), scaling)


def _by_rows(
    J: SlicedJacobian,
    gradient: Array,
    cotangent: Array | None,
    scaling: Scaling | None,
    settings: tuple,
    keywords: dict[str, Any],
) -> Direction:
    rows = J.shape[0]
    previous = None if scaling is None else scaling.previous
    asked = [x for x in (gradient if cotangent is None else None, previous) if x is not None]
    X = _side_by_side(asked, J.shape[1], J.dtype)
    X_held, X_others = J.parts(X)
    sums = (sums_along if J.by_rows else sums_across)(J.slices, X_others)

    def compute(
        sums: tuple,
        held: Blocks | ColumnShare | None,
        X_held: Array,
        vectors: tuple,
        settings: tuple,
    ) -> tuple[Direction, Wide]:
        gram, images, unit = _assembled(sums, rows if J.by_rows else None)
        if J.devices is not None:
            larger = J.devices.largest(unit)
            ratio = unit / larger
            gram, images = J.devices.sum((jnp.square(ratio) * gram, ratio * images))
            unit = larger
        if held is not None:
            # `where` and not `maximum`, which would prefer the larger of a number and NaN on some backends.
            of_held = power_of_two(held.largest())[0]
            larger = jnp.where(of_held > unit, of_held, unit)
            larger = jnp.where(jnp.isfinite(of_held), larger, of_held)
            ratio, held = unit / larger, held.divided(larger)
            gram = jnp.square(ratio) * gram + held.gram()
            more = [held.matvec(X_held[:, i]) for i in range(X_held.shape[1])]
            images = ratio * images + _side_by_side(more, rows, images.dtype)
            unit = larger
        gradient, cotangent, scaling = vectors
        image = iter(images.T)
        known = (
            Known(gradient, next(image) if cotangent is None else None),
            None if cotangent is None else Known(cotangent),
            None if previous is None else Known(scaling.previous, next(image)),
        )
        found = decompose(RowGram(gram, unit), known, scaling, settings, **keywords)
        # Beside the vector that makes the direction, the one that makes what the gradient is compared with.
        W = [found.direction] if cotangent is None else [found.direction, cotangent]
        return found, Wide(jnp.stack(W, axis=1))

    vectors = (gradient, cotangent, scaling)
    found, W = float64_island(compute)(sums, J.blocks, X_held, vectors, settings)
    pulled = (transposed_product if J.by_rows else product)(J.slices, W)

    def finish(
        pulled: Array, held: Blocks | ColumnShare | None, W: Array, gradient: Array
    ) -> tuple[Array, Array | None]:
        if held is not None or J.devices is not None:
            of_held = [] if held is None else [held.rmatvec(w) for w in W.T]
            pulled = J.joined(jnp.stack(of_held, axis=1) if of_held else pulled[:0], pulled)
        agreement = cosine(gradient, pulled[:, 1]) if W.shape[1] > 1 else None
        return pulled[:, 0], agreement

    direction, agreement = float64_island(finish)(pulled, J.blocks, W, gradient)
    return found._replace(direction=direction, agreement=agreement)


def _by_columns(
    J: SlicedJacobian,
    gradient: Array,
    cotangent: Array | None,
    scaling: Scaling | None,
    settings: tuple,
    keywords: dict[str, Any],
) -> Direction:
    W = _side_by_side([] if cotangent is None else [cotangent], J.shape[0], J.dtype)
    sums = (sums_across if J.by_rows else sums_along)(J.slices, W)

    def compute(sums: tuple, vectors: tuple, settings: tuple) -> Direction:
        gram, images, unit = _assembled(sums, None if J.by_rows else J.shape[1])
        gradient, cotangent, scaling = vectors
        previous = None if scaling is None else scaling.previous
        known = (
            Known(gradient),
            None if cotangent is None else Known(cotangent, images[:, 0]),
            None if previous is None else Known(previous),
        )
        return decompose(ColumnGram(gram, unit), known, scaling, settings, **keywords)

    return float64_island(compute)(sums, (gradient, cotangent, scaling), settings)


def _assembled(sums: tuple, size: int | None) -> tuple[Array, Array, Array]:
    """Gram matrix, images and unit: of sums along slices that have `size` rows, or across them."""
    return assemble_across(*sums) if size is None else assemble_along(*sums, size=size)


def _side_by_side(vectors: Sequence[Array], size: int, dtype: Any) -> Float[Array, "size k"]:
    return jnp.stack(vectors, axis=1) if vectors else jnp.zeros((size, 0), dtype)
