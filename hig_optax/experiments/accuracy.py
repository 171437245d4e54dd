"""How far directions are from the exact ones, over random matrices with known factors."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

import hig_optax
from hig_optax.experiments import planted
from hig_optax.experiments.planted import EPS64, Exact, Planted

Solver = Literal["svd", "gram", "krylov"]
SOLVERS: tuple[Solver, ...] = ("svd", "gram", "krylov")
DTYPES: tuple[type[np.floating], ...] = (np.float32, np.float64)

# What `hig_optax.scale_by_hig` says of rounding, in its Notes.
FACTORS: Mapping[Solver, float] = {"svd": 50, "gram": 10, "krylov": 50}
REACH = 100  # of krylov, in ε; at 30 one rank of 71,000 was another
PRODUCTS = 6  # of krylov, beyond the shorter side

SHAPES = ((2, 5), (6, 17), (9, 9), (20, 7), (40, 25))
DISTINCT = tuple(kind for kind in planted.KINDS if kind not in ("clusters", "equal values"))
"""A Krylov space holds one direction of each singular value: of equal ones the rank is another."""

# Rows of 40 samples are complex, and 3 parameters real; the largest singular value alone is kept.
COMPLEX_SHAPE = (80, 3)
WITH_GAP = (
    "decay to 1e-2",
    "decay to 1e-4",
    "one gap",
    "exact zeros",
    "one huge value",
    "Gaussian",
)


class Case(NamedTuple):
    """What is looked at together."""

    solver: Solver
    dtype: type[np.floating]
    is_complex: bool = False

    @property
    def eps(self) -> float:
        """Rounding of J."""
        return float(np.finfo(self.dtype).eps)

    @property
    def squares(self) -> bool:
        """Whether singular values are roots of eigenvalues, in float64."""
        return self.solver == "gram" or (self.solver == "krylov" and self.dtype == np.float32)

    @property
    def floor(self) -> float:
        """Share of σ₁ below which nothing is kept, as `hig_optax.scale_by_hig` says."""
        return max(4 * self.eps, 8 * EPS64**0.5) if self.squares else 8 * self.eps

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of spectra."""
        if self.is_complex:
            return WITH_GAP
        return DISTINCT if self.solver == "krylov" else tuple(planted.KINDS)

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Of J, real."""
        return (COMPLEX_SHAPE,) if self.is_complex else SHAPES

    def bound(self, exact: Exact, largest: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
        """Of the error of each direction, in its own unit."""
        relative = self.eps
        if self.squares:
            relative = self.eps + EPS64 * largest / exact.smallest
        return FACTORS[self.solver] * relative * exact.scale


class Found(NamedTuple):
    """Errors over their bounds, of many matrices, with ∂L/∂y from `loss_fn` or with the gradient alone."""

    kind: tuple[str, ...]
    ratios: dict[str, Float[np.ndarray, " N"]]
    wrong: dict[str, Bool[np.ndarray, " N"]]
    """Where the rank is another, or the direction not finite."""
    reached: dict[str, Bool[np.ndarray, " N"]]
    """Where the bound is said to hold: everywhere, but for what `krylov` cannot see."""

    def is_bad(self, name: str) -> Bool[np.ndarray, " N"]:
        """Beyond the bound, or of another rank."""
        return (self.ratios[name] > 1) | self.wrong[name]

    def failures(self) -> list[tuple[str, str]]:
        """Way and kind of spectrum of each that is bad although it is within reach."""
        return [
            (name, kind)
            for name in self.ratios
            for kind, fails in zip(self.kind, self.reached[name] & self.is_bad(name), strict=True)
            if fails
        ]


def measure(case: Case, count: int, seed: int = 0) -> Found:
    """Draw `count` matrices of each kind and shape, and compare.

    Args:
        case: By what, and of what.
        count: How many.
        seed: Of the matrices.
    """
    parts = []
    squared = EPS64 if case.squares else 0.0
    for shape in case.shapes:
        at = planted.draw(
            shape,
            case.kinds,
            count,
            dtype=case.dtype,
            floor=case.floor,
            squared=squared,
            max_rank=1 if case.is_complex else None,
            seed=seed,
        )
        parts.append(compared(case, at, directions(case, at)))
    kinds = tuple(kind for part in parts for kind in part.kind)
    rest = zip(*(part[1:] for part in parts), strict=True)
    return Found(kinds, *({k: np.concatenate([d[k] for d in ds]) for k in ds[0]} for ds in rest))


def directions(case: Case, at: Planted) -> dict[str, tuple[np.ndarray, ...]]:
    """Directions, ranks and whether they are finite, from one compiled program, vmapped over the matrices."""
    with jax.enable_x64(case.dtype == np.float64):
        given = (at.matrices, at.g, at.exponent, at.rtol, at.damping)
        arrays = [jnp.asarray(np.asarray(x).astype(case.dtype)) for x in given]
        one = _complex if case.is_complex else _real
        found = jax.jit(
            jax.vmap(lambda *args: _updates(case, at.max_rank, *one(*args[:2]), *args[2:]))
        )
        return jax.tree.map(np.asarray, found(*arrays))


def _real(J: Float[Array, "m n"], g: Float[Array, " m"]) -> tuple[Array, Array]:
    return J, g


def _complex(J: Float[Array, "m n"], g: Float[Array, " m"]) -> tuple[Array, Array]:
    """The same rows, two real ones to a complex one, and the g with Re(g·row) = the sum of both."""
    return jax.lax.complex(J[::2], J[1::2]), jax.lax.complex(g[::2], -g[1::2])


def _updates(
    case: Case,
    max_rank: int | None,
    J: Array,
    g: Array,
    exponent: Array,
    rtol: Array,
    damping: Array,
) -> dict[str, tuple[Array, ...]]:
    """Directions at w = 0 of the residual J w and the loss Re(gᵀ rows), whose derivatives are J and g."""
    batch, w = {"J": J, "g": g}, jnp.zeros(J.shape[1], exponent.dtype)

    def residual_fn(w: Array, sample: Mapping[str, Array]) -> Array:
        return sample["J"] @ w.astype(sample["J"].dtype)

    def loss_fn(rows: Array, batch: Mapping[str, Array]) -> Array:
        return jnp.sum(jnp.real(rows * batch["g"]))

    gradient = jax.grad(lambda w: loss_fn(jax.vmap(residual_fn, (None, 0))(w, batch), batch))(w)
    found: dict[str, tuple[Array, ...]] = {}
    for name, loss in (("loss_fn", loss_fn), ("gradient", None)):
        opt = hig_optax.scale_by_hig(
            residual_fn,
            loss_fn=loss,
            exponent=exponent,
            rtol=rtol,
            damping=damping,
            max_rank=max_rank,
            solver=case.solver,
            num_matvecs=min(J.shape) + PRODUCTS if case.solver == "krylov" else None,
        )
        d, state = opt.update(gradient, opt.init(w), w, batch=batch)
        found[name] = d, state.spectrum.rank, state.spectrum.is_finite
    return found


def compared(case: Case, at: Planted, found: Mapping[str, tuple[np.ndarray, ...]]) -> Found:
    """Directions, ranks and whether they are finite, against the exact ones."""
    exact = planted.exact(at, floor=case.floor)
    bound = case.bound(exact, at.s[:, 0])
    ratios, wrong, reached = {}, {}, {}
    for name, (direction, rank, is_finite) in found.items():
        error = np.linalg.norm((direction - exact.direction).astype(float), axis=1)
        ratios[name] = np.where(is_finite, error / bound, np.inf).astype(float)
        wrong[name] = (rank != exact.rank) | ~is_finite
        reached[name] = np.ones(len(rank), bool)
        if case.solver == "krylov":
            share = exact.weakest
            if name == "loss_fn":
                share = share * np.square(at.s[:, 0] / exact.smallest)
            reached[name] = np.minimum(share, exact.spacing) > REACH * case.eps
    return Found(at.kind, ratios, wrong, reached)
