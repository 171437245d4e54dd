import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import hig_optax
from hig_optax import problems
from hig_optax.experiments import bench, on_points, transcription
from hig_optax.experiments.clock import race
from hig_optax.experiments.losses import batch_loss


def test_the_transcription_is_the_method(swing):
    params, batch = swing.init(jax.random.key(0)), swing.data(jax.random.key(1))[0]
    with jax.enable_x64(True):
        params, batch = (jax.tree.map(lambda x: x.astype(jnp.float64), t) for t in (params, batch))
        stepped = jax.jit(transcription.half_inverse_step(swing, rtol=1e-4))(params, batch)
        optimizer = hig_optax.hig(1.0, swing.residual, rtol=1e-4)

        @jax.jit
        def update(params, batch):
            grads = jax.grad(batch_loss(swing))(params, batch)
            return optimizer.update(grads, optimizer.init(params), params, batch=batch)[0]

        updates = update(params, batch)
        for name in params:
            np.testing.assert_allclose(params[name] + updates[name], stepped[name], rtol=1e-8)


def test_complex_rows_count_twice():
    y = jnp.array([[1.0 + 2.0j, 3.0 - 1.0j]])
    flat = transcription._real(y)
    assert flat.shape == (4,)
    np.testing.assert_array_equal(transcription._like(flat, y), y)


def test_the_race_calls_everyone_and_slow_ones_less_often():
    calls = {"quick": 0, "slow": 0}

    def call(name, size):
        calls[name] += 1
        return np.linalg.eigvalsh(np.eye(size))

    timings = race(
        {"quick": lambda: call("quick", 10), "slow": lambda: call("slow", 300)}, seconds=0.05
    )
    assert timings["quick"].median < timings["slow"].median
    assert 1 <= timings["slow"].repeats <= timings["quick"].repeats <= 50
    assert calls["slow"] < calls["quick"]


def test_the_bench_writes_one_table(swing, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "BATCH_SIZES", {"swing": 4})
    monkeypatch.setattr(bench, "SOLVERS", ("gram",))
    table, written = bench.step(["swing"], out=tmp_path, quick=True)
    assert [path.name for path in written] == ["bench-step.json", "bench-step.md"]
    assert table.rows[0][:2] == ("swing, b=4, 8×48", "gram")
    assert all(float(cell.rstrip("*")) > 0 for cell in table.rows[0][2:])
    with pytest.raises(ValueError, match="No bench of nowhere"):
        bench.step(["nowhere"], out=tmp_path)


def test_a_step_on_fixed_points_is_timed_beside_its_parts(tmp_path, monkeypatch):
    small = problems.Poisson2D(hidden=(4,), num_interior=12, num_boundary=8)
    monkeypatch.setattr(problems, "PROBLEMS", {small.name: None, "toy": None})
    monkeypatch.setattr(problems, "get", {small.name: small, "toy": problems.Toy()}.get)
    table, written = on_points.pinns(out=tmp_path, quick=True)
    assert [path.name for path in written] == ["bench-pinns.json", "bench-pinns.md"]
    assert len(table.rows) == 1
    assert table.rows[0][:2] == ("poisson-2d", "20×17")
    assert all(float(cell) > 0 for cell in table.rows[0][2:])
    assert "float64" in written[1].read_text().splitlines()[-1]
    with pytest.raises(ValueError, match="No points in toy; there are in poisson-2d"):
        on_points.pinns(["toy"], out=tmp_path)


def test_the_jacobian_of_points_is_that_of_all_rows():
    small = problems.Poisson2D(hidden=(4,), num_interior=12, num_boundary=8)
    with jax.enable_x64(True):
        params = small.init(jax.random.key(0))
        points = small.draw(jax.random.key(1), 0, small.data(jax.random.key(2))[0], 20)
        J = transcription.jacobian(small)(params, points)
        gradient = jax.grad(batch_loss(small))(params, points)
        flat, _ = ravel_pytree(gradient)
        y = jnp.concatenate(
            [
                jax.vmap(small.residual[name], (None, 0))(params, points[name]).reshape(-1)
                for name in small.residual
            ]
        )
        np.testing.assert_allclose(2 * J.T @ y, flat, rtol=1e-10, atol=1e-12)
