"""What holds for every problem in the registry."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_data import rows as real_rows

from hig_optax import problems

every_problem = pytest.mark.parametrize(
    "name", [n for n in problems.PROBLEMS if isinstance(problems.get(n), problems.SampleProblem)]
)


@functools.cache
def _setup(name):
    """The problem, weights and a mini-batch of three, in float64."""
    with jax.enable_x64(True):
        problem = problems.get(name)

        @jax.jit
        def make():
            train, _ = problem.data(jax.random.key(1))
            return problem.init(jax.random.key(0)), problem.draw(jax.random.key(2), 1, train, 3)

        return problem, *make()


@functools.cache
def _data(name):
    """Training and test set, in float32."""
    return jax.jit(problems.get(name).data)(jax.random.key(1))


def _sample(batch, i):
    return jax.tree.map(lambda leaf: leaf[i], batch)


@every_problem
def test_it_knows_its_name_and_can_be_static_under_jit(name):
    problem = problems.get(name)
    assert problem.name == name
    assert problem == problems.get(name)
    assert hash(problem) == hash(problems.get(name))
    assert problem.reduction in ("mean", "sum")


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'pendulum'.*'linear-oscillators'.*'toy'"):
        problems.get("pendulum")


@every_problem
def test_recommended_settings_are_complete(name):
    recommended = problems.get(name).recommended
    assert {"hig", "gauss-newton", "adam"} <= set(recommended)
    for settings in recommended.values():
        assert settings["batch_size"] >= 1
        rate = settings["learning_rate"]
        assert rate is None or rate > 0  # None: it is searched for at every step


@every_problem
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shapes_and_dtypes_from_data_to_loss(name, dtype):
    with jax.enable_x64(dtype == np.float64):
        problem = problems.get(name)
        params = jax.eval_shape(problem.init, jax.random.key(0))
        train, test = jax.eval_shape(problem.data, jax.random.key(1))
        for data, size in ((train, problem.num_train), (test, problem.num_test)):
            assert {leaf.shape[0] for leaf in jax.tree.leaves(data)} == {size}
        batch = jax.eval_shape(
            lambda key, step, train: problem.draw(key, step, train, 5),
            jax.random.key(2),
            jax.ShapeDtypeStruct((), np.int32),
            train,
        )
        assert jax.tree.structure(batch) == jax.tree.structure(train)
        sample = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), batch)
        rows = jax.eval_shape(problem.residual, params, sample)
        control, y = None, rows
        if isinstance(problem, problems.ControlProblem):
            control = jax.eval_shape(problem.control, params, sample)
            y = jax.eval_shape(problem.physics, control, sample)
        loss = jax.eval_shape(problem.sample_loss, rows, sample)

    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves((params, control, loss)))
    everything = jax.tree.leaves((params, train, test, batch, control, y, rows, loss))
    assert all(jnp.finfo(leaf.dtype).dtype == dtype for leaf in everything)
    assert y.shape == rows.shape
    # The rows of a likelihood are what it says of a reading, not the reading's error.
    assert y.shape == sample.target.shape or isinstance(problem, problems.NoisyLikelihood)
    assert loss.shape == ()


@every_problem
def test_a_batch_depends_on_key_and_step_alone(name):
    problem = problems.get(name)
    train, _ = _data(name)
    draw = jax.jit(lambda key, step: problem.draw(key, step, train, 4))
    key = jax.random.key(2)
    first, again, later = draw(key, 0), draw(key, 0), draw(key, 1)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.allclose(first.target, later.target)


@every_problem
def test_training_and_test_set_share_no_sample(name):
    train, test = (np.asarray(data.target).reshape(len(data.target), -1) for data in _data(name))
    assert not (train[:, None] == test[None, :50]).all(axis=-1).any()


@every_problem
def test_a_batch_is_its_samples_one_by_one(name):
    problem, params, batch = _setup(name)
    with jax.enable_x64(True):
        residual = jax.jit(problem.residual)
        loop = np.stack([residual(params, _sample(batch, i)) for i in range(3)])
        vmapped = jax.jit(jax.vmap(problem.residual, in_axes=(None, 0)))(params, batch)
        # Same formulas, another order of rounding, up to 384 time steps.
        np.testing.assert_allclose(vmapped, loop, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["linear-oscillators", "toy"])
def test_jit_changes_nothing(name):
    problem, params, _ = _setup(name)
    with jax.enable_x64(True):
        train, _ = problem.data(jax.random.key(1))

        def run(key, step):
            batch = problem.draw(key, step, train, 2)
            rows = problem.residual(params, _sample(batch, 0))
            return batch, rows, problem.sample_loss(rows, _sample(batch, 0))

        eager, jitted = (f(jax.random.key(2), jnp.int32(5)) for f in (run, jax.jit(run)))
        # Fused and single operations may round differently; the numbers are of order one.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), jitted, eager)


@every_problem
def test_the_jacobian_agrees_with_finite_differences_and_between_modes(name):
    problem, params, batch = _setup(name)
    sample = _sample(batch, 0)
    h = 1e-6

    def rows(params):
        return real_rows(problem.residual(params, sample))

    @jax.jit
    def along(direction):
        forward = jax.jvp(rows, (params,), (direction,))[1]
        reverse = sum(
            jnp.tensordot(J, v, axes=v.ndim)
            for J, v in zip(
                jax.tree.leaves(jax.jacrev(rows)(params)), jax.tree.leaves(direction), strict=True
            )
        )
        ahead = rows(jax.tree.map(lambda p, v: p + h * v, params, direction))
        behind = rows(jax.tree.map(lambda p, v: p - h * v, params, direction))
        return forward, reverse, (ahead - behind) / (2 * h)

    with jax.enable_x64(True):
        theta, unravel = jax.flatten_util.ravel_pytree(params)
        direction = np.random.default_rng(0).normal(size=theta.size)
        forward, reverse, difference = along(unravel(jnp.asarray(direction)))
    scale = np.abs(forward).max()
    # Two exact derivatives in float64, off by rounding over the steps.
    np.testing.assert_allclose(reverse, forward, rtol=0, atol=1e-11 * scale)
    # Central differences: rounding ε/h = 2e-10 of the rows, truncation h² times a third
    # derivative, which grows with the third power of a direction of norm √n.
    np.testing.assert_allclose(difference, forward, rtol=0, atol=1e-6 * scale)


@every_problem
def test_the_gradient_of_the_loss_is_finite_and_not_zero_at_the_start(name):
    problem, params, batch = _setup(name)
    with jax.enable_x64(True):

        def loss(params):
            rows = jax.vmap(problem.residual, in_axes=(None, 0))(params, batch)
            return jnp.mean(jax.vmap(problem.sample_loss)(rows, batch))

        grads = jax.tree.leaves(jax.jit(jax.grad(loss))(params))
        assert all(np.isfinite(g).all() for g in grads)
        assert any(np.abs(g).max() > 1e-8 for g in grads)
