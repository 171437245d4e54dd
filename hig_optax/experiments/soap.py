"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner. Own transcription; Optax has none."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


class Moments(NamedTuple):
    """What is kept of one leaf."""

    mean: Array
    """Running mean of the gradient, in the shape of the leaf."""
    square: Array
    """Running mean of the squared gradient, in the eigenbasis."""
    factors: tuple[Float[Array, "k k"], ...]
    """Running means of G Gᵀ and Gᵀ G; none for a leaf that is no matrix."""
    bases: tuple[Float[Array, "k k"], ...]
    """Their eigenvectors, in columns, as of the last refresh."""


class SoapState(NamedTuple):
    """State of `soap`."""

    count: Int[Array, ""]  # type: ignore[assignment]  # hides tuple.count, as Optax's states do
    moments: Any


def soap(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.95,
    b2: float = 0.95,
    eps: float = 1e-8,
    refresh_every: int = 10,
) -> optax.GradientTransformation:
    """Adam, with the gradient of every matrix turned into a basis in which its entries are least correlated.

    For a matrix with gradient G, L and R are running means of G Gᵀ and Gᵀ G, and U and V their
    eigenvectors, those of the largest eigenvalues first. The step is Adam's on Uᵀ G V, turned back:

        -η U (M' / (√S + ε)) Vᵀ        M' = Uᵀ M V,  M a running mean of G,  S one of (Uᵀ G V)²

    with Adam's corrections of both means. U and V are computed at the first step, which moves nothing, and
    then every few steps by one power iteration, an orthogonal factor of L U. Columns are put in order of
    diag Uᵀ L U before, and S with them, or the iteration would turn them all towards the largest. All
    other leaves take Adam's step.

    Args:
        learning_rate: η, a number or a schedule.
        b1: Decay of the mean.
        b2: Decay of the mean square and of both factors.
        eps: ε.
        refresh_every: Steps from one refresh of the eigenvectors to the next.

    Example:
        >>> opt = soap(0.1)
        >>> params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
        >>> updates, _ = opt.update(params, opt.init(params))
        >>> jnp.abs(updates["w"]).max(), updates["b"].round(3)  # matrices wait for their first bases
        (Array(0., dtype=float32), Array([-0.1, -0.1], dtype=float32))

    References:
        Vyas et al., SOAP: Improving and Stabilizing Shampoo using Adam, ICLR 2025.
    """

    def init(params: optax.Params) -> SoapState:
        return SoapState(jnp.zeros((), jnp.int32), jax.tree.map(_blank, params))

    def update(
        grads: optax.Updates, state: SoapState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, SoapState]:
        del params
        count = state.count + 1
        refresh = (state.count % refresh_every) == 0

        def leaf(g: Array, old: Moments) -> Moments:
            return _learn(g, old, b1, b2, count, refresh)

        def step(g: Array, new: Moments) -> Array:
            return _step(g, new, b1, b2, eps, count)

        moments = jax.tree.map(leaf, grads, state.moments)
        return jax.tree.map(step, grads, moments), SoapState(count, moments)

    return optax.chain(
        optax.GradientTransformation(init, update), optax.scale_by_learning_rate(learning_rate)
    )


def _blank(p: Array) -> Moments:
    sizes = p.shape if p.ndim == 2 else ()
    return Moments(
        jnp.zeros_like(p),
        jnp.zeros_like(p),
        tuple(jnp.zeros((k, k), p.dtype) for k in sizes),
        tuple(jnp.eye(k, dtype=p.dtype) for k in sizes),
    )


def _learn(g: Array, old: Moments, b1: float, b2: float, count: Array, refresh: Array) -> Moments:
    """The moments with one more gradient."""

    def mixed(b: float, before: Array, now: Array) -> Array:
        return b * before + (1 - b) * now

    factors, bases, square = old.factors, old.bases, old.square
    if factors:
        products = (_dot(g, g.T), _dot(g.T, g))
        factors = tuple(mixed(b2, a, p) for a, p in zip(factors, products, strict=True))
        found = [_basis(f, u, count, refresh) for f, u in zip(factors, bases, strict=True)]
        bases = tuple(basis for basis, _ in found)
        rows, columns = (order for _, order in found)
        square = square[rows][:, columns]
    square = mixed(b2, square, _turn(g, bases) ** 2)
    return Moments(mixed(b1, old.mean, g), square, factors, bases)


def _basis(factor: Array, basis: Array, count: Array, refresh: Array) -> tuple[Array, Array]:
    """Eigenvectors of a factor, and which columns of the basis before they continue.

    All are made anew at first; later it is a power iteration, or they stay.
    """
    as_it_was = jnp.arange(basis.shape[1])

    def iterated() -> tuple[Array, Array]:
        sizes = jnp.sum(basis * _dot(factor, basis), axis=0)
        order = jnp.argsort(-sizes).astype(as_it_was.dtype)
        return jnp.linalg.qr(_dot(factor, basis[:, order]))[0], order

    which = jnp.where(count == 1, 0, jnp.where(refresh, 1, 2))
    return jax.lax.switch(
        which,
        (
            lambda: (jnp.linalg.eigh(factor)[1][:, ::-1], as_it_was),
            iterated,
            lambda: (basis, as_it_was),
        ),
    )


def _step(g: Array, new: Moments, b1: float, b2: float, eps: float, count: Array) -> Array:
    """Uphill, before the learning rate."""
    t = count.astype(g.dtype)
    mean = _turn(new.mean, new.bases) / (1 - b1**t)
    step = mean / (jnp.sqrt(new.square / (1 - b2**t)) + eps)
    if not new.bases:
        return step
    u, v = new.bases
    return jnp.where(count == 1, 0, _dot(_dot(u, step), v.T))


def _turn(x: Array, bases: tuple[Array, ...]) -> Array:
    """Uᵀ x V; a leaf without bases as it is."""
    if not bases:
        return x
    u, v = bases
    return _dot(_dot(u.T, x), v)


def _dot(a: Array, b: Array) -> Array:
    return jnp.dot(a, b, precision="highest")
