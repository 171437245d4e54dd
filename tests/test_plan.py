import jax.numpy as jnp
import numpy as np
import pytest

from hig_optax._jacobian import choices
from hig_optax._jacobian.choices import choose_jacobian, choose_solver


@pytest.mark.parametrize(
    ("dtype", "rtol", "expected"),
    [
        (jnp.float32, 1e-2, "gram"),
        (jnp.float32, 0.0, "gram"),
        (jnp.float32, jnp.float32(1e-6), "gram"),
        (jnp.float64, 1e-2, "gram"),
        (jnp.float64, np.float64(1e-6), "gram"),
        (jnp.float64, 1e-7, "svd"),
        (jnp.float64, jnp.float32(1e-2), "svd"),  # an array may be traced: counts as 0
    ],
)
def test_auto_solver(dtype, rtol, expected):
    assert choose_solver("auto", dtype=jnp.dtype(dtype), rtol=rtol) == expected
    assert choose_solver("svd", dtype=jnp.dtype(dtype), rtol=rtol) == "svd"
    assert choose_solver("gram", dtype=jnp.dtype(dtype), rtol=rtol) == "gram"


def test_a_backend_without_float64_gets_the_svd(monkeypatch):
    monkeypatch.setattr(choices, "target_has_float64", lambda: False)
    assert choose_solver("auto", dtype=jnp.dtype(jnp.float32), rtol=1e-2) == "svd"
    with pytest.raises(ValueError, match='solver="gram" needs float64'):
        choose_solver("gram", dtype=jnp.dtype(jnp.float32), rtol=1e-2)


@pytest.mark.parametrize(
    ("mode", "rows", "columns", "has_custom_vjp", "expected"),
    [
        ("auto", 4, 1444, False, "reverse"),
        ("auto", 30, 30, False, "reverse"),
        ("auto", 31, 30, False, "forward"),
        ("auto", 31, 30, True, "reverse"),
        ("forward", 4, 1444, False, "forward"),
        ("reverse", 31, 30, False, "reverse"),
    ],
)
def test_jacobian_mode(mode, rows, columns, has_custom_vjp, expected):
    found = choose_jacobian(mode, rows=rows, columns=columns, has_custom_vjp=has_custom_vjp)
    assert found == expected
