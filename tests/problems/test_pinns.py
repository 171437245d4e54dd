"""What holds for every physics-informed network, and for the equation and the reference of each."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hig_optax import problems
from hig_optax.problems import _derivatives as derivatives
from hig_optax.problems.allen_cahn import etdrk4_solution
from hig_optax.problems.burgers import cole_hopf

SIZES = {  # rows of a step, parameters
    "allen-cahn": (1700, 2273),
    "burgers": (2200, 1341),
    "heat-1d": (990, 257),
    "helmholtz": (1200, 5301),
    "kovasznay": (1100, 5403),
    "poisson-2d": (1020, 129),
    "poisson-5d": (800, 10065),
}
every_pinn = pytest.mark.parametrize("name", SIZES)


def small(name, **settings):
    return dataclasses.replace(
        problems.get(name), **{"num_interior": 12, "num_boundary": 20, **settings}
    )


@functools.cache
def _setup(name):
    """A problem of 32 points, weights, points and solution, in float64."""
    with jax.enable_x64(True):
        problem = small(name)
        train, test = problem.data(jax.random.key(1))
        return problem, problem.init(jax.random.key(0)), train, test


def test_every_pinn_is_here():
    assert set(SIZES) == {
        name
        for name in problems.PROBLEMS
        if isinstance(problems.get(name), problems.PhysicsInformed)
    }


@every_pinn
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sizes_and_dtypes(name, dtype):
    with jax.enable_x64(dtype == np.float64):
        problem = problems.get(name)
        params = jax.eval_shape(problem.init, jax.random.key(0))
        train, test = jax.eval_shape(problem.data, jax.random.key(1))
        rows = {
            block: jax.eval_shape(jax.vmap(f, (None, 0)), params, train[block])
            for block, f in problem.residual.items()
        }
        error = jax.eval_shape(problem.relative_error, params, test)
        loss = jax.eval_shape(problem.loss, params, train)
    assert set(train) == set(problem.residual) == {"interior", "boundary"}
    assert sum(len(points) for points in train.values()) == problem.num_points
    counts = tuple(sum(x.size for x in jax.tree.leaves(tree)) for tree in (rows, params))
    assert counts == SIZES[name]
    assert jax.tree.map(jnp.shape, train) == jax.tree.map(jnp.shape, test.points)
    assert error.shape == loss.shape == ()
    everything = (params, train, test, rows, error, loss)
    assert {leaf.dtype for leaf in jax.tree.leaves(everything)} == {np.dtype(dtype)}


@every_pinn
def test_points_lie_inside_and_on_the_faces(name):
    problem, _, train, test = _setup(name)
    low, high = np.array(problem.box.low), np.array(problem.box.high)
    for points in (*train.values(), *test.points.values(), test.x):
        assert ((low <= np.asarray(points)) & (np.asarray(points) <= high)).all()
    faces = problem.box.faces
    for i, x in enumerate(np.asarray(train["boundary"])):
        axis, value = faces[i % len(faces)]
        assert x[axis] == value


@every_pinn
def test_fixed_points_are_those_of_the_data_and_fresh_ones_new_at_every_step(name):
    problem, _, train, test = _setup(name)
    with jax.enable_x64(True):
        draw = jax.jit(lambda problem, key, step: problem.draw(key, step, train), static_argnums=0)
        key = jax.random.key(2)
        jax.tree.map(np.testing.assert_array_equal, draw(problem, key, 7), train)
        fresh = small(name, fixed_points=False)
        first, again, later = draw(fresh, key, 0), draw(fresh, key, 0), draw(fresh, key, 1)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    sets = (train, test.points, first, later)
    for block in train:
        flat = np.concatenate([np.unique(points[block], axis=0) for points in sets])
        assert len(np.unique(flat, axis=0)) == sum(len(points[block]) for points in sets)


def test_a_batch_of_another_size_is_refused():
    problem = small("burgers")
    train, _ = problem.data(jax.random.key(0))
    assert problem.draw(jax.random.key(1), 0, train, 32) is train
    with pytest.raises(ValueError, match=r"takes all its 32 points.*batch_size=8.*num_interior"):
        problem.draw(jax.random.key(1), 0, train, 8)


@every_pinn
def test_the_loss_is_the_weighted_mean_square(name):
    _, params, train, _ = _setup(name)
    with jax.enable_x64(True):
        heavy = small(name, boundary_weight=3.0)
        inside = [
            heavy.equation(functools.partial(heavy.field, params), x) for x in train["interior"]
        ]
        missed = [
            heavy.compared(heavy.field(params, x)) - heavy.given(x) for x in train["boundary"]
        ]
        expected = np.sum(np.square(inside)) / 12 + 3 * np.sum(np.square(missed)) / 20
        np.testing.assert_allclose(heavy.loss(params, train), expected, rtol=1e-12)


@every_pinn
def test_the_relative_error_of_the_solution_is_zero_and_of_nothing_one(name):
    problem, params, _, test = _setup(name)
    with jax.enable_x64(True):
        nothing = jax.tree.map(jnp.zeros_like, params)
        np.testing.assert_allclose(problem.relative_error(nothing, test), 1.0, rtol=1e-12)
        x, u = test.x[::97], test.u[::97]
        part = test._replace(x=x, u=u)
        said = jnp.stack([problem.compared(problem.field(params, point)) for point in x])
        expected = np.linalg.norm(said - u) / np.linalg.norm(u)
        np.testing.assert_allclose(problem.relative_error(params, part), expected, rtol=1e-12)


@every_pinn
def test_what_is_given_is_the_solution(name):
    problem, _, _, test = _setup(name)
    with jax.enable_x64(True):
        for axis, value in problem.box.faces:
            on_face = np.flatnonzero(test.x[:, axis] == value)[:40]
            given = jax.vmap(problem.given)(test.x[on_face])
            # Both are formulas in float64, or modes of one.
            np.testing.assert_allclose(test.u[on_face], given, atol=1e-12)


@pytest.mark.parametrize("name", ["heat-1d", "helmholtz", "kovasznay", "poisson-2d", "poisson-5d"])
def test_the_exact_solution_leaves_no_rows(name):
    problem, _, train, _ = _setup(name)
    exact = getattr(problem, "exact", problem.given)
    with jax.enable_x64(True):
        rows = jax.vmap(lambda x: problem.equation(exact, x))(train["interior"])
        # Differences of numbers up to 168 in float64, from a few dozen operations each.
        np.testing.assert_allclose(rows, 0, atol=1e-12)
        # A solution that is off is noticed.
        rows = jax.vmap(
            lambda x: problem.equation(lambda y: exact(y) + 0.01 * y[0] ** 2 * y[1] ** 2, x)
        )(train["interior"])
        assert np.abs(rows).max() > 1e-3


@every_pinn
def test_the_jacobian_of_the_rows_agrees_with_finite_differences(name):
    problem, params, train, _ = _setup(name)
    h = 1e-6
    with jax.enable_x64(True):
        theta, unravel = jax.flatten_util.ravel_pytree(params)
        direction = jnp.asarray(np.random.default_rng(0).normal(size=theta.size))
        for block, rows in problem.residual.items():
            x = train[block][3]

            @jax.jit
            def along(v, rows=rows, x=x):
                def flat(theta):
                    return rows(unravel(theta), x)

                ahead, behind = flat(theta + h * v), flat(theta - h * v)
                return jax.jacrev(flat)(theta) @ v, (ahead - behind) / (2 * h)

            reverse, difference = along(direction)
            # Central differences: rounding of ε/h = 2e-10, truncation of h² times a third derivative, which
            # grows with the third power of a direction of norm √n.
            scale = np.abs(reverse).max()
            np.testing.assert_allclose(difference, reverse, rtol=0, atol=1e-5 * scale)


def test_derivatives_of_a_polynomial():
    with jax.enable_x64(True):
        x = jnp.array([0.3, -0.7])

        def field(x):
            return jnp.stack([x[0] ** 3 * x[1], x[1] ** 2])

        value, slope, curvature = derivatives.twice_along(field, x, 0)
        np.testing.assert_allclose(value, [0.3**3 * -0.7, 0.49], rtol=1e-14)
        np.testing.assert_allclose(slope, [3 * 0.3**2 * -0.7, 0], rtol=1e-14)
        np.testing.assert_allclose(curvature, [6 * 0.3 * -0.7, 0], rtol=1e-14)
        np.testing.assert_allclose(derivatives.along(field, x, 1)[1], [0.3**3, -1.4], rtol=1e-14)
        np.testing.assert_allclose(derivatives.laplacian(field, x), [6 * 0.3 * -0.7, 2], rtol=1e-14)


def test_the_reference_of_burgers_solves_the_equation():
    nu, places = 0.01 / np.pi, 2048
    x = 2 * np.arange(places) / places - 1
    k = np.pi * np.fft.fftfreq(places, 1 / places)
    for time in (0.1, 0.5, 1.0):
        t = np.full(places, time)
        u = cole_hopf(t, x, nu)
        u_t = cole_hopf(t + 1e-30j, x, nu).imag / 1e-30  # no difference is taken, hence no rounding
        modes = np.fft.fft(u)
        u_x, u_xx = (np.fft.ifft((1j * k) ** n * modes).real for n in (1, 2))
        terms = u_t, u * u_x, nu * u_xx
        residual = terms[0] + terms[1] - terms[2]
        # Slopes of up to 150: derivatives by modes up to k = 3200 multiply rounding by k² ν = 3e4.
        np.testing.assert_allclose(residual, 0, atol=1e-9)
        assert max(np.abs(term).max() for term in terms) > 1


def test_the_reference_of_burgers_converges_with_its_nodes():
    t, x = np.meshgrid(np.linspace(0, 1, 5), np.linspace(-1, 1, 65), indexing="ij")
    nu = 0.01 / np.pi
    errors = [np.abs(cole_hopf(t, x, nu, n) - cole_hopf(t, x, nu, 150)).max() for n in (25, 50)]
    assert errors[1] < 1e-2 * errors[0]
    np.testing.assert_allclose(cole_hopf(t, x, nu), cole_hopf(t, x, nu, 150), atol=1e-13)
    np.testing.assert_allclose(cole_hopf(t[0], x[0], nu), -np.sin(np.pi * x[0]), atol=1e-15)


def test_the_reference_of_allen_cahn_is_of_fourth_order_in_time():
    # Twice the rate and coarse steps: errors must stand out from rounding.
    u = [etdrk4_solution(1e-2, 10.0, 64, steps)[-1] for steps in (1, 2, 4, 8)]
    changes = np.linalg.norm(np.diff(u, axis=0), axis=1)
    np.testing.assert_allclose(changes[:-1] / changes[1:], 16, rtol=0.25)


def test_the_reference_of_allen_cahn_solves_the_equation():
    D, rate, places = 1e-3, 5.0, 512
    u = etdrk4_solution(D, rate, places)
    k = np.pi * np.arange(places // 2 + 1)
    u_xx = np.fft.irfft(-(k**2) * np.fft.rfft(u), places)
    change = rate * (u - u**3) + D * u_xx
    # Simpson's rule over two intervals of 0.01: its error is of their fifth power.
    gained = (change[:-2] + 4 * change[1:-1] + change[2:]) * 0.01 / 3
    late = slice(50, None)  # the kink of the start has gone
    np.testing.assert_allclose((u[2:] - u[:-2])[late], gained[late], atol=1e-7)
    assert np.abs(gained[late]).max() > 1e-3


def test_the_reference_of_allen_cahn_converges_with_its_modes():
    u = [etdrk4_solution(1e-4, 5.0, points, 2) for points in (256, 512, 1024)]
    coarse, fine, finest = u[0], u[1][:, ::2], u[2][:, ::4]
    # The kink of the start leaves modes that fall with the square of their number.
    assert np.linalg.norm(fine - finest) < 0.4 * np.linalg.norm(coarse - fine)
    assert np.linalg.norm(fine - finest) < 5e-5 * np.linalg.norm(finest)


@every_pinn
def test_recommended_settings_have_a_rate_and_no_batch(name):
    recommended = problems.get(name).recommended
    assert {"hig", "gauss-newton", "adam"} <= set(recommended)
    for settings in recommended.values():
        assert "batch_size" not in settings  # every step takes all points
        assert settings["learning_rate"] is None or settings["learning_rate"] > 0
