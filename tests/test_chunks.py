"""J in slices: the same direction as from a J that is held, whatever is sliced and along which side."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core as jex
from matrices import relative_error

import hig_optax


def dense(p, x):
    """Two layers that are not recognised as such, all columns of J in slices."""
    h = jnp.tanh(jnp.einsum("ij,i->j", 1.0 * p["A"], x) + p["b"])
    return jnp.einsum("ij,i->j", 1.0 * p["B"], h)


def factored(p, x):
    """Two layers kept as outer products, the bias as it is."""
    return jnp.tanh(x @ p["A"] + p["b"]) @ p["B"]


def mixed(p, x):
    """A layer in slices, the other one as outer products."""
    h = jnp.tanh(jnp.einsum("ij,i->j", 1.0 * p["A"], x) + p["b"])
    return h @ p["B"]


NETWORKS = {"dense": dense, "factored": factored, "mixed": mixed}
HIDDEN, OUT = 20, 3


def problem(net, num_samples, dtype, *, whole_batch=False):
    rng = np.random.default_rng(0)
    params = {
        name: jnp.asarray(rng.normal(size=shape), dtype)
        for name, shape in {"A": (5, HIDDEN), "b": (HIDDEN,), "B": (HIDDEN, OUT)}.items()
    }
    batch = tuple(jnp.asarray(rng.normal(size=(num_samples, k)), dtype) for k in (5, OUT))

    def residual_fn(p, sample):
        return net(p, sample[0]) - sample[1]

    def rows(p, batch):
        return jax.vmap(residual_fn, (None, 0))(p, batch)

    def loss_fn(rows, batch):
        return jnp.mean(jnp.sum(rows**2, axis=-1))

    gradient = jax.grad(lambda p: loss_fn(rows(p, batch), batch))(params)
    return (rows if whole_batch else residual_fn), loss_fn, params, gradient, batch


def flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


# Network, samples, settings, chunk size (3 does not divide 7). m = 21 < n = 180, or m = 600 > n, each with
# slices of rows by samples, of single rows, of columns.
CASES = [
    ("dense", 7, {}, 3),
    ("factored", 7, {}, 3),
    ("mixed", 7, {}, 3),
    ("dense", 200, {}, 50),
    ("dense", 7, {"batch_axis": None}, 8),
    ("dense", 7, {"batch_axis": None, "jacobian": "forward"}, 20),
    ("dense", 200, {"batch_axis": None, "jacobian": "forward"}, 10),
]


@pytest.mark.parametrize(
    ("net", "num_samples", "settings", "chunk_size", "dtype"),
    [(*case, np.float64) for case in CASES] + [(*case, np.float32) for case in CASES[2:4]],
)
def test_chunks_change_nothing(net, num_samples, settings, chunk_size, dtype):
    with jax.enable_x64(dtype == np.float64):
        whole_batch = "batch_axis" in settings
        residual_fn, loss_fn, *args = problem(
            NETWORKS[net], num_samples, dtype, whole_batch=whole_batch
        )

        @jax.jit
        def updates(params, gradient, batch):
            found = []
            for given in (None, loss_fn):
                for size in (None, chunk_size):
                    opt = hig_optax.scale_by_hig(
                        residual_fn, loss_fn=given, solver="gram", chunk_size=size, **settings
                    )
                    found.append(opt.update(gradient, opt.init(params), params, batch=batch))
            return found

        found = jax.tree.map(np.asarray, updates(*args))
    # In float32 J is rounded otherwise in other chunks: ε·σ₁/σ_rank times the cancellation in the rows, 10 to
    # 100 here with the cotangent; from the gradient nothing more, since it is the same one.
    tolerance = 1e-12 if dtype == np.float64 else 2e-5
    for (whole, whole_state), (chunked, state) in (found[:2], found[2:]):
        assert relative_error(flat(chunked), flat(whole)) < tolerance
        assert state.spectrum.rank == whole_state.spectrum.rank
        for value, expected in zip(*map(jax.tree.leaves, (state, whole_state)), strict=True):
            np.testing.assert_allclose(value, expected, rtol=10 * tolerance, atol=tolerance)


def test_momentum_of_adaptive_steps_is_the_same():
    residual_fn, loss_fn, params, gradient, batch = problem(dense, 7, np.float32)

    def two_steps(chunk_size):
        opt = hig_optax.adaptive_hig(residual_fn, loss_fn=loss_fn, chunk_size=chunk_size)
        state = opt.init(params)
        for _ in range(2):
            updates, state = opt.update(gradient, state, params, batch=batch)
        return updates, state.spectrum.gradient_cosine

    whole, chunked = jax.jit(lambda: (two_steps(None), two_steps(3)))()
    assert relative_error(flat(chunked[0]), flat(whole[0])) < 2e-5
    assert chunked[1] == pytest.approx(1, abs=1e-5)


def largest_array(jaxpr):
    """Entries of the largest array in a program, loop bodies included."""
    sizes = [np.prod(v.aval.shape, dtype=int) for eqn in jaxpr.eqns for v in eqn.outvars]
    inner = [largest_array(j) for e in jaxpr.eqns for j in jex.jaxprs_in_params(e.params)]
    return max([0, *sizes, *inner])


@pytest.mark.parametrize(("net", "num_samples", "settings", "chunk_size"), CASES)
def test_nothing_as_large_as_the_jacobian_is_held(net, num_samples, settings, chunk_size):
    whole_batch = "batch_axis" in settings
    residual_fn, _, params, gradient, batch = problem(
        NETWORKS[net], num_samples, np.float32, whole_batch=whole_batch
    )

    def largest(chunk_size):
        opt = hig_optax.scale_by_hig(residual_fn, solver="gram", chunk_size=chunk_size, **settings)
        update = functools.partial(opt.update, batch=batch)
        jaxpr = jax.make_jaxpr(update)(gradient, opt.init(params), params).jaxpr
        return largest_array(jaxpr)

    assert largest(chunk_size) < num_samples * OUT * flat(params).size
    if net != "factored":  # of which there is nothing large without chunks either
        assert largest(chunk_size) < largest(None)


def test_values_that_are_not_finite_are_seen():
    residual_fn, _, params, gradient, batch = problem(mixed, 7, np.float32)
    opt = hig_optax.scale_by_hig(residual_fn, solver="gram", chunk_size=3)
    update = jax.jit(lambda batch: opt.update(gradient, opt.init(params), params, batch=batch))
    updates, state = update((batch[0].at[6, 0].set(jnp.nan), batch[1]))
    assert not state.spectrum.is_finite
    assert not flat(updates).any()
    assert update(batch)[1].spectrum.is_finite


def test_an_ensemble_is_a_loop():
    residual_fn, _, params, gradient, batch = problem(mixed, 7, np.float32)
    opt = hig_optax.scale_by_hig(residual_fn, solver="gram", chunk_size=3)

    def update(batch):
        return opt.update(gradient, opt.init(params), params, batch=batch)[0]

    batches = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), batch)
    together = jax.jit(jax.vmap(update))(batches)
    for i in range(2):
        alone = jax.jit(update)(jax.tree.map(lambda x, i=i: x[i], batches))
        each = jax.tree.map(lambda x, i=i: x[i], together)
        assert relative_error(flat(each), flat(alone)) < 2e-5


def test_derivatives_pass_through_chunks_in_a_float64_program():
    with jax.enable_x64(True):
        residual_fn, _, params, gradient, batch = problem(mixed, 7, np.float64)

        def length(scale, chunk_size):
            opt = hig_optax.scale_by_hig(
                residual_fn, solver="gram", chunk_size=chunk_size, rtol=1e-3
            )
            scaled = jax.tree.map(lambda x: scale * x, params)
            updates, _ = opt.update(gradient, opt.init(params), scaled, batch=batch)
            return sum(jnp.sum(x**2) for x in jax.tree.leaves(updates))

        whole, chunked = jax.jit(lambda s: [jax.grad(length)(s, size) for size in (None, 3)])(1.0)
    np.testing.assert_allclose(chunked, whole, rtol=1e-8)
