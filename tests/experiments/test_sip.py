"""Scale-invariant physics against its formula."""

import jax
import jax.numpy as jnp
import matrices
import numpy as np
import optax
import pytest

from hig_optax import problems
from hig_optax.experiments.sip import sip_value_and_grad

# A network u = W tanh(V x), and a physics whose answers differ in scale.

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
    return sip_value_and_grad(control, physics, sample_loss, **settings)


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
    value_and_grad = sip_value_and_grad(
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
    double = sip_value_and_grad(control, physics, lambda y, s: 2 * sample_loss(y, s))
    assert_close(
        double(params, batch)[1], jax.tree.map(lambda x: 2 * x, sip()(params, batch)[1]), 1e-5
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_scaling_the_physics_changes_nothing(seed):
    """y -> c y with t -> c t: what the method has its name from. c a power of two, to the last bit."""
    params, batch = init(jax.random.key(seed)), make_batch(jax.random.key(1))
    scaled = sip_value_and_grad(
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
    value_and_grad = sip_value_and_grad(*state_and_loss(problem))
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
    value_and_grad = sip_value_and_grad(*state_and_loss(problem))
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

    trees = sip_value_and_grad(
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
    _, grads = sip_value_and_grad(
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

    value, grads = sip_value_and_grad(control, seeing, loss)(params, batch)
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

    step = jax.jit(sip_value_and_grad(control, counted, sample_loss))
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
        sip_value_and_grad(lambda p, s: p["w"] * s["t"][:2], fun, loss)(params, batch)
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


ERRORS = {
    "rtol": ({"rtol": 1.0}, ValueError, r"rtol must be in \[0, 1\), got 1.0"),
    "arity": ({"physics_fn": lambda u: u}, TypeError, "must be a function of .* got one of"),
    "integer rows": (
        {"physics_fn": lambda u, s: u.astype(int), "sample_loss_fn": lambda y, s: jnp.float32(0)},
        TypeError,
        "residual_fn must return .* got int32",
    ),
    "physics ignores u": (
        {"physics_fn": lambda u, s: s["t"]},
        ValueError,
        "no row depends on any",
    ),
    "loss per row": ({"sample_loss_fn": lambda y, s: y**2}, ValueError, "loss_fn must return"),
    "complex loss": (
        {"sample_loss_fn": lambda y, s: jax.lax.complex(y[0], y[1])},
        ValueError,
        "loss_fn must return .* complex64",
    ),
    "inverse of another shape": (
        {"inverse_fn": lambda u, y, g, s: u[:2]},
        ValueError,
        r"inverse_fn must return a control like u, .* got \(\(2,\)",
    ),
    "complex inverse": (
        {"inverse_fn": lambda u, y, g, s: jax.lax.complex(u, u)},
        ValueError,
        "inverse_fn must return a control like u, .*complex64",
    ),
}


@pytest.mark.parametrize(("changed", "error", "message"), ERRORS.values(), ids=ERRORS)
def test_bad_input(changed, error, message):
    functions = {"control_fn": control, "physics_fn": physics, "sample_loss_fn": sample_loss}
    params, batch = init(jax.random.key(0)), make_batch(jax.random.key(1))
    with pytest.raises(error, match=message):
        jax.jit(sip_value_and_grad(**functions | changed))(params, batch)
