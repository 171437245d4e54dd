"""Steps on one batch: scaled half-inverse ones, and on one that is fixed or large accelerated ones."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from hig_optax._eager import cond
from hig_optax._float64 import norm
from hig_optax._inputs.columns import Columns
from hig_optax._inputs.settings import Settings
from hig_optax._jacobian.algebra import Jacobian
from hig_optax._jacobian.choices import DEFAULT_MATVECS, LARGE
from hig_optax._jacobian.strips import Condensed
from hig_optax._optimizers.model import Model
from hig_optax._solvers import cholesky, gram
from hig_optax._solvers.formula import Direction, Scaling
from hig_optax._solvers.step import Linearised, direction_from

# Shorter side of J from which on a fixed batch, too, is solved by a Cholesky factor and not by eigenvectors:
# after 10 s poisson-2d (129 parameters) ended at 6.8e-11, not 2.4e-10 (seeds 100 and 101), for a second more
# in the first call.
SOLVED_SIDE = 129

# An acceleration is used only where it is no more than this share of the step.
MOST_ACCELERATION = 0.75


class Path(NamedTuple):
    """Where a step leads: -f·step - f²·half after a share f of it."""

    step: Float[Array, " n"]
    half: Float[Array, " n"]
    """Half of the acceleration."""
    slope: Float[Array, ""]
    curvature: Float[Array, ""]
    """See `hig_optax._solvers.formula.Direction`."""

    def at(self, factor: Float[Array, ""]) -> Float[Array, " n"]:
        """Where it is after this share."""
        return -factor * self.step - jnp.square(factor) * self.half

    def mean(self, factor: Float[Array, ""]) -> Float[Array, " n"]:
        """The straight step, uphill, that a share of it takes, divided by that share."""
        return self.step + factor * self.half

    def promised(self, factor: Float[Array, ""]) -> Float[Array, ""]:
        """By how much the model of the loss falls up to there."""
        return factor * self.slope - jnp.square(factor) / 2 * self.curvature

    def where(self, is_usable: Bool[Array, ""]) -> "Path":
        """The same path, or one that leads nowhere."""
        step, half = (jnp.where(is_usable, x, 0) for x in (self.step, self.half))
        return self._replace(step=step, half=half)


def accelerated_path(
    at: Linearised,
    columns: Columns,
    inverse: Callable[[Array], Array],
    cotangent: Float[Array, " m"],
    scaling: Scaling,
    chunk_size: int | None,
) -> Path:
    """The step on a steady batch: Levenberg-Marquardt with momentum and acceleration.

    The step p + J⁺(ρ - J p) minimises ‖ρ - J·step‖² + λ‖step - p‖², with p = μ·previous and ρ = g/h, and J⁺
    the damped inverse. Along it the rows bend: r'' = ∂²y(θ - ε·step)/∂ε², and a/2 with a = J⁺r'' takes that
    out, for one more forward pass by tangents of tangents, and no decomposition. Where 2‖a‖ exceeds 3/4 of
    the step, second order says nothing, and there is no a.

    References:
        Transtrum and Sethna, Improvements to the Levenberg-Marquardt algorithm for nonlinear least-squares
        minimization, arXiv:1201.5885 (2012): geodesic acceleration, and the bound on it.
    """
    h = scaling.curvature
    g = cotangent.astype(at.dtype)
    rho = jnp.where(h > 0, at.kept(g) / jnp.where(h > 0, h, 1), 0)
    if scaling.previous is None:
        step = inverse(rho)
    else:
        assert scaling.image is not None
        p = scaling.momentum * scaling.previous
        step = p + inverse(rho - scaling.momentum * scaling.image)
    tangent = columns.split(step)

    def slope(parts: tuple[Array, ...]) -> Array:
        return jax.jvp(lambda p: at.residual.evaluate(p, chunk_size), (parts,), (tangent,))[1]

    change, bent = jax.jvp(slope, (columns.parts,), (tangent,))
    a, change = inverse(at.kept(bent)), change.astype(at.dtype)
    is_small = 2 * norm(a) <= MOST_ACCELERATION * norm(step)
    return Path(
        step,
        jnp.where(is_small, a / 2, 0),
        jnp.vdot(g, change, precision="highest"),
        jnp.where(h > 0, h, 0) * jnp.sum(jnp.square(change)),
    )


def is_large(at: Linearised) -> bool:
    """Whether a batch has samples enough for accelerated steps by a Cholesky factor, changing or not."""
    is_long = min(*at.J.shape, at.residual.num_parts) >= LARGE
    can_be_condensed = at.solver == "gram" or at.held is not None
    return is_long and can_be_condensed and not at.residual.has_custom_vjp


def alike(result: tuple[Direction, Path]) -> tuple[Direction, Path]:
    """The same, with as many singular values as products give, and the number that there could be apart."""
    found, path = result
    values = found.singular_values
    number = min(DEFAULT_MATVECS, values.size)
    return found._replace(
        singular_values=jnp.pad(values[:number], (0, DEFAULT_MATVECS - number)),
        full_rank=jnp.int32(values.size),
    ), path


def find_step(
    settings: Settings,
    at: Linearised,
    columns: Columns,
    gradient: Float[Array, " n"],
    model: Model,
    scaling: Scaling,
    is_steady: Bool[Array, ""] | None,
) -> tuple[Direction, Path]:
    """What is seen of J, and where the step leads.

    Args:
        settings: With an exponent and the cuts.
        at: The rows, linearised.
        columns: The parameters.
        gradient: (n,), what the user's gradient is in their order.
        model: Of the loss.
        scaling: Damping, momentum and the previous step.
        is_steady: Whether the batch is fixed or large; None where steps are not to be accelerated.
    """
    g = at.kept(model.cotangent)

    def accelerated(inverse: Callable[[Array], Array]) -> Path:
        return accelerated_path(at, columns, inverse, model.cotangent, scaling, settings.chunk_size)

    def solved(J: Jacobian, condensed: Condensed) -> tuple[Direction, Path]:
        damped = cholesky.factorise(condensed, scaling.relative_damping)
        path = accelerated(cholesky.inverse_of(J, damped))
        found = cholesky.told(J, damped, gradient, g, at.sizes)
        return found._replace(is_finite=found.is_finite & jnp.all(jnp.isfinite(at.y))), path

    def decomposed(condensed: Condensed | None) -> tuple[Direction, Path]:
        found = direction_from(settings, at, gradient, g, scaling, condensed)
        assert found.slope is not None
        assert found.curvature is not None
        none = jnp.zeros_like(found.direction)
        return found, Path(found.direction, none, found.slope, found.curvature)

    def without_inverse(condensed: Condensed | None) -> tuple[Direction, Path]:
        found, path = decomposed(condensed)
        return found._replace(slope=None, curvature=None, inverse=None), path

    if is_steady is None or at.residual.has_custom_vjp:
        return decomposed(None)
    if at.held is not None:
        held = at.held

        def by_held() -> tuple[Direction, Path]:
            J = held()
            return solved(J, gram.condense(J, gradient, g, scaling.previous))

        return cond(is_steady, lambda: alike(by_held()), lambda: alike(without_inverse(None)))
    if at.solver == "gram" and min(at.J.shape) >= SOLVED_SIDE:
        condensed = gram.condense(at.J, gradient, g, scaling.previous)
        if is_large(at):
            return solved(at.J, condensed)
        return cond(is_steady, lambda: solved(at.J, condensed), lambda: without_inverse(condensed))
    found, path = decomposed(None)
    inverse = found.inverse
    if inverse is None:  # there is one with "gram" alone
        return found, path
    use = is_steady & found.is_finite
    return found, cond(use, lambda: accelerated(inverse), lambda: path)
