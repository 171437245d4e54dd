"""The report on a step, in shapes and dtypes that never change."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from hig_optax._solvers.formula import Direction
from hig_optax._types import Spectrum


def blank(size: int, dtype: Any, blocks: tuple[str, ...]) -> Spectrum:
    """The report before the first step, on a residual with these blocks of rows: zeros, and finite."""
    # One buffer per field: a state whose fields share one could not be donated.
    return Spectrum(
        singular_values=jnp.zeros((size,), dtype),
        rank=jnp.zeros((), jnp.int32),
        full_rank=jnp.zeros((), jnp.int32),
        cutoff=jnp.zeros((), dtype),
        condition=jnp.zeros((), dtype),
        gradient_kept=jnp.zeros((), dtype),
        gradient_cosine=jnp.zeros((), dtype),
        unsettled=jnp.zeros((), dtype),
        block_shares={name: jnp.zeros((), dtype) for name in blocks},
        is_finite=jnp.ones((), bool),
        num_bad_samples=jnp.zeros((), jnp.int32),
    )


def report(found: Direction, is_finite: Bool[Array, ""], size: int, dtype: Any) -> Spectrum:
    """What the state keeps of a direction: `size` singular values, real numbers in `dtype`."""
    assert found.num_bad is not None
    values = found.singular_values[:size]
    # Under jax_debug_nans the NaN that says "not measured" would stop every step of a loop that looks for
    # other NaNs.
    unmeasured = 0.0 if jax.config.jax_debug_nans else jnp.nan  # type: ignore[attr-defined]
    gradient_cosine = (
        jnp.full((), unmeasured) if found.gradient_cosine is None else found.gradient_cosine
    )

    def shown(x: Array) -> Array:
        return jnp.where(is_finite, x, jnp.nan).astype(dtype)

    return Spectrum(
        singular_values=shown(jnp.pad(values, (0, size - values.size))),
        rank=jnp.where(is_finite, found.rank, 0),
        full_rank=found.full_rank
        if found.full_rank is not None
        else jnp.int32(found.singular_values.size),
        cutoff=shown(found.cutoff),
        condition=shown(found.condition),
        gradient_kept=shown(found.gradient_kept),
        gradient_cosine=shown(gradient_cosine),
        unsettled=shown(found.unsettled),
        block_shares={name: shown(share) for name, share in found.block_shares.items()},
        is_finite=is_finite,
        num_bad_samples=found.num_bad,
    )


def refused_unless(is_finite: Bool[Array, ""], spectrum: Spectrum) -> Spectrum:
    """A report, and in its place that of a step which was not finite if what became of it is not."""

    def shown(x: Array) -> Array:
        return jnp.where(is_finite, x, jnp.nan) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(shown, spectrum)._replace(
        rank=jnp.where(is_finite, spectrum.rank, 0), is_finite=spectrum.is_finite & is_finite
    )
