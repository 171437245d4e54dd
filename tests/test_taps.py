"""Factored Jacobians: exactly those matrices whose rows are outer products, and exactly the same update."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import jet

import hig_optax
from hig_optax._jacobian import layout
from hig_optax._jacobian.taps import find_taps


def network():
    rng = np.random.default_rng(0)
    shapes = {"W1": (6, 16), "b1": (16,), "W2": (16, 16), "W3": (16, 3)}
    return {
        name: jnp.asarray(rng.normal(size=shape) / shape[0] ** 0.5, jnp.float32)
        for name, shape in shapes.items()
    }


def apply(w, x):
    h = jnp.tanh(x @ w["W1"] + w["b1"])
    return jnp.tanh(h @ w["W2"]) @ w["W3"]


def rows(w, x):
    return apply(w, x) ** 2 - 1


def in_a_jit(w, x):
    return jax.jit(rows)(w, x)


def two_jits(w, x):
    layer = jax.jit(lambda W, h: jnp.tanh(h @ W))
    return layer(w["W2"], layer(w["W1"], x)) @ w["W3"]


def used_twice(w, x):
    h = jnp.tanh(x @ w["W1"])
    return jnp.tanh(jnp.tanh(h @ w["W2"]) @ w["W2"]) @ w["W3"]


def used_too_often(w, x):
    h = jnp.tanh(x @ w["W1"])
    for _ in range(6):
        h = jnp.tanh(h @ w["W2"])
    return h @ w["W3"]


def transposed_too(w, x):
    h = jnp.tanh(x @ w["W1"]) @ w["W2"]
    return jnp.tanh(h @ w["W2"].T) @ w["W3"]


def in_a_loop(w, x):
    h = jnp.tanh(x @ w["W1"])
    h, _ = jax.lax.scan(lambda h, _: (jnp.tanh(h @ w["W2"]), None), h, length=3)
    return h @ w["W3"]


def under_checkpoint(w, x):
    return jax.checkpoint(rows)(w, x)


def penalised(w, x):
    return jnp.concatenate([rows(w, x), 0.1 * w["W3"].ravel()])


def scaled(w, x):
    return apply(w | {"W2": 2 * w["W2"]}, x)


def many_positions(w, x):
    """A small network along a line of points: the points of one sample are positions of a use."""
    points = x[:, None] * jnp.ones(6)
    return jnp.mean(apply(w, points), axis=0)


def with_derivatives(w, x):
    """A residual as of a differential equation: u and u'' from one network."""

    def u(t):
        return jnp.sum(apply(w, t * x))

    return jnp.stack([u(1.0), jax.grad(jax.grad(u))(1.0)])


def convolution(w, x):
    kernel = w["W1"].reshape(1, 1, -1)
    h = jax.lax.conv_general_dilated(x[None, None], kernel[:, :, :3], (1,), "SAME")
    return jnp.tanh(h.reshape(-1) @ w["W1"]) @ w["W2"] @ w["W3"]


def rectified(w, x):
    return jax.nn.relu(jax.nn.silu(x @ w["W1"]) @ w["W2"]) @ w["W3"]


def shifted_by_a_parameter(w, x):
    return apply(w, x + w["b1"][:6])


def by_tangents(w, x):
    """∂²u/∂x₀² by tangents of tangents."""

    def slope(y):
        return jax.jvp(lambda y: apply(w, y), (y,), (jnp.eye(6, dtype=x.dtype)[0],))[1]

    return jax.jvp(slope, (x,), (jnp.eye(6, dtype=x.dtype)[0],))[1]


def by_jet(w, x):
    first, zero = jnp.eye(6, dtype=x.dtype)[0], jnp.zeros_like(x)
    return jet.jet(lambda y: apply(w, y), (x,), ((first, zero),))[1][1]


def by_hessian(w, x):
    """The Laplacian of one output."""
    return jnp.trace(jax.hessian(lambda y: apply(w, y)[0])(x))[None]


def by_grad_and_tangent(w, x):
    slope = jax.grad(lambda y: jnp.sum(apply(w, y)))
    return jax.jvp(slope, (x,), (jnp.ones_like(x),))[1][:2]


def with_and_without(w, x):
    return jnp.concatenate([apply(w, x), by_tangents(w, x)])


def times_another(w, x):
    """A product of parameters, of which the second counts what it is multiplied with as its input."""
    return jnp.tanh(x[:1]) * (w["W1"] @ w["W2"] @ w["W3"]).sum(0)


def times_itself(w, x):
    return jnp.tanh(x @ w["W1"]) @ (w["W2"] @ w["W2"]) @ w["W3"]


def on_the_left(w, x):
    """The matrix as the first operand of its product."""
    h = jax.lax.dot_general(w["W1"], x, (((0,), (0,)), ((), ())))
    return jnp.tanh(jnp.tanh(h) @ w["W2"]) @ w["W3"]


FACTORED = {
    rows: {"W1", "W2", "W3"},
    in_a_jit: {"W1", "W2", "W3"},
    two_jits: {"W1", "W2", "W3"},
    used_twice: {"W1", "W2", "W3"},
    used_too_often: {"W1", "W3"},
    transposed_too: {"W1", "W3"},
    in_a_loop: {"W1", "W3"},
    under_checkpoint: set(),
    penalised: {"W1", "W2"},
    scaled: {"W1", "W3"},
    many_positions: set(),
    with_derivatives: set(),
    convolution: {"W2", "W3"},
    rectified: {"W1", "W2", "W3"},
    shifted_by_a_parameter: {"W1", "W2", "W3"},
    by_tangents: set(),
    by_jet: set(),
    by_hessian: set(),
    by_grad_and_tangent: set(),
    with_and_without: set(),
    times_another: set(),
    times_itself: {"W1", "W3"},
    on_the_left: {"W1", "W2", "W3"},
}

# Matrices that are met several times, by values and by derivatives.
WRITTEN = {
    used_too_often: {"W2"},
    with_derivatives: {"W1", "W2", "W3"},
    by_tangents: {"W1", "W2", "W3"},
    by_jet: {"W1", "W2", "W3"},
    by_hessian: {"W1", "W2", "W3"},
    by_grad_and_tangent: {"W1", "W2", "W3"},
    with_and_without: {"W1", "W2", "W3"},
}


@pytest.mark.parametrize("residual", FACTORED, ids=lambda f: f.__name__)
def test_which_matrices_are_factored(residual):
    w = network()
    names, leaves = sorted(w), [w[name] for name in sorted(w)]

    def evaluate(columns, entries):
        return residual(dict(zip(names, columns, strict=True)), *entries)

    tapped = find_taps(evaluate, leaves, (jnp.ones(6),))
    tapped_parts = set() if tapped is None else tapped.matrices
    # What pays depends on the size: of a matrix that is not kept in factors J is written out from them.
    kept = {names[i] for i in tapped_parts if tapped.may_stay_factored(i, leaves[i].shape)}
    assert kept == FACTORED[residual]
    assert {names[i] for i in tapped_parts} - kept == WRITTEN.get(residual, set())
    if tapped is not None:
        zeros = [jnp.zeros(use.tap.shape, use.tap.dtype) for use in tapped.uses]
        y, inputs = tapped.evaluate(tuple(leaves), (jnp.ones(6),), zeros)
        np.testing.assert_allclose(y, evaluate(leaves, (jnp.ones(6),)), rtol=1e-6)
        assert [len(a) for a in inputs] == [use.positions for use in tapped.uses]


# In chunks, each kind of use once.
IN_CHUNKS = [with_derivatives, scaled]


@pytest.mark.parametrize(
    ("residual", "chunk_size"),
    [(f, None) for f in FACTORED] + [(f, 2) for f in IN_CHUNKS],
    ids=lambda x: getattr(x, "__name__", str(x)),
)
def test_the_update_is_the_same(residual, chunk_size, monkeypatch):
    with jax.enable_x64(True):
        w = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), network())
        batch = jnp.asarray(np.random.default_rng(0).normal(size=(5, 6)))
        grads = jax.grad(lambda w: jnp.sum(jax.vmap(residual, (None, 0))(w, batch) ** 2))(w)
        opt = hig_optax.scale_by_hig(residual, solver="gram", rtol=1e-4, chunk_size=chunk_size)

        def update():
            return jax.jit(lambda w: opt.update(grads, opt.init(w), w, batch=batch))(w)

        factored, state = update()
        monkeypatch.setattr(layout, "find_taps", lambda *_: None)
        plain, reference = update()
    assert state.spectrum.rank == reference.spectrum.rank
    for a, b in zip(jax.tree.leaves(factored), jax.tree.leaves(plain), strict=True):
        # The Gram matrix's own limit: ε·(σ₁/σ_r)², σ_r >= 1e-4 σ₁.
        np.testing.assert_allclose(a, b, atol=1e-7 * np.abs(b).max())


def test_no_matrix_of_rows_times_parameters_is_formed():
    w, batch = network(), jnp.ones((5, 6))
    opt = hig_optax.scale_by_hig(rows, solver="gram")
    text = jax.jit(lambda w: opt.update(w, opt.init(w), w, batch=batch)).lower(w).as_text()
    m, n = 15, sum(x.size for x in w.values())
    assert f"tensor<{m}x{n}x" not in text
    assert "tensor<5x3x16x16x" not in text


def test_complex_and_masked_leaves_stay_right():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        w = {
            "free": jnp.asarray(rng.normal(size=(6, 8))),
            "frozen": jnp.asarray(rng.normal(size=(8, 8))),
            "phase": jnp.asarray(rng.normal(size=(8, 2)) + 1j * rng.normal(size=(8, 2))),
        }
        batch = jnp.asarray(rng.normal(size=(3, 6)))

        def residual(w, x):
            h = jnp.tanh(x @ w["free"]) @ w["frozen"]
            return h.astype(w["phase"].dtype) @ w["phase"]

        def loss(w):
            y = jax.vmap(residual, (None, 0))(w, batch)
            return jnp.sum(jnp.abs(y) ** 2)

        grads = jax.tree.map(jnp.conj, jax.grad(loss)(w))
        mask = {"free": True, "frozen": False, "phase": True}
        found = {}
        for solver in ("gram", "svd"):
            opt = hig_optax.scale_by_hig(residual, solver=solver, mask=mask, rtol=1e-4)
            found[solver], _ = opt.update(grads, opt.init(w), w, batch=batch)
    for name in w:
        np.testing.assert_allclose(found["gram"][name], found["svd"][name], rtol=1e-8)
