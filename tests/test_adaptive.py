"""`adaptive_hig`: the step it proposes, when it takes it, and how the damping moves."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hig_optax
from hig_optax import baselines

# What a full batch wants: neither momentum nor a bound on the step.
FULL_BATCH = {"momentum": 0.0, "max_relative_step": None, "patience": None}


def residual(w, sample):
    """Three rows of different scales, nonlinear in five parameters."""
    x, y = sample
    hidden = jnp.tanh(w["a"] * x + w["b"])
    return jnp.array([1.0, 1e-1, 1e-2], x.dtype) * (hidden + w["c"] * x - y)


PARAMS = {"a": jnp.array([0.5, 1.0, -1.0]), "b": jnp.zeros(3), "c": jnp.zeros(())}
X = jax.random.normal(jax.random.key(0), (6,))
BATCH = (X, jnp.stack([jnp.sin(X), X**2, jnp.cos(X)], axis=1))


def half_squares(w, batch, residual=residual):
    rows = jax.vmap(residual, (None, 0))(w, batch)
    return jnp.sum(rows**2) / (2 * rows.shape[0])


def step(opt, w, state, batch=BATCH, loss=half_squares):
    updates, state = opt.update(jax.grad(loss)(w, batch), state, w, batch=batch)
    return optax.apply_updates(w, updates), state


def train(opt, w, steps, batch=BATCH, loss=half_squares):
    """The losses before each step and after the last, and where it ended."""

    def body(carry, _):
        w, state = carry
        return step(opt, w, state, batch, loss), loss(w, batch)

    (w, state), losses = jax.jit(lambda w: jax.lax.scan(body, (w, opt.init(w)), length=steps))(w)
    return np.append(losses, loss(w, batch)), w, state


def dense(w, batch=BATCH):
    """Rows and Jacobian in float64, for oracles."""
    flat, unravel = jax.flatten_util.ravel_pytree(w)

    def rows(flat):
        return jax.vmap(residual, (None, 0))(unravel(flat), batch).reshape(-1)

    return np.asarray(rows(flat)), np.asarray(jax.jacrev(rows)(flat))


@pytest.mark.parametrize("exponent", [-0.5, -1.0])
@pytest.mark.parametrize("solver", ["gram", "svd", "krylov"])
def test_two_steps_are_the_formula(exponent, solver):
    """The second one with momentum, which does not see the learning rate; against NumPy in float64."""
    rate, mu = 0.5, 0.8
    with jax.enable_x64(True):
        w, batch = jax.tree.map(lambda x: x.astype(jnp.float64), (PARAMS, BATCH))
        opt = hig_optax.adaptive_hig(
            residual,
            learning_rate=rate,
            exponent=exponent,
            solver=solver,
            num_matvecs=7 if solver == "krylov" else None,
            momentum=mu,
        )
        state, previous = opt.init(w), np.zeros(7)
        for _ in range(2):
            y, J = dense(w, batch)
            U, s, Vt = np.linalg.svd(J, full_matrices=False)
            lam = float(state.damping) * np.mean(s**2)
            carried, ahead = mu * previous, y
            if solver == "krylov":
                ahead = y - J @ carried
            else:
                carried -= Vt.T @ (s**2 / (s**2 + lam) * (Vt @ carried))
            direction = Vt.T @ (s * (s**2 + lam) ** ((exponent - 1) / 2) * (U.T @ ahead))
            t = (y - J @ carried) @ (J @ direction) / np.sum((J @ direction) ** 2)
            expected = t * direction + carried
            before = jax.flatten_util.ravel_pytree(w)[0]
            w, state = step(opt, w, state, batch)
            assert state.accepted
            np.testing.assert_allclose(state.spectrum.gradient_cosine, 1, rtol=1e-12)
            moved = np.asarray(before - jax.flatten_util.ravel_pytree(w)[0])
            # A Gram matrix leaves ε·(σ₁/σ_r)², with σ₁/σ_r = 1e3 or so that is 1e-9 at most.
            np.testing.assert_allclose(
                moved, rate * expected, rtol=0, atol=1e-8 * np.linalg.norm(expected)
            )
            np.testing.assert_allclose(state.step_norm, np.linalg.norm(moved), rtol=1e-7)
            model = np.sum(y**2) - np.sum((y - J @ moved) ** 2)
            y_new, _ = dense(w, batch)
            np.testing.assert_allclose(
                state.gain_ratio, (np.sum(y**2) - np.sum(y_new**2)) / model, rtol=1e-6
            )
            previous = expected


@pytest.mark.parametrize(
    ("samples", "recipe"),
    [
        (2, (-0.75, 0.95, 0.02)),
        (3, (-0.5, 0.0, None)),
    ],
)
def test_auto_goes_by_rows_and_parameters(samples, recipe):
    """Six rows, and nine, for seven parameters."""
    batch = jax.tree.map(lambda x: x[:samples], BATCH)
    automatic = hig_optax.adaptive_hig(residual)
    names = ("exponent", "momentum", "max_relative_step")
    spelled = hig_optax.adaptive_hig(residual, **dict(zip(names, recipe, strict=True)))
    found, _, state = train(automatic, PARAMS, 4, batch)
    expected, _, _ = train(spelled, PARAMS, 4, batch)
    # Before it is clear that the batch stays the same.
    np.testing.assert_allclose(found[:3], expected[:3], rtol=1e-6)
    assert found[3] < expected[3]
    # The state is the same before and after a batch is seen, whatever that decides.
    assert jax.tree.map(jax.typeof, state) == jax.tree.map(jax.typeof, automatic.init(PARAMS))


def test_steps_shrink_where_new_batches_do_not_improve():
    """Batches of noise: every step lowers the loss of its own, and none that of the next."""
    targets = jax.random.normal(jax.random.key(1), (100, 1, 2))

    def rows(w, sample):
        return jnp.array([[1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0]]) @ w - sample

    def loss(w, batch):
        return half_squares(w, batch, rows)

    opt = hig_optax.adaptive_hig(rows, patience=5)

    def body(carry, batch):
        return step(opt, *carry, batch, loss), None

    (w, state), _ = jax.lax.scan(body, (jnp.zeros(4), opt.init(jnp.zeros(4))), targets)
    assert state.plateau.scale < 0.9
    updates, after = opt.update(jax.grad(loss)(w, targets[0]), state, w, batch=targets[0])
    step_ = jnp.linalg.norm(after.momentum)
    np.testing.assert_allclose(jnp.linalg.norm(updates), after.plateau.scale * step_, rtol=1e-5)


def test_noise_in_the_data_is_averaged_out():
    """Noisy targets of a line with 40 parameters, one batch of 8 rows after the other, each row new.

    A constant step follows the noise of the last batches for ever; a loss of new batches that no longer falls
    makes the steps short and damped.
    """
    scales = jnp.logspace(0, -2, 40)

    def rows(w, sample):
        return sample[0] @ w - sample[1]

    def error(patience):
        opt = hig_optax.adaptive_hig(rows, patience=patience)

        def body(carry, key):
            x_key, noise_key = jax.random.split(key)
            x = scales * jax.random.normal(x_key, (8, 40))
            batch = (x, x @ jnp.ones(40) + 0.3 * jax.random.normal(noise_key, (8,)))
            return step(opt, *carry, batch, lambda w, b: half_squares(w, b, rows)), None

        start = (jnp.zeros(40), opt.init(jnp.zeros(40)))
        keys = jax.random.split(jax.random.key(3), 4000)
        (w, state), _ = jax.jit(lambda start, keys: jax.lax.scan(body, start, keys))(start, keys)
        return float(jnp.sum((scales * (w - 1)) ** 2)), state

    found, state = error(20)
    assert state.damping > 1e-3  # from a minimum of 1e-8
    assert found < 0.5 * error(None)[0], (found, error(None)[0])


SIZE = 6


def bent(w, sample):
    """A (w + c sin² w) - target: rows and columns of zeros stand for smaller problems."""
    A, target, curvature = sample
    return A @ w + curvature * jnp.sin(A @ w) ** 2 - target


@jax.jit
def losses_on_one_batch(w, batch, exponent, momentum, bound):
    opt = hig_optax.adaptive_hig(
        bent, exponent=exponent, momentum=momentum, max_relative_step=bound, patience=2
    )

    def body(carry, _):
        w, state = carry
        loss, grads = jax.value_and_grad(half_squares)(w, batch, bent)
        updates, state = opt.update(grads, state, w, batch=batch)
        return (optax.apply_updates(w, updates), state), (loss, state)

    (w, _), (losses, states) = jax.lax.scan(body, (w, opt.init(w)), length=12)
    return jnp.append(losses, half_squares(w, batch, bent)), states


@given(
    rows=st.integers(1, SIZE),
    columns=st.integers(1, SIZE),
    exponent=st.sampled_from([-0.25, -0.5, -0.75, -1.0]),
    momentum=st.sampled_from([0.0, 0.9]),
    bound=st.sampled_from([0.02, 1e6]),
    curvature=st.floats(0, 3),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=200)
def test_loss_never_rises_on_a_fixed_batch(
    rows, columns, exponent, momentum, bound, curvature, seed
):
    rng = np.random.default_rng(seed)
    A = np.logspace(0, -rng.uniform(0, 4), SIZE)[:, None] * rng.normal(size=(SIZE, SIZE))
    A[rows:], A[:, columns:] = 0, 0
    target, w = rng.normal(size=SIZE), rng.normal(size=SIZE)
    batch = tuple(jnp.asarray(x, jnp.float32)[None] for x in (A, target, curvature))
    losses, states = losses_on_one_batch(
        jnp.asarray(w, jnp.float32), batch, exponent, momentum, bound
    )
    # The trial sums the same float32 squares in another order.
    assert np.all(np.diff(losses) <= 1e-6 * losses[:-1])
    assert np.isfinite(losses).all()
    assert states.spectrum.is_finite.all()
    assert states.accepted.any()


def blows_up(w, sample):
    """Physics that fails for controls beyond 2; the target lies at 1.9, behind a flat beginning."""
    u = w["u"] * sample
    return jnp.where(jnp.abs(u) < 2, jnp.tanh(u - 3) - jnp.tanh(-1.1), jnp.nan)


def test_failed_physics_is_rejected_and_recovered_from():
    batch = jnp.ones((1, 1))

    def loss(w, batch):
        return half_squares(w, batch, blows_up)

    opt = hig_optax.adaptive_hig(blows_up, exponent=-1.0, **FULL_BATCH)
    w = {"u": jnp.array([-1.0])}
    state = opt.init(w)
    first, first_state = step(opt, w, state, batch, loss)
    # The linearised step leads far beyond 2; what is left of it after the trials is taken or nothing is.
    assert jnp.isfinite(loss(first, batch))
    assert first_state.damping > state.damping
    losses, w, state = train(opt, w, 60, batch, loss)
    assert np.isfinite(losses).all()
    np.testing.assert_allclose(w["u"], 1.9, atol=1e-3)


def test_rejected_step_is_zero_and_raises_the_damping():
    """A loss with a wall on the downhill side: no length serves."""

    def wall(w, sample):
        return jnp.where(w < 1.0, jnp.nan, 1.0) * w * sample

    opt = hig_optax.adaptive_hig(wall)
    w, batch = jnp.array([1.0]), jnp.ones(1)
    updates, state = opt.update(jnp.array([1.0]), opt.init(w), w, batch=batch)
    np.testing.assert_array_equal(updates, 0)
    assert not state.accepted
    np.testing.assert_allclose(state.damping, 1e-2 * 3.0**4, rtol=1e-5)
    np.testing.assert_allclose(state.trial_scale, 1 / 256, rtol=1e-6)
    np.testing.assert_array_equal(state.momentum, 0)
    assert state.spectrum.is_finite


@pytest.mark.parametrize("bad", ["batch", "gradient", "params"])
def test_bad_numbers_give_zero_updates_and_a_flag(bad):
    opt = hig_optax.adaptive_hig(residual)
    w, batch, grads = PARAMS, BATCH, jax.grad(half_squares)(PARAMS, BATCH)
    if bad == "batch":
        batch = (X.at[0].set(jnp.nan), BATCH[1])
    elif bad == "gradient":
        grads = {**grads, "a": grads["a"].at[0].set(jnp.inf)}
    else:
        w = {**w, "a": w["a"].at[0].set(jnp.nan)}
    # A batch that says nothing does not make forgotten what others said.
    carried = jax.tree.map(lambda leaf: jnp.arange(1.0, leaf.size + 1).reshape(leaf.shape), PARAMS)
    state = opt.init(w)._replace(momentum=carried)
    updates, new = opt.update(grads, state, w, batch=batch)
    assert all(not leaf.any() for leaf in jax.tree.leaves(updates))
    assert not new.spectrum.is_finite
    assert not new.accepted
    assert new.damping == state.damping
    jax.tree.map(np.testing.assert_array_equal, new.momentum, carried)


def test_a_rate_that_is_no_number_changes_nothing():
    opt = hig_optax.adaptive_hig(residual, learning_rate=lambda count: jnp.float32(jnp.nan))
    before = opt.init(PARAMS)
    updates, after = opt.update(jax.grad(half_squares)(PARAMS, BATCH), before, PARAMS, batch=BATCH)
    assert all(not leaf.any() for leaf in jax.tree.leaves(updates))
    assert (after.accepted, after.damping, after.trial_scale) == (
        False,
        before.damping,
        before.trial_scale,
    )


@pytest.mark.parametrize(
    "way",
    [{}, {"chunk_size": 2}, {"solver": "svd"}, {"solver": "krylov", "num_matvecs": 3}],
    ids=str,
)
def test_a_linear_residual_keeps_every_promise(way):
    """Whatever is carried on: actual over predicted decrease is 1 where the model is exact."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        A, target = (jnp.asarray(rng.normal(size=s)) for s in ((12, 4, 2, 9), (12, 4, 2)))

        def rows(w, sample):
            return sample[0] @ w - sample[1]

        opt = hig_optax.adaptive_hig(rows, momentum=0.9, **way)

        def body(carry, batch):
            w, state = step(opt, *carry, batch, lambda w, b: half_squares(w, b, rows))
            return (w, state), (state.gain_ratio, state.accepted)

        start = (jnp.zeros(9), opt.init(jnp.zeros(9)))
        gains, accepted = jax.jit(lambda s, b: jax.lax.scan(body, s, b)[1])(start, (A, target))
        assert accepted.all()
        np.testing.assert_allclose(gains, 1, rtol=1e-6)


def test_a_rate_of_zero_leaves_no_trace():
    """A warm-up from 0, or a batch with nothing to gain: no length was tried, so none is ruled out."""

    def after(steps_at_zero):
        def rate(count):
            return jnp.where(count < steps_at_zero, 0.0, 1.0)

        # With an exponent of its own a fixed batch is treated as any other.
        opt = hig_optax.adaptive_hig(residual, learning_rate=rate, exponent=-0.5, **FULL_BATCH)
        losses, _, state = train(opt, PARAMS, steps_at_zero + 5)
        return losses[steps_at_zero:], state

    expected, _ = after(0)
    found, state = after(10)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert state.trial_scale == 1


def test_gradient_of_the_wrong_sign_moves_nothing():
    opt = hig_optax.adaptive_hig(residual)
    grads = jax.tree.map(jnp.negative, jax.grad(half_squares)(PARAMS, BATCH))
    updates, state = opt.update(grads, opt.init(PARAMS), PARAMS, batch=BATCH)
    assert all(not leaf.any() for leaf in jax.tree.leaves(updates))
    assert not state.accepted
    assert state.spectrum.gradient_cosine < -0.99
    assert state.damping == opt.init(PARAMS).damping


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_scale_of_the_loss_does_not_matter(scale):
    """With `loss_fn` and without, any multiple of the sum of squares gives the same step."""

    def loss(w, batch):
        return scale * half_squares(w, batch)

    expected, _ = step(
        hig_optax.adaptive_hig(residual),
        PARAMS,
        None or hig_optax.adaptive_hig(residual).init(PARAMS),
    )
    for loss_fn in (None, lambda rows, batch: scale * jnp.sum(rows**2)):
        opt = hig_optax.adaptive_hig(residual, loss_fn=loss_fn)
        found, state = step(opt, PARAMS, opt.init(PARAMS), loss=loss)
        assert state.accepted
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize(
    "loss_fn",
    [
        lambda rows, batch: jnp.mean(jnp.sqrt(1 + rows**2) - 1),  # convex, not quadratic
        lambda rows, batch: jnp.mean(jnp.abs(rows)),  # no curvature
        lambda rows, batch: jnp.mean(rows**2 / (1 + rows**2)),  # concave far out
    ],
    ids=["pseudo-huber", "absolute", "concave"],
)
def test_other_losses_fall(loss_fn):
    def loss(w, batch):
        return loss_fn(jax.vmap(residual, (None, 0))(w, batch), batch)

    opt = hig_optax.adaptive_hig(residual, loss_fn=loss_fn)
    losses, _, _ = train(opt, PARAMS, 60, loss=loss)
    assert np.all(np.diff(losses) <= 1e-6 * losses[:-1])
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("end", [-10.0, 10.0])
def test_steps_do_not_depend_on_what_a_loss_is_counted_from(end):
    """Energies and likelihoods end anywhere; noise of the batches and their repeats are told all the same."""
    w_key, noise_key = jax.random.split(jax.random.key(5))
    x = jnp.linspace(-1.0, 1.0, 6)
    targets = jnp.sin(3 * x) + 0.1 * jax.random.normal(noise_key, (80, 6))
    start = {"a": 2 * jax.random.normal(w_key, (8,)), "b": jnp.zeros(8), "c": jnp.ones(8) / 8}

    def rows(w, sample):
        return jnp.tanh(sample[0] * w["a"] + w["b"]) @ w["c"] - sample[1]

    def states(end):
        def loss_fn(rows, batch):
            return end + jnp.mean(jnp.sqrt(1 + rows**2))

        def loss(w, batch):
            return loss_fn(jax.vmap(rows, (None, 0))(w, batch), batch)

        opt = hig_optax.adaptive_hig(rows, loss_fn=loss_fn)

        def body(carry, targets):
            w, state = step(opt, *carry, (x, targets), loss)
            return (w, state), state

        return jax.jit(lambda w: jax.lax.scan(body, (w, opt.init(w)), targets))(start)[1]

    found, expected = states(end), states(0.0)
    assert expected.plateau.scale[-1] < 0.9  # there is noise to be told
    np.testing.assert_allclose(found.plateau.scale, expected.plateau.scale, rtol=1e-2)
    np.testing.assert_array_equal(found.repeats, expected.repeats)


def test_norms_and_logarithms_of_squares_train_like_squares():
    """What has the minimum of a sum of squares is as good a loss, though straight or bent downwards."""

    def root(rows, batch):
        return jnp.sqrt(jnp.mean(rows**2))

    def relative(rows, batch):
        return jnp.linalg.norm(rows) / jnp.linalg.norm(batch[1])

    def logarithm(rows, batch):
        return jnp.log(jnp.mean(rows**2))

    def end(loss_fn):
        def loss(w, batch):
            return loss_fn(jax.vmap(residual, (None, 0))(w, batch), batch)

        opt = hig_optax.adaptive_hig(residual, loss_fn=loss_fn, **FULL_BATCH)
        _, w, state = train(opt, PARAMS, 60, loss=loss)
        assert state.damping < 1e3
        return half_squares(w, BATCH)

    best = end(lambda rows, batch: jnp.mean(rows**2))
    for loss_fn in (root, relative, logarithm):
        assert end(loss_fn) < 1.05 * best


@pytest.mark.parametrize("scale", [1e-24, 1e20])
def test_a_loss_of_any_size_has_its_model(scale):
    def loss_fn(rows, batch):
        return scale * jnp.mean(rows**2)

    def loss(w, batch):
        return loss_fn(jax.vmap(residual, (None, 0))(w, batch), batch)

    opt = hig_optax.adaptive_hig(residual, loss_fn=loss_fn)
    found, _ = step(opt, PARAMS, opt.init(PARAMS), loss=loss)
    opt = hig_optax.adaptive_hig(residual)
    expected, _ = step(opt, PARAMS, opt.init(PARAMS))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6)


def test_damping_stays_at_the_floor_of_the_arithmetic():
    """At a minimum where the rows do not vanish nothing can be gained: λ must not run away."""
    opt = baselines.adaptive_levenberg_marquardt(residual)
    _, _, state = train(opt, PARAMS, 300)
    assert state.damping < 1.0


def test_step_is_cut_and_the_damping_then_does_not_fall():
    opt = hig_optax.adaptive_hig(residual, max_relative_step=1e-3)
    _, state = step(opt, PARAMS, opt.init(PARAMS))
    np.testing.assert_allclose(state.step_norm, 1e-3 * 1.5, rtol=1e-5)  # ‖PARAMS‖ = 1.5
    np.testing.assert_allclose(optax.tree.norm(state.momentum), 1e-3 * 1.5, rtol=1e-5)
    assert state.gain_ratio > 0.75
    np.testing.assert_allclose(state.damping, 1e-2, rtol=1e-6)


def test_masked_leaves_are_frozen():
    opt = hig_optax.adaptive_hig(residual, mask={"a": True, "b": True, "c": False})
    w, state = step(opt, PARAMS, opt.init(PARAMS))
    assert state.accepted
    assert isinstance(state.momentum["c"], optax.MaskedNode)
    assert optax.tree.size(state.momentum) == 6
    np.testing.assert_array_equal(w["c"], PARAMS["c"])
    assert not np.allclose(w["a"], PARAMS["a"])


def test_schedule_scales_the_step():
    opt = hig_optax.adaptive_hig(
        residual, learning_rate=lambda count: jnp.where(count < 1, 0.5, 0.0)
    )
    full, _ = step(hig_optax.adaptive_hig(residual), PARAMS, opt.init(PARAMS))
    half, state = step(opt, PARAMS, opt.init(PARAMS))
    np.testing.assert_allclose(
        half["a"] - PARAMS["a"], 0.5 * (full["a"] - PARAMS["a"]), rtol=1e-4, atol=1e-7
    )
    stays, state = step(opt, half, state)
    assert int(state.count) == 2
    np.testing.assert_array_equal(stays["a"], half["a"])


def test_one_trace_in_every_loop():
    """State keeps structure, shape, dtype and weak type; jit, scan and a Python loop agree."""
    traces = []

    def counted(w, sample):
        traces.append(0)
        return residual(w, sample)

    opt = hig_optax.adaptive_hig(counted)
    jitted = jax.jit(lambda w, state: step(opt, w, state), donate_argnums=(0, 1))
    w, state = jax.tree.map(jnp.copy, (PARAMS, opt.init(PARAMS)))
    described = jax.tree.map(jax.typeof, state)
    w, state = jitted(w, state)
    first = len(traces)
    for _ in range(4):
        w, state = jitted(w, state)
    assert len(traces) == first
    assert jax.tree.map(jax.typeof, state) == described
    _, scanned, _ = train(opt, PARAMS, 5)
    np.testing.assert_allclose(scanned["a"], w["a"], rtol=1e-3)


def test_seeds_in_a_vmap_of_scans():
    def ensemble(w):
        return jax.vmap(lambda w: jax.lax.scan(body, (w, opt.init(w)), length=8))(w)

    def body(carry, _):
        w, state = carry
        return step(opt, w, state), half_squares(w, BATCH)

    opt = hig_optax.adaptive_hig(residual, momentum=0.5)
    many = jax.tree.map(lambda x: jnp.stack([x, 1.1 * x + 0.1, 0.7 * x - 0.2]), PARAMS)
    _, together = jax.jit(ensemble)(many)
    for i in range(3):
        alone, _, _ = train(opt, jax.tree.map(lambda x, i=i: x[i], many), 8)
        np.testing.assert_allclose(together[i], alone[:-1], rtol=1e-3)


def test_inject_hyperparams():
    make = optax.inject_hyperparams(hig_optax.adaptive_hig, static_args=(*hig_optax.STATIC_ARGS,))
    opt, plain = (
        make(residual, learning_rate=0.5, max_relative_step=0.05, patience=3),
        hig_optax.adaptive_hig(residual, learning_rate=0.5, max_relative_step=0.05, patience=3),
    )
    w, state = jax.jit(lambda w, s: step(opt, w, s))(PARAMS, opt.init(PARAMS))
    expected, _ = step(plain, PARAMS, plain.init(PARAMS))
    np.testing.assert_allclose(w["a"], expected["a"], rtol=1e-4)
    assert {"patience", "max_relative_step", "learning_rate"} <= set(state.hyperparams)


def test_whole_batch_residual_is_the_same():
    def whole(w, batch):
        return jax.vmap(residual, (None, 0))(w, batch)

    opt = hig_optax.adaptive_hig(whole, batch_axis=None)
    per_sample = hig_optax.adaptive_hig(residual, chunk_size=2)
    w, state = step(opt, PARAMS, opt.init(PARAMS))
    expected, other = step(per_sample, PARAMS, per_sample.init(PARAMS))
    np.testing.assert_allclose(w["a"], expected["a"], rtol=1e-5)
    # Here all rows are one sample: the loss is their sum, there the mean over six.
    np.testing.assert_allclose(state.loss, 6 * other.loss, rtol=1e-5)


def test_low_precision_parameters_are_tried_as_they_will_be_rounded():
    w = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)

    def loss(w, batch):
        return half_squares(jax.tree.map(lambda x: x.astype(jnp.float32), w), batch)

    opt = hig_optax.adaptive_hig(residual)
    losses, found, state = train(opt, w, 20, loss=loss)
    assert np.all(np.diff(losses) <= 1e-6 * losses[:-1])
    assert losses[-1] < losses[0]
    assert found["a"].dtype == jnp.bfloat16
    assert state.damping.dtype == jnp.float32


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"momentum": "none"}, "momentum must be a number or 'auto', got 'none'"),
        ({"max_relative_step": -1.0}, "max_relative_step must be finite and positive, got -1.0"),
        ({"patience": 0}, "patience must be finite and at least 1, got 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number, got nan"),
    ],
)
def test_settings_out_of_range(setting, message):
    with pytest.raises(ValueError, match=message):
        hig_optax.adaptive_hig(residual, **setting)


CUT = "hig and scale_by_hig have"
OLD = {
    "rtol": CUT,
    "atol": CUT,
    "max_rank": CUT,
    "jacobian": CUT,
    "init_relative_damping": "_replace",
    "min_relative_damping": "how noisy batches are",
}


@pytest.mark.parametrize("name", OLD)
@pytest.mark.parametrize("make", [hig_optax.adaptive_hig, baselines.adaptive_levenberg_marquardt])
def test_a_setting_that_it_had_is_refused_with_what_to_do(make, name):
    told = f"{make.__name__} has no setting {name} any more: .*{OLD[name]}"
    with pytest.raises(TypeError, match=told):
        make(residual, **{name: None})
    assert name not in inspect.signature(make).parameters


def test_what_else_is_static_is_named():
    names = r'static_args=\(\*hig_optax.STATIC_ARGS, "rows_per_sample"\)'
    with pytest.raises(TypeError, match=f"rows_per_sample must be a Python int, got .*{names}"):
        hig_optax.adaptive_hig(residual, rows_per_sample=jnp.int32(4))


def test_it_has_few_settings():
    settings = set(inspect.signature(hig_optax.adaptive_hig).parameters) - {"residual_fn"}
    assert len(settings) <= 15
    assert set(hig_optax.STATIC_ARGS) - {"residual_fn"} <= settings


def test_the_first_damping_is_in_the_state():
    opt = hig_optax.adaptive_hig(residual, exponent=-1.0, **FULL_BATCH)
    lengths = []
    for damping in (1e-3, 1.0, 1e3):
        state = opt.init(PARAMS)._replace(damping=jnp.float32(damping))
        lengths.append(float(step(opt, PARAMS, state)[1].step_norm))
    assert lengths[0] > 1.5 * lengths[1] > 1.5 * lengths[2]


def test_params_and_batch_must_be_passed():
    opt = hig_optax.adaptive_hig(residual)
    state = opt.init(PARAMS)
    with pytest.raises(ValueError, match="params must be passed"):
        opt.update(PARAMS, state, batch=BATCH)
    with pytest.raises(ValueError, match="batch must be passed"):
        opt.update(PARAMS, state, PARAMS)


def marquardt(w, batch, steps):
    """Levenberg-Marquardt in NumPy, written from the book: one trial a step, λ by the gain ratio."""
    flat, unravel = jax.flatten_util.ravel_pytree(w)
    x, lam, losses = np.asarray(flat), 1e-2, []
    for _ in range(steps):
        r, J = dense(unravel(jnp.asarray(x)), batch)
        damped = J.T @ J + lam * np.sum(J**2) / min(J.shape) * np.eye(x.size)
        d = np.linalg.solve(damped, J.T @ r)
        r_new, _ = dense(unravel(jnp.asarray(x - d)), batch)
        gain = (r @ r - r_new @ r_new) / (r @ r - np.sum((r - J @ d) ** 2))
        lam *= 1 / 3 if gain > 0.75 else 3 if gain < 0.25 else 1
        if gain > 0:
            x = x - d
        losses.append(float(r_new @ r_new if gain > 0 else r @ r) / 12)
    return losses


def test_levenberg_marquardt_keeps_pace_with_the_textbook():
    with jax.enable_x64(True):
        w, batch = jax.tree.map(lambda x: x.astype(jnp.float64), (PARAMS, BATCH))
        opt = baselines.adaptive_levenberg_marquardt(residual)
        losses, _, _ = train(opt, w, 200, batch)
        expected = marquardt(w, batch, 200)
    # Both creep along a flat valley in the end; ours must be no further from its bottom.
    assert losses[-1] <= expected[-1] * (1 + 1e-8)
    steps, textbook = (
        np.argmax(np.asarray(curve) <= 1.001 * expected[-1]) for curve in (losses[1:], expected)
    )
    assert steps <= 1.2 * textbook + 2


def forward_only(w, x):
    """A loop whose number of turns depends on values: no reverse rule."""
    return jax.lax.while_loop(lambda c: c[0] < 3.0, lambda c: (c[0] + 1.0, jnp.sin(c[1])), (x, w))[
        1
    ]


def test_no_gradient_is_needed():
    opt, w, x = hig_optax.adaptive_hig(forward_only), jnp.array([0.5, -1.0]), jnp.arange(3.0)
    state, losses = opt.init(w), []
    step = jax.jit(lambda w, state: opt.update(None, state, w, batch=x))
    for _ in range(10):
        updates, state = step(w, state)
        w = optax.apply_updates(w, updates)
        losses.append(float(state.loss))
    assert np.isnan(state.spectrum.gradient_cosine)
    assert losses[-1] < 1e-3 * losses[0]


def test_without_a_gradient_the_step_is_the_same():
    opt, grads = hig_optax.adaptive_hig(residual), jax.grad(half_squares)(PARAMS, BATCH)
    with_it, without = (
        opt.update(g, opt.init(PARAMS), PARAMS, batch=BATCH)[0] for g in (grads, None)
    )
    jax.tree.map(np.testing.assert_array_equal, with_it, without)
