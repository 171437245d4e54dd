"""What the steps of the method hand to one another, and what the state reports."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from hig_optax._shown import named, short, table, there, unpadded

Tree = Any
"""Any nesting of containers that JAX knows, with arrays for leaves."""

ResidualFn = Callable[[Tree, Tree], Tree]
"""``(params, sample) -> rows``: the rows of one sample, or of the whole batch."""

ResidualFns = ResidualFn | Mapping[str, ResidualFn]
"""One residual, or one for each block of rows, with a batch of its own."""

LossFn = Callable[[Tree, Tree], jax.Array]
"""``(rows, batch) -> scalar``: the loss of the rows of the whole batch."""

Solver = Literal["auto", "svd", "gram", "krylov"]
JacobianMode = Literal["auto", "reverse", "forward"]
BadSamples = Literal["refuse", "drop"]
Scalar = float | jax.Array
Count = int | jax.Array
Rate = Scalar | Callable[[Any], Any]
"""A learning rate, or a schedule: ``number of updates -> learning rate``."""
AxisName = str | tuple[str, ...] | None
"""Axes of a mesh."""


class Spectrum(NamedTuple):
    """What a step saw of its Jacobian J = U Σ Vᵀ, and how much of the gradient it kept.

    Shapes and dtypes never change from step to step, so the state can be the carry of a scan. Real
    numbers have the real dtype of the parameters, at least float32. After a step that was not finite
    the rank is 0 and every real number NaN.

    Example:
        >>> import hig_optax, jax.numpy as jnp, optax
        >>> residual_fn = lambda w, x: jnp.stack([2 * w[0], 1e-3 * w[1]]) * x
        >>> opt = hig_optax.hig(1.0, residual_fn, rtol=1e-2)
        >>> w, batch = jnp.ones(2), jnp.ones(1)
        >>> _, state = opt.update(jnp.array([3.0, 4.0]), opt.init(w), w, batch=batch)
        >>> seen = optax.tree.get(state, "spectrum")
        >>> int(seen.rank), float(seen.singular_values[0]), round(float(seen.gradient_kept), 2)
        (1, 2.0, 0.36)
    """

    singular_values: Float[Array, " spectrum_size"]
    """The largest singular values of J, descending, padded with zeros. Unit: row per parameter. With
    ``solver="krylov"`` its Ritz values: the largest ones are good to all digits, the others lie between."""

    rank: Int[Array, ""]
    """How many singular values were kept: those above `cutoff`, at most `max_rank`. int32. -1 where that is
    not known: `adaptive_hig` solves for its step without a decomposition on batches of 256 samples and
    more, and on batches that stay the same where both sides of J are longer than 128. Singular values,
    cutoff and shares are 0 then, `condition` a lower bound."""

    cutoff: Float[Array, ""]
    """The cut that was used, in the unit of the singular values: the largest of rtol·σ₁, atol and
    the solver's noise floor."""

    full_rank: Int[Array, ""]
    """How many singular values there were to keep: the length of the shorter side of J; with
    ``solver="krylov"`` the dimension of its subspace. int32, 0 before the first step."""

    condition: Float[Array, ""]
    """σ₁ over the smallest kept singular value; at rank 0 inf, or the largest float32 in a step compiled
    under ``jax_debug_infs``."""

    gradient_kept: Float[Array, ""]
    """Share in [0, 1] of the gradient's squared norm that lies in the kept directions, damping left
    aside; 1 for a zero gradient. With `loss_fn` the gradient is Jᵀ ∂loss/∂rows."""

    gradient_cosine: Float[Array, ""]
    """With `loss_fn`, and always in `adaptive_hig`: cosine between the incoming gradient and
    Jᵀ ∂loss/∂rows, 1 when the loss that was differentiated outside is the same. Two zero vectors agree (1),
    one zero vector does not (0). Elsewhere there is nothing to compare: NaN, or 0 in a step compiled under
    ``jax_debug_nans``."""

    unsettled: Float[Array, ""]
    """With ``solver="krylov"``, a share in [0, 1]: what the second half of `num_matvecs` has brought of the
    decrease that the linearised rows promise at the direction's best length, and with `loss_fn` at most what
    is left of the loss then. Twice as many products would add about as much or less, with the same damping:
    below some 0.05 fewer would do; above 0.3 there is much to be had, though a step may not be worth it. 0
    where the subspace is exhausted, and for solvers that decompose J itself."""

    block_shares: dict[str, Float[Array, ""]]
    """Where `residual_fn` is a dict of blocks: how much of the captured gradient x comes through the rows of
    each block, ‖(U Vᵀx)_block‖² / ‖Vᵀx‖² with the kept U and V. They sum to 1, or to 0 for a zero gradient.
    Of blocks that depend on different parameters they are the shares of x there. Otherwise empty."""

    is_finite: Bool[Array, ""]
    """False if rows, Jacobian, gradient, traced settings or update held NaN or inf; the update was then
    zero."""

    num_bad_samples: Int[Array, ""]
    """How many samples of the batch have rows or derivatives that are NaN or inf, int32, those of all blocks
    and devices together. (Of a residual that takes the whole batch: how many rows. Where it has no forward
    rule, only the rows themselves are looked at.) With ``bad_samples="drop"`` the step left them out; with
    ``"refuse"`` the update was zero. 0 beside a false `is_finite`: the NaN is elsewhere."""

    def __repr__(self) -> str:
        rank, full = short(self.rank), short(self.full_rank)
        is_known = there(self.full_rank) is not None and np.ndim(self.full_rank) == 0
        return named(
            self,
            singular_values=short(unpadded(self.singular_values)),
            rank=f"{rank} of {full}" if is_known else rank,
            full_rank="" if is_known else full,
            block_shares=short(self.block_shares) if self.block_shares else "",
        )

    def _repr_html_(self) -> str:
        texts = {name: short(value) for name, value in self._asdict().items()}
        texts["singular_values"] = short(unpadded(self.singular_values))
        return table((), list(texts.items()), "Spectrum")
