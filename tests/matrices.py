"""Matrices with a chosen spectrum, and the direction by its formula in float64 NumPy."""

import numpy as np

SPECTRA = {
    "flat": lambda r: np.ones(r),
    "geometric": lambda r: np.logspace(0, -4, r),
    "clustered": lambda r: np.repeat([1.0, 1e-2], [r // 2, r - r // 2]),
    "deficient": lambda r: np.concatenate([np.logspace(0, -2, -(-r // 2)), np.zeros(r // 2)]),
}
SHAPES = {
    "wide": (12, 40),
    "tall": (40, 12),
    "square": (15, 15),
    "one row": (1, 9),
    "one column": (9, 1),
}


def planted(shape, s, seed=0):
    """A matrix U diag(s) Vᵀ with random U, V; float64."""
    rng = np.random.default_rng(seed)
    r = len(s)
    U = np.linalg.qr(rng.normal(size=(shape[0], r)))[0]
    V = np.linalg.qr(rng.normal(size=(shape[1], r)))[0]
    return U * s @ V.T


def direction(J, g, exponent, *, rtol=0.0, atol=0.0, damping=0.0, max_rank=None, floor=1e-13):
    """V f(Σ) Uᵀ g by a float64 SVD."""
    U, s, Vt = np.linalg.svd(np.asarray(J, np.float64), full_matrices=False)
    keep = s > max(rtol * s[0], atol, floor * s[0])
    keep[len(s) if max_rank is None else max_rank :] = False
    f = np.zeros_like(s)
    f[keep] = s[keep] * (s[keep] ** 2 + damping) ** ((exponent - 1) / 2)
    return Vt.T @ (f * (U.T @ np.asarray(g, np.float64)))


def relative_error(x, reference):
    return np.linalg.norm(np.asarray(x, np.float64) - reference) / np.linalg.norm(reference)
