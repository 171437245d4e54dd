"""Gauss-Newton, Levenberg-Marquardt and SPRING against their formulas."""

import inspect

import jax
import jax.numpy as jnp
import matrices
import numpy as np
import optax
import pytest

import hig_optax
from hig_optax import baselines

NEWTON_LIKE = {
    "gauss-newton": (baselines.gauss_newton, {}),
    "levenberg-marquardt": (baselines.levenberg_marquardt, {"damping": 1e-2}),
}


def linear_residual(w, row):
    return row @ w


def update_of(opt, J, g, **extra):
    """The update of a linear residual with Jacobian J, from the gradient Jᵀ g."""
    w = jnp.zeros(J.shape[1], J.dtype)
    return jax.jit(opt.update)(g @ J, opt.init(w), w, batch=J[:, None, :], **extra)[0]


@pytest.mark.parametrize("shape", matrices.SHAPES.values(), ids=matrices.SHAPES)
def test_gauss_newton_is_the_pseudo_inverse(shape):
    with jax.enable_x64(True):
        J = matrices.planted(shape, np.logspace(0, -3, min(shape)))
        g = np.random.default_rng(1).normal(size=shape[0])
        opt = baselines.gauss_newton(0.5, linear_residual, rtol=1e-10)
        # float64: the rounding of the gradient, 1e-16, is magnified by (σ₁/σ_r)² = 1e6.
        expected = -0.5 * np.linalg.pinv(J, rtol=1e-10) @ g
        assert (
            matrices.relative_error(update_of(opt, jnp.asarray(J), jnp.asarray(g)), expected) < 1e-9
        )


@pytest.mark.parametrize("shape", matrices.SHAPES.values(), ids=matrices.SHAPES)
def test_levenberg_marquardt_is_the_damped_normal_equation(shape):
    with jax.enable_x64(True):
        J = matrices.planted(shape, np.logspace(0, -3, min(shape)))
        g = np.random.default_rng(1).normal(size=shape[0])
        opt = baselines.levenberg_marquardt(1.0, linear_residual, damping=1e-2)
        expected = -np.linalg.solve(J.T @ J + 1e-2 * np.eye(shape[1]), J.T @ g)
        # float64: the damped normal matrix has condition 1e2.
        assert (
            matrices.relative_error(update_of(opt, jnp.asarray(J), jnp.asarray(g)), expected)
            < 1e-12
        )


@pytest.mark.parametrize(("factory", "settings"), NEWTON_LIKE.values(), ids=NEWTON_LIKE)
def test_every_setting_of_hig_is_there(factory, settings):
    """Written out one by one, as inject_hyperparams needs them, and with the defaults of `hig`."""
    hig = inspect.signature(hig_optax.hig).parameters
    own = inspect.signature(factory).parameters
    assert set(own) == set(hig) - {"exponent"} - ({"damping"} - set(settings))
    for name in set(own) - {"damping", "rtol"}:
        assert own[name] == hig[name]


@pytest.mark.parametrize(("factory", "settings"), NEWTON_LIKE.values(), ids=NEWTON_LIKE)
def test_every_setting_is_handed_on(factory, settings, monkeypatch):
    seen = {}
    monkeypatch.setattr(baselines, "hig", lambda **kwargs: seen.update(kwargs))
    markers = {name: object() for name in inspect.signature(factory).parameters}
    factory(**markers)
    assert seen == {"exponent": -1.0, **markers}


@pytest.mark.parametrize(("factory", "settings"), NEWTON_LIKE.values(), ids=NEWTON_LIKE)
def test_settings_can_be_injected(factory, settings):
    J, g = jnp.asarray(matrices.planted((3, 5), [1.0, 0.5, 0.1]), jnp.float32), jnp.ones(3)
    injected = optax.inject_hyperparams(factory, static_args=hig_optax.STATIC_ARGS)
    opt = injected(
        learning_rate=optax.linear_schedule(2.0, 0.0, 4), residual_fn=linear_residual, **settings
    )
    plain = factory(2.0, linear_residual, **settings)
    np.testing.assert_allclose(update_of(opt, J, g), update_of(plain, J, g), rtol=1e-5)


def test_scale_invariant_physics_has_moved():
    with pytest.raises(
        AttributeError, match=r"has left the package: it is hig_optax\.experiments\.sip"
    ):
        _ = baselines.sip_value_and_grad
    with pytest.raises(AttributeError, match="has no attribute 'adam'"):
        _ = baselines.adam


def test_spring_minimises_its_objective():
    """Two steps against NumPy in float64: ‖y - J φ‖²/b + λ‖φ - μ φ_previous‖², then rate and bound."""
    rng = np.random.default_rng(0)
    A, target = rng.normal(size=(3, 4, 6)), rng.normal(size=(3, 4))
    J, lam, mu, rate = A.reshape(12, 6)[:5], 0.3, 0.8, 0.7
    with jax.enable_x64(True):
        batch = (jnp.asarray(J[:, None]), jnp.asarray(target.reshape(12)[:5, None]))

        def residual(w, sample):
            return sample[0] @ w - sample[1]

        def loss(w, batch):
            return jnp.sum(jax.vmap(residual, (None, 0))(w, batch) ** 2)

        for bound in (None, 0.2):
            opt = baselines.spring(rate, residual, damping=lam, momentum=mu, max_step_norm=bound)
            w, previous = jnp.asarray(rng.normal(size=6)), np.zeros(6)
            state = opt.init(w)
            for _ in range(2):
                y = J @ w - batch[1][:, 0]
                H = J.T @ J / 5 + lam * np.eye(6)
                phi = np.linalg.solve(H, J.T @ y / 5 + lam * mu * previous)
                updates, state = opt.update(jax.grad(loss)(w, batch), state, w, batch=batch)
                expected = -rate * phi
                if bound is not None:
                    expected *= min(1, bound / np.linalg.norm(expected))
                np.testing.assert_allclose(updates, expected, rtol=1e-9)
                # With the gradient of the loss of these rows, whatever is carried on: the cosine is 1.
                np.testing.assert_allclose(state.spectrum.gradient_cosine, 1, rtol=1e-12)
                w, previous = optax.apply_updates(w, updates), phi

        bad = (batch[0].at[0].set(jnp.nan), batch[1])
        updates, after = opt.update(jax.grad(loss)(w, bad), state, w, batch=bad)
        np.testing.assert_array_equal(updates, 0)
        np.testing.assert_array_equal(after.momentum, state.momentum)
        assert not after.spectrum.is_finite
