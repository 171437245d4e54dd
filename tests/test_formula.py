"""The scaled step in the singular basis, where numbers can be written down."""

import jax.numpy as jnp
import numpy as np

from hig_optax._solvers.formula import Coordinates, Numbers, Scaling, solve


def solved(s, previous, *, floor=1e-7):
    one, zero = jnp.ones(()), jnp.zeros(())
    at = Coordinates(
        s=jnp.asarray(s),
        floor=floor,
        unit=one,
        gradient=None,
        cotangent=jnp.ones(len(s)),
        vector_unit=one,
        total=one,
        previous=jnp.asarray(previous),
        is_finite=jnp.array(True),
    )
    numbers = Numbers(exponent=-one, rtol=zero, atol=zero, damping=zero)
    scaling = Scaling(
        relative_damping=zero,
        curvature=one,
        previous=at.previous,
        image=None,
        momentum=jnp.float32(0.5),
    )
    return solve(at, numbers, scaling)


def test_the_model_promises_nothing_of_what_is_rounding_noise():
    # The previous step is long where σ is noise: times that σ it would move the rows by 50.
    found, alone = solved([1.0, 1e-8], [0.0, 1e10]), solved([1.0, 0.0], [0.0, 0.0])
    np.testing.assert_allclose(found.slope, alone.slope)
    np.testing.assert_allclose(found.curvature, alone.curvature)
    np.testing.assert_allclose(found.coefficients, [1.0, 0.0])
    # Above the noise it counts.
    assert solved([1.0, 1e-6], [0.0, 1e8]).coefficients[1] < -1
