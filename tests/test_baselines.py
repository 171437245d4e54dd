"""Gauss-Newton, Levenberg-Marquardt and scale-invariant physics against their formulas."""

import inspect

import jax
import jax.numpy as jnp
import matrices
import numpy as np
import optax
import pytest

import hig_optax
from hig_optax import baselines, problems

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
    monkeypatch.setattr(baselines, "hig", lambda *args, **kwargs: seen.update(kwargs, args=args))
    markers = {
        name: object()
        for name in inspect.signature(factory).parameters
        if name not in ("learning_rate", "residual_fn")
    }
    factory(0.1, linear_residual, **markers)
    assert seen == {"args": (0.1, linear_residual), "exponent": -1.0, **markers}


@pytest.mark.parametrize(("factory", "settings"), NEWTON_LIKE.values(), ids=NEWTON_LIKE)
def test_settings_can_be_injected(factory, settings):
    J, g = jnp.asarray(matrices.planted((3, 5), [1.0, 0.5, 0.1]), jnp.float32), jnp.ones(3)
    injected = optax.inject_hyperparams(factory, static_args=hig_optax.STATIC_ARGS)
    opt = injected(
        learning_rate=optax.linear_schedule(2.0, 0.0, 4), residual_fn=linear_residual, **settings
    )
    plain = factory(2.0, linear_residual, **settings)
    np.testing.assert_allclose(update_of(opt, J, g), update_of(plain, J, g), rtol=1e-5)


# Scale-invariant physics. A network u = W tanh(V x), and a physics whose answers differ in scale.

SCALES = np.array([1.0, 1e-1, 1e-2])


def init(key, dtype=jnp.float32):
    keys = jax.random.split(key)
    return {
        "V": jax.random.normal(keys[0], (5, 2), dtype),
        "W": jax.random.normal(keys[1], (4, 5), dtype),
    }


def control(params, sample):
    return jnp.dot(params["W"], jnp.tanh(jnp.dot(params["V"], sample["x"])))


def physics(u, sample):
    A = jnp.asarray(SCALES[:, None] * np.cos(np.outer([1, 2, 3], [1, 2, 3, 5])), u.dtype)
    return jnp.sin(jnp.dot(A, u)) + sample["x"][0]


def sample_loss(y, sample):
    return jnp.sum((y - sample["t"]) ** 2) / 2


def make_batch(key, size=6, dtype=jnp.float32):
    keys = jax.random.split(key)
    return {
        "x": jax.random.normal(keys[0], (size, 2), dtype),
        "t": jax.random.normal(keys[1], (size, 3), dtype),
    }


def sip(**settings):
    return baselines.sip_value_and_grad(control, physics, sample_loss, **settings)


def formula(params, batch, rtol):
    """Value and gradient in float64 NumPy, sample by sample, derivatives written out."""
    V, W = (np.asarray(params[k], np.float64) for k in "VW")
    X, T = (np.asarray(batch[k], np.float64) for k in "xt")
    A = SCALES[:, None] * np.cos(np.outer([1, 2, 3], [1, 2, 3, 5]))
    value, grads = 0.0, {"V": np.zeros_like(V), "W": np.zeros_like(W)}
    for x, t in zip(X, T, strict=True):
        h = np.tanh(V @ x)
        u = W @ h
        y = np.sin(A @ u) + x[0]
        J = np.cos(A @ u)[:, None] * A
        difference = np.linalg.pinv(J, rtol=rtol) @ (y - t)  # u - ũ
        value += np.sum((y - t) ** 2) / 2 / len(X)
        pull = 2 * difference / len(X)
        grads["W"] += np.outer(pull, h)
        grads["V"] += np.outer((W.T @ pull) * (1 - h**2), x)
    return value, grads


def assert_close(found, expected, tolerance):
    found, expected = (
        np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)])
        for tree in (found, expected)
    )
    assert matrices.relative_error(found, expected) < tolerance


# Between the three singular values, which are about as SCALES, and below them.
@pytest.mark.parametrize("rtol", [1e-5, 2e-2, 0.3])
@pytest.mark.parametrize(
    # float32: rounding of the Jacobian over the smallest kept singular value, about 1e-7 / 1e-2.
    ("dtype", "tolerance"),
    [(jnp.float32, 1e-4), (jnp.float64, 1e-10)],
)
def test_sip_is_the_formula(dtype, tolerance, rtol):
    with jax.enable_x64(dtype == jnp.float64):
        params = init(jax.random.key(0), dtype)
        batch = make_batch(jax.random.key(1), dtype=dtype)
        value, grads = sip(rtol=rtol)(params, batch)
        assert value.dtype == dtype
        assert jax.tree.map(lambda x: (x.shape, x.dtype), grads) == jax.tree.map(
            lambda x: (x.shape, x.dtype), params
        )
        expected_value, expected = formula(params, batch, rtol)
        np.testing.assert_allclose(value, expected_value, rtol=1e-6)
        assert_close(grads, expected, tolerance)


@pytest.mark.parametrize("solver_needs", ["wide", "tall"])
def test_one_correction_inverts_a_linear_physics(solver_needs):
    """The parameters are the control: gradient 2 (u - ũ), so half a gradient step is the correction."""
    shape = {"wide": (3, 5), "tall": (5, 3)}[solver_needs]
    A = jnp.asarray(matrices.planted(shape, [1.0, 1e-2, 1e-3]), jnp.float32)
    t = jnp.dot(A, jnp.arange(1.0, shape[1] + 1))
    value_and_grad = baselines.sip_value_and_grad(
        lambda u, _: u, lambda u, _: jnp.dot(A, u), lambda y, t: jnp.sum((y - t) ** 2) / 2
    )
    u = jnp.ones(shape[1])
    before, grads = value_and_grad(u, t[None])
    after, _ = value_and_grad(u - grads / 2, t[None])
    assert before > 0.1
    assert after < 1e-10 * before
    expected = np.linalg.pinv(np.asarray(A, np.float64)) @ (np.asarray(A @ u, np.float64) - t)
    # float32: 6e-8 in A u and t, over the smallest singular value 1e-3.
    assert matrices.relative_error(grads / 2, expected) < 1e-3


def test_without_the_half_the_correction_is_twice_as_long():
    params, batch = init(jax.random.key(0)), make_batch(jax.random.key(1))
    double = baselines.sip_value_and_grad(control, physics, lambda y, s: 2 * sample_loss(y, s))
    assert_close(
        double(params, batch)[1], jax.tree.map(lambda x: 2 * x, sip()(params, batch)[1]), 1e-5
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_scaling_the_physics_changes_nothing(seed):
    """y -> c y with t -> c t: what the method has its name from. c a power of two, to the last bit."""
    params, batch = init(jax.random.key(seed)), make_batch(jax.random.key(1))
    scaled = baselines.sip_value_and_grad(
        control,
        lambda u, s: 2.0**-12 * physics(u, s),
        lambda y, s: jnp.sum((y - 2.0**-12 * s["t"]) ** 2) / 2,
    )
    np.testing.assert_array_equal(scaled(params, batch)[1]["W"], sip()(params, batch)[1]["W"])


@pytest.mark.parametrize("name", ["linear-oscillators", "poisson", "quantum-dipole"])
def test_sip_takes_the_problems(name):
    """Problems of real and of complex answers, as they are; the gradient does not blow up."""
    problem = problems.get(name)
    params = problem.init(jax.random.key(0))
    batch = problem.draw(jax.random.key(2), 0, problem.data(jax.random.key(1))[0], 2)
    value_and_grad = baselines.sip_value_and_grad(*state_and_loss(problem))
    value, grads = jax.jit(value_and_grad)(params, batch)
    expected = jax.vmap(lambda s: problem.sample_loss(problem.residual(params, s), s))(batch)
    np.testing.assert_allclose(value, jnp.mean(expected), rtol=1e-5)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(grads))


def state_and_loss(problem):
    if problem.name == "quantum-dipole":
        return problem.control, problem.physics, problem.sample_loss
    return problem.control, lambda u, s: problem.physics(u, s) - s.target, problem.sample_loss


def test_sip_trains_the_linear_oscillators():
    problem = problems.LinearOscillators()
    train, _ = problem.data(jax.random.key(1))
    value_and_grad = baselines.sip_value_and_grad(*state_and_loss(problem))
    opt = optax.adam(1e-3)

    def step(carry, number):
        params, state = carry
        batch = problem.draw(jax.random.key(2), number, train, 64)
        value, grads = value_and_grad(params, batch)
        with jax.numpy_dtype_promotion("standard"):  # Optax raises floats to integer powers
            updates, state = opt.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), value

    params = problem.init(jax.random.key(0))
    carry = (params, opt.init(params))
    _, values = jax.jit(lambda c: jax.lax.scan(step, c, jnp.arange(300)))(carry)
    assert values[-20:].mean() < 0.02 * values[0]


def newton(u, y, cotangent, sample):
    """A user's inverse solver: a few damped least-squares iterations towards y - cotangent."""
    goal = y - cotangent

    def iterate(_, u):
        J = jax.jacfwd(physics)(u, sample)
        gram = jnp.dot(J, J.T) + 1e-6 * jnp.eye(3)
        return u - jnp.dot(J.T, jnp.linalg.solve(gram, physics(u, sample) - goal))

    # A while loop, which could not be differentiated in reverse.
    return jax.lax.fori_loop(0, jnp.int32(1), iterate, u)


def test_own_inverse_solver():
    params, batch = init(jax.random.key(0)), make_batch(jax.random.key(1))
    value, grads = jax.jit(sip(inverse_fn=newton))(params, batch)
    expected_value, expected = sip()(params, batch)
    np.testing.assert_allclose(value, expected_value, rtol=1e-6)
    # One iteration is the pseudo-inverse, but for the damping: 1e-6 over σ² = 1e-4.
    assert_close(grads, expected, 5e-2)
    kept = sip(inverse_fn=lambda u, y, cotangent, sample: u)(params, batch)
    assert all((x == 0).all() for x in jax.tree.leaves(kept[1]))


def test_own_inverse_solver_on_the_host():
    """It need not be JAX at all."""
    params, batch = init(jax.random.key(0)), make_batch(jax.random.key(1))

    def on_host(u, y, cotangent, sample):
        def invert(u):
            return np.asarray(u) - np.ones(4, np.float32)

        return jax.pure_callback(invert, u, u, vmap_method="sequential")

    _, grads = jax.jit(sip(inverse_fn=on_host))(params, batch)
    ones = jax.grad(
        lambda p: 2 * jnp.mean(jnp.sum(jax.vmap(control, (None, 0))(p, batch), axis=-1))
    )
    assert_close(grads, ones(params), 1e-5)


def as_tree(u):
    return {"complex": jax.lax.complex(u[0], u[1]), "real": u[2:]}


def tree_control(params, sample):
    return as_tree(control(params, sample))


def from_tree(u):
    return jnp.concatenate([jnp.stack([u["complex"].real, u["complex"].imag]), u["real"]])


def tree_physics(u, sample):
    y = physics(from_tree(u), sample)
    return (jax.lax.complex(y[0], y[1]), y[2])


def tree_loss(y, sample):
    return sample_loss(jnp.stack([y[0].real, y[0].imag, y[1]]), sample)


@pytest.mark.parametrize("is_own", [False, True], ids=["pseudo-inverse", "inverse_fn"])
def test_complex_numbers_count_as_two_real_ones(is_own):
    params, batch = init(jax.random.key(0)), make_batch(jax.random.key(1))

    def inverse(u, y, cotangent, sample):
        as_real = [jnp.stack([z[0].real, z[0].imag, z[1]]) for z in (y, cotangent)]
        return as_tree(newton(from_tree(u), *as_real, sample))

    trees = baselines.sip_value_and_grad(
        tree_control, tree_physics, tree_loss, inverse_fn=inverse if is_own else None
    )
    expected = sip(inverse_fn=newton if is_own else None)(params, batch)
    # Other sums, and so another rounding, magnified by σ₁/σ₃ = 1e2.
    assert_close(trees(params, batch), expected, 1e-4)


def test_complex_parameters_follow_jax_grad():
    """The gradient of the proxy is what jax.grad makes of it, conjugate convention and all."""
    params = {"V": jnp.ones((4, 2), jnp.complex64) * (1 + 2j), "b": jnp.ones(4)}

    def own_control(params, sample):
        z = jnp.dot(params["V"], sample["x"].astype(jnp.complex64))
        return z.real * z.imag + params["b"]

    batch = make_batch(jax.random.key(1))
    fixed = jnp.arange(4.0)
    _, grads = baselines.sip_value_and_grad(
        own_control, physics, sample_loss, inverse_fn=lambda u, y, g, s: fixed
    )(params, batch)
    u = jax.vmap(own_control, (None, 0))
    expected = jax.grad(lambda p: jnp.mean(jnp.sum((u(p, batch) - fixed) ** 2, axis=-1)))(params)
    for found, wanted in zip(*map(jax.tree.leaves, (grads, expected)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_low_precision_is_raised():
    params = init(jax.random.key(0), jnp.bfloat16)
    batch = make_batch(jax.random.key(1), dtype=jnp.bfloat16)
    seen = []

    def seeing(u, sample):
        seen.append(u.dtype)
        return physics(u, jax.tree.map(lambda x: x.astype(jnp.float32), sample))

    def loss(y, sample):
        return jnp.sum((y - sample["t"].astype(jnp.float32)) ** 2)

    value, grads = baselines.sip_value_and_grad(control, seeing, loss)(params, batch)
    assert set(seen) == {jnp.dtype(jnp.float32)}
    assert value.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(grads)} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("rtol", [1e-5, 2e-2])
def test_transformations(rtol):
    """jit, scan and an ensemble of seeds say what plain calls say; rtol may be traced."""
    params = jax.vmap(init)(jax.random.split(jax.random.key(0), 3))
    batch = make_batch(jax.random.key(1))
    one = jax.tree.map(lambda x: x[0], params)
    expected = sip(rtol=rtol)(one, batch)
    # Other fusions round differently; rounding is magnified by σ₁/σ₃ = 1e2.
    assert_close(jax.jit(sip(rtol=rtol))(one, batch), expected, 1e-5)
    traced = jax.jit(lambda rtol, p, b: sip(rtol=rtol)(p, b))
    assert_close(traced(rtol, one, batch), expected, 1e-5)
    _, (values, grads) = jax.jit(
        lambda p, b: jax.lax.scan(lambda c, p: (c, sip(rtol=rtol)(p, b)), 0, p)
    )(params, batch)
    assert_close(jax.tree.map(lambda x: x[0], (values, grads)), expected, 1e-5)
    ensemble = jax.vmap(jax.jit(sip(rtol=rtol)), (0, None))(params, batch)
    assert_close(ensemble, (values, grads), 1e-5)


def test_no_retrace():
    count = 0

    def counted(u, sample):
        nonlocal count
        count += 1
        return physics(u, sample)

    step = jax.jit(baselines.sip_value_and_grad(control, counted, sample_loss))
    step(init(jax.random.key(0)), make_batch(jax.random.key(1)))
    first = count
    step(init(jax.random.key(3)), make_batch(jax.random.key(4)))
    assert count == first


def test_forward_and_reverse_mode_agree():
    """More rows than controls: forward mode, unless a rule is missing."""
    params, batch = {"w": jnp.array([0.3, 0.7])}, {"t": jnp.ones((2, 5))}

    def tall(u, sample):
        return jnp.sin(jnp.dot(jnp.arange(10.0).reshape(5, 2) / 10, u))

    @jax.custom_vjp
    def reverse_only(u):
        return tall(u, None)

    reverse_only.defvjp(
        lambda u: (tall(u, None), u), lambda u, ct: jax.vjp(tall, u, None)[1](ct)[:1]
    )

    def loss(y, s):
        return jnp.sum((y - s["t"]) ** 2)

    forward, reverse = (
        baselines.sip_value_and_grad(lambda p, s: p["w"] * s["t"][:2], fun, loss)(params, batch)
        for fun in (tall, lambda u, s: reverse_only(u))
    )
    assert_close(reverse, forward, 1e-5)


def test_batch_axis():
    params, batch = init(jax.random.key(0)), make_batch(jax.random.key(1))
    other = {"x": batch["x"].T, "t": batch["t"]}
    found = sip(batch_axis={"x": 1, "t": 0})(params, other)
    assert_close(found, sip()(params, batch), 1e-6)
    shared = {"x": batch["x"], "t": batch["t"][0]}
    everywhere = {"x": batch["x"], "t": jnp.broadcast_to(batch["t"][0], batch["t"].shape)}
    assert_close(
        sip(batch_axis={"x": 0, "t": None})(params, shared), sip()(params, everywhere), 1e-6
    )


def test_not_finite():
    params, batch = init(jax.random.key(0)), make_batch(jax.random.key(1))
    batch["t"] = batch["t"].at[0, 0].set(jnp.nan)
    value, grads = jax.jit(sip())(params, batch)
    assert jnp.isnan(value)
    assert all(jnp.isnan(x).all() for x in jax.tree.leaves(grads))


FACTORY_ERRORS = {
    "rtol": (lambda: sip(rtol=1.0), ValueError, r"rtol must be in \[0, 1\), got 1.0"),
    "batch_axis": (lambda: sip(batch_axis=None), ValueError, "batch_axis must be .* got None"),
    "no function": (
        lambda: baselines.sip_value_and_grad(control, physics, 3.0),
        TypeError,
        r"sample_loss_fn must be a function of \(y, sample\), got 3.0",
    ),
    "arity": (
        lambda: baselines.sip_value_and_grad(control, lambda u: u, sample_loss),
        TypeError,
        r"physics_fn must be a function of \(u, sample\), got one of \(u\)",
    ),
    "inverse arity": (
        lambda: sip(inverse_fn=lambda u, y: u),
        TypeError,
        r"inverse_fn must be a function of \(u, y, cotangent, sample\)",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), FACTORY_ERRORS.values(), ids=FACTORY_ERRORS)
def test_bad_settings(call, error, message):
    with pytest.raises(error, match=message):
        call()


NONE = jnp.zeros(0)
TRACE_ERRORS = {
    "no control": (
        {"control_fn": lambda p, s: NONE},
        ValueError,
        "control_fn must return at least",
    ),
    "no rows": (
        {"physics_fn": lambda u, s: NONE},
        ValueError,
        "physics_fn must return at least one",
    ),
    "integer control": (
        {"control_fn": lambda p, s: jnp.arange(3)},
        TypeError,
        "control_fn must return real or complex floating-point numbers, got int32 at the root",
    ),
    "integer rows": (
        {"physics_fn": lambda u, s: {"y": u.astype(int)}},
        TypeError,
        r"physics_fn must return .* got int32 at \['y'\]",
    ),
    "control ignores params": (
        {"control_fn": lambda p, s: s["x"]},
        ValueError,
        "control_fn ignores its first argument: .* depends on params",
    ),
    "physics ignores u": (
        {"physics_fn": lambda u, s: s["t"]},
        ValueError,
        "physics_fn ignores its first argument: .* depends on u",
    ),
    "loss per row": (
        {"sample_loss_fn": lambda y, s: y**2},
        ValueError,
        r"sample_loss_fn must return a real scalar, got shape \(3,\)",
    ),
    "complex loss": (
        {"sample_loss_fn": lambda y, s: jax.lax.complex(y[0], y[1])},
        ValueError,
        "sample_loss_fn must return a real scalar, .* complex64",
    ),
    "inverse of another shape": (
        {"inverse_fn": lambda u, y, g, s: u[:2]},
        ValueError,
        r"inverse_fn must return a control like u, got \(2,\)",
    ),
    "complex inverse": (
        {"inverse_fn": lambda u, y, g, s: jax.lax.complex(u, u)},
        ValueError,
        r"inverse_fn must return a control like u, .*complex64",
    ),
    "integer parameters": (
        {"params": {"V": jnp.ones((5, 2), int), "W": jnp.ones((4, 5))}},
        TypeError,
        r"params must hold .* got int32 at \['V'\]",
    ),
    "sizes differ": (
        {"batch": {"x": jnp.ones((3, 2)), "t": jnp.ones((4, 3))}},
        ValueError,
        "batch leaves must have the same number of samples",
    ),
    "empty batch": (
        {"batch": {"x": jnp.ones((0, 2)), "t": jnp.ones((0, 3))}},
        ValueError,
        "batch must hold at least one sample",
    ),
}


@pytest.mark.parametrize(("changed", "error", "message"), TRACE_ERRORS.values(), ids=TRACE_ERRORS)
def test_bad_input(changed, error, message):
    functions = {"control_fn": control, "physics_fn": physics, "sample_loss_fn": sample_loss}
    arguments = {"params": init(jax.random.key(0)), "batch": make_batch(jax.random.key(1))}
    for key in arguments:
        arguments[key] = changed.get(key, arguments[key])
    functions |= {k: v for k, v in changed.items() if k not in arguments}
    with pytest.raises(error, match=message):
        jax.jit(baselines.sip_value_and_grad(**functions))(**arguments)


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
