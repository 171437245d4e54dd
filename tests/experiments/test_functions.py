import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hig_optax.experiments import functions


@pytest.mark.parametrize("way", ["tridiagonal", "lanczos"])
def test_every_way_is_the_function(way):
    """Of a matrix with eigenvalues from 1 to 1e-8, damped by 1e-4."""
    rng = np.random.default_rng(0)
    Q, _ = np.linalg.qr(rng.normal(size=(30, 30)))
    s = np.logspace(0, -8, 30)
    w = rng.normal(size=30)
    expected = Q @ ((s + 1e-4) ** functions.POWER * (Q.T @ w))
    with jax.enable_x64(True):
        K = jnp.asarray((Q * s) @ Q.T)
        if way == "tridiagonal":
            found = functions.by_tridiagonal(K, jnp.asarray(w), 1e-4, 2.0)
        else:
            found = functions.by_lanczos(K, jnp.asarray(w), 1e-4, 0.0, 30)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_the_bench_writes_one_table(swing, tmp_path, monkeypatch):
    monkeypatch.setattr(functions, "CASES", (("swing", 8),))
    monkeypatch.setattr(functions, "KRYLOV", (4, 8))
    table, written = functions.functions(out=tmp_path, quick=True)
    assert [path.name for path in written] == ["bench-functions.json", "bench-functions.md"]
    assert [row[1] for row in table.rows] == ["λ=1e-02", "λ=1e-04", "λ=1e-06", "cut"]
    assert table.rows[0][0] == "swing, b=8, m=16"
