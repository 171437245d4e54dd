"""Matrices with known factors, drawn at random over kinds of spectrum, and the exact direction of each."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

Draw = Callable[[np.random.Generator, int], Float[np.ndarray, " r"]]
EPS64 = float(np.finfo(np.float64).eps)
EXPONENTS = (0.0, -0.25, -0.5, -0.75, -1.0)
# A cut is put where the values on its two sides differ by so many times the error of a singular value.
CLEAR = 100


def decay(to: float, unit: float = 1.0) -> Draw:
    """A geometric spectrum."""
    return lambda _, r: unit * to ** (np.arange(r) / max(r - 1, 1))


KINDS: Mapping[str, Draw] = {
    "decay to 1e-2": decay(1e-2),
    "decay to 1e-4": decay(1e-4),
    "decay to 1e-6": decay(1e-6),
    "one gap": lambda rng, r: np.where(np.arange(r) < r / 2, 1, 1e-3) * rng.uniform(0.5, 1, r),
    "clusters": lambda rng, r: 10.0 ** -(np.arange(r) * 3 // r) * (1 + 1e-5 * rng.normal(size=r)),
    "equal values": lambda _, r: np.ones(r),
    "exact zeros": lambda rng, r: np.where(np.arange(r) < r / 2, decay(1e-2)(rng, r), 0),
    "at the cut": decay(1e-2),
    "one huge value": lambda rng, r: np.where(np.arange(r) < 1, 1, 1e-4 * rng.uniform(0.1, 1, r)),
    "times 1e-30": decay(1e-2, 1e-30),
    "times 1e30": decay(1e-2, 1e30),
    "Gaussian": lambda rng, r: np.linalg.svd(rng.normal(size=(r, 2 * r)), compute_uv=False),
}
"""Singular values of each kind. Those "at the cut" lie on either side of it, as near as 1e-4 of it."""


class Planted(NamedTuple):
    """N matrices J = U Σ Vᵀ of one shape, and what is asked of each."""

    kind: tuple[str, ...]
    U: Shaped[np.ndarray, "N m r"]
    s: Float[np.ndarray, "N r"]
    """Descending."""
    V: Shaped[np.ndarray, "N n r"]
    g: Float[np.ndarray, "N m"]
    """Derivatives of the loss in the rows."""
    exponent: Float[np.ndarray, " N"]
    rtol: Float[np.ndarray, " N"]
    damping: Float[np.ndarray, " N"]
    max_rank: int | None

    @property
    def matrices(self) -> Shaped[np.ndarray, "N m n"]:
        """The matrices, in extended precision where the machine has it."""
        return (self.U * self.s[:, None]) @ self.V.swapaxes(1, 2)


class Exact(NamedTuple):
    """What a solver should find."""

    direction: Shaped[np.ndarray, "N n"]
    rank: Int[np.ndarray, " N"]
    smallest: Float[np.ndarray, " N"]
    """σ_k, the smallest kept singular value."""
    gap: Float[np.ndarray, " N"]
    """γ = σ_k - σ_{k+1}, with 0 for the one after the last."""
    scale: Float[np.ndarray, " N"]
    """σ₁ f(σ_k) ‖g‖ / γ: by how much the direction moves for a relative change of J by one, at most."""
    weakest: Shaped[np.ndarray, " N"]
    """Least (σ/σ₁)² |uᵀg| / ‖g‖ of what is kept: a share of J Jᵀ g."""
    spacing: Float[np.ndarray, " N"]
    """Least distance between a kept singular value and the next, over σ₁."""


def draw(
    shape: tuple[int, int],
    kinds: Sequence[str],
    count: int,
    *,
    dtype: type[np.floating],
    floor: float,
    squared: float = 0.0,
    max_rank: int | None = None,
    seed: int = 0,
) -> Planted:
    """Draw `count` matrices of each kind, and settings by which no decision hangs on rounding.

    Args:
        shape: (m, n).
        kinds: Names among `KINDS`.
        count: How many of each.
        dtype: What a solver is given; g, the cut and the damping are numbers of it.
        floor: Share of σ₁ below which the solver keeps nothing.
        squared: Rounding of σ² over σ₁², where it is that which a solver computes.
        max_rank: If given, nothing else cuts, and all are damped; else every fourth, of those whose λ would
            not vanish or overflow in float32.
        seed: Of everything.
    """
    rng = np.random.default_rng(seed)
    m, n = shape
    r, names = min(shape), tuple(kind for kind in kinds for _ in range(count))
    s, rtol, damping = np.zeros((len(names), r)), np.zeros(len(names)), np.zeros(len(names))
    eps = float(np.finfo(dtype).eps)
    for i, kind in enumerate(names):
        values = np.sort(KINDS[kind](rng, r))[::-1]
        t = values / values[0]
        after = np.append(t[1:], 0)
        noise = CLEAR * (eps + squared / np.maximum(t, floor))
        if kind == "at the cut" and r > 1:
            k = rng.integers(r - 1)
            rtol[i] = np.sqrt(t[k] * t[k + 1])
            apart = max(10 ** rng.uniform(-4, -1), noise[k + 1] / rtol[i])
            t[k], t[k + 1] = rtol[i] * (1 + apart), rtol[i] * (1 - apart)
        elif max_rank is None:
            last = rng.choice(np.flatnonzero((t > 2 * floor) & (t - after > noise)))
            rtol[i] = 0 if after[last] == 0 else (t[last] + after[last]) / 2
        s[i] = t * values[0]
        if "times" not in kind and (max_rank is not None or i % 4 == 0):
            damping[i] = 10 ** rng.uniform(-6, 0) * np.mean(s[i] ** 2)
    g, rtol, damping = (x.astype(dtype) for x in (rng.normal(size=(len(names), m)), rtol, damping))
    U, V = (orthonormal(rng.normal(size=(len(names), side, r))) for side in (m, n))
    exponent = rng.choice(EXPONENTS, len(names))
    return Planted(names, U, s, V, g, exponent, rtol, damping, max_rank)


def exact(at: Planted, *, floor: float) -> Exact:
    """The directions V f(Σ) Uᵀ g by their formula, and what their errors are measured by."""
    first, largest = np.arange(len(at.s)), at.s[:, 0]
    keep: Bool[np.ndarray, "N r"] = at.s > np.maximum(at.rtol, floor)[:, None] * at.s[:, :1]
    if at.max_rank is not None:
        keep &= np.arange(at.s.shape[1]) < at.max_rank
    squared = np.where(keep, np.square(at.s) + at.damping.astype(float)[:, None], 1)
    weights = np.where(keep, squared ** ((at.exponent[:, None] - 1) / 2), 0)
    e = (at.g[:, None] @ at.U)[:, 0]
    rank = keep.sum(axis=1)
    padded = np.pad(at.s, ((0, 0), (0, 1)))
    smallest, gap = at.s[first, rank - 1], at.s[first, rank - 1] - padded[first, rank]
    length = np.linalg.norm(at.g, axis=1)
    weakest = np.where(keep, np.square(at.s / at.s[:, :1]) * np.abs(e) / length[:, None], np.inf)
    spacing = np.where(keep, -np.diff(padded) / at.s[:, :1], np.inf)
    return Exact(
        direction=(at.V @ (weights * at.s * e)[:, :, None])[:, :, 0],
        rank=rank,
        smallest=smallest,
        gap=gap,
        scale=largest * weights[first, rank - 1] * (smallest / gap) * length,
        weakest=weakest.min(axis=1),
        spacing=spacing.min(axis=1),
    )


def orthonormal(A: Float[np.ndarray, "N p r"]) -> Shaped[np.ndarray, "N p r"]:
    """Orthonormal columns, one step of Newton's beyond what float64 gives."""
    Q = np.linalg.qr(A)[0].astype(np.longdouble)
    return Q @ (3 * np.eye(Q.shape[2], dtype=np.longdouble) - Q.swapaxes(1, 2) @ Q) / 2
