"""Factors of J by a direct singular value decomposition, in the dtype of J."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from hig_optax._devices.devices import Devices
from hig_optax._float64 import dot
from hig_optax._types import Factors

# Rounding noise of a dependent row, in units of ε·σ₁: at most 5.6 over float32 and float64 matrices of
# rank r/2 from 8x20 to 600x600 (see test_factorisations.py), so 8 drops it and stays below the default rtol.
FLOOR_IN_EPS = 8


def factorise(
    J: Float[Array, "M N"],
    *,
    shape: tuple[int, int] | None = None,
    devices: Devices | None = None,
) -> Factors:
    """Decompose J directly, after QR of its long side and of the triangle that is left.

    The error of a singular value is about ε·σ₁, whatever its size. For a float64 J nothing here is more
    accurate; for a float32 J the Gram matrix in float64 is (both held to figures in test_precision.py).

    Args:
        J: (m, n), float32 or float64, finite; of several devices this one's share of the long side, zero
            where that is longer than J.
        shape: (m, n), where J is a share.
        devices: Those that have the other shares.

    Returns:
        Factors with r = min(m, n).
    """
    m, n = shape or J.shape
    # Of a square J the columns are shared.
    is_wide = m < n if devices is None else m <= n
    if is_wide:
        V, s, Ut = _tall_svd(J.T, devices)
        U = Ut.T
    else:
        U, s, Vt = _tall_svd(J, devices)
        V = Vt.T

    def coefficients(x: Array, basis: Array) -> Array:
        """Of a vector of the long side."""
        if devices is None:
            return dot(x, basis)
        return devices.sum(dot(devices.own(x, length=basis.shape[0]), basis))

    def combined(c: Array) -> Array:
        own = dot(V, c)
        return own if devices is None or not is_wide else devices.whole(own, size=n)

    return Factors(
        s=s,
        floor=FLOOR_IN_EPS * float(jnp.finfo(J.dtype).eps),
        row_coefficients=lambda g: dot(g.vector, U) if is_wide else coefficients(g.vector, U),
        column_coefficients=lambda x: coefficients(x.vector, V) if is_wide else dot(x.vector, V),
        combine=combined,
    )


def _tall_svd(A: Float[Array, "k r"], devices: Devices | None) -> tuple[Array, Array, Array]:
    """SVD of a matrix with k >= r, rows over devices: (k, r), (r,), (r, r)."""
    # The first QR shrinks the iteration to r x r. The second one, of the transposed triangle, gathers the
    # large values in its upper corner, which keeps the iteration from smearing them over the small ones:
    # on the quantum dipole (448x9484, rtol 1e-5, float32) it brings the error of the half-inverse from
    # 1.1e-2 to 8.3e-3 and that of Gauss-Newton from 2.0e-2 to 1.2e-2; the float32 J itself leaves 6.8e-3
    # and 8.7e-3.
    Q, R = _tall_qr(A, devices)
    P, L = jnp.linalg.qr(R.T)
    U, s, Vt = jnp.linalg.svd(L.T)
    return dot(Q, U), s, dot(Vt, P.T)


def _tall_qr(A: Float[Array, "k r"], devices: Devices | None) -> tuple[Array, Array]:
    """QR of a matrix with rows over devices: this device's rows of Q, and R.

    Each device decomposes its own rows. Then devices meet in groups, of two where their number allows, and
    decompose what their triangles are on top of each other, until all have met.
    """
    Q, R = jnp.linalg.qr(A)
    for members, stride in devices.stages() if devices is not None else ():
        assert devices is not None
        of_group, R = jnp.linalg.qr(devices.of_group(R, members, stride))
        Q = dot(Q, devices.block_of_group(of_group, members, stride))
    return Q, R
