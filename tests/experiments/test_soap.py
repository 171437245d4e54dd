import jax
import jax.numpy as jnp
import numpy as np
import optax

from hig_optax.experiments.soap import soap


def steps(optimizer, grads):
    """Updates of one gradient after another, of a tree of zeros."""
    params = jax.tree.map(jnp.zeros_like, grads[0])
    state, found = optimizer.init(params), []
    with jax.numpy_dtype_promotion("standard"):  # Optax's Adam takes a float to an integer power
        update = jax.jit(optimizer.update).lower(grads[0], state).compile()
    for g in grads:
        updates, state = update(g, state)
        found.append(updates)
    return found


def gradients(shape, count=7):
    """Correlated noise around a mean, so that the factors are far from the identity."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(shape[0], shape[0])) + 2 * np.eye(shape[0])
    return [jnp.asarray(mix @ (0.5 + rng.normal(size=shape))) for _ in range(count)]


def test_it_takes_the_same_step_in_any_orthonormal_basis():
    rng = np.random.default_rng(1)
    left, right = (jnp.asarray(np.linalg.qr(rng.normal(size=(k, k)))[0]) for k in (4, 3))
    with jax.enable_x64(True):
        left, right = left.astype(float), right.astype(float)
        grads = gradients((4, 3))
        optimizer = soap(0.1, refresh_every=2)
        plain, turned = steps(optimizer, grads), steps(optimizer, [left @ g @ right for g in grads])
        for a, b in zip(plain, turned, strict=True):
            # Eigenvectors of a factor that has seen few gradients are known to some 1e-16 over its gaps.
            np.testing.assert_allclose(b, left @ a @ right, atol=1e-8)
        adam = [
            steps(optax.adam(0.1, 0.95, 0.95), g)[-1] for g in (grads, [left @ g for g in grads])
        ]
        assert np.abs(adam[1] - left @ adam[0]).max() > 1e-3


def test_it_is_the_formula():
    with jax.enable_x64(True):
        grads = gradients((4, 3))
        found = steps(soap(0.1, b1=0.9, b2=0.8, refresh_every=3), grads)
    mean, square, factors = np.zeros((4, 3)), np.zeros((4, 3)), [np.zeros((4, 4)), np.zeros((3, 3))]
    bases = [np.eye(4), np.eye(3)]
    for i, g in enumerate(map(np.asarray, grads)):
        factors = [0.8 * f + 0.2 * p for f, p in zip(factors, (g @ g.T, g.T @ g), strict=True)]
        if i == 0:
            bases = [np.linalg.eigh(f)[1][:, ::-1] for f in factors]
        elif i % 3 == 0:
            orders = [
                np.argsort(-np.diag(u.T @ f @ u)) for f, u in zip(factors, bases, strict=True)
            ]
            square = square[np.ix_(*orders)]
            bases = [
                np.linalg.qr(f @ u[:, order])[0]
                for f, u, order in zip(factors, bases, orders, strict=True)
            ]
        u, v = bases
        mean, square = 0.9 * mean + 0.1 * g, 0.8 * square + 0.2 * (u.T @ g @ v) ** 2
        corrected = (u.T @ mean @ v) / (1 - 0.9 ** (i + 1))
        step = u @ (corrected / (np.sqrt(square / (1 - 0.8 ** (i + 1))) + 1e-8)) @ v.T
        np.testing.assert_allclose(found[i], -0.1 * step * (i > 0), atol=1e-10)


def test_the_basis_stays_where_the_factors_do():
    with jax.enable_x64(True):
        g = gradients((4, 3), 1)[0]
        optimizer = soap(0.1, refresh_every=1)
        state = optimizer.init(jnp.zeros_like(g))
        bases = []
        for _ in range(40):
            _, state = jax.jit(optimizer.update)(g, state)
            bases.append(state[0].moments.bases)
    for first, last in zip(bases[0], bases[-1], strict=True):
        # Of rank 3 at most: the fourth vector on the left belongs to no singular value, but to the others.
        np.testing.assert_allclose(
            np.abs(np.asarray(first).T @ np.asarray(last)), np.eye(len(last)), atol=1e-7
        )


def test_a_vector_takes_the_step_of_adam():
    grads = [g[:, 0] for g in gradients((5, 1))]
    ours, theirs = steps(soap(0.1), grads), steps(optax.adam(0.1, 0.95, 0.95), grads)
    # Equal formulas in float32.
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
