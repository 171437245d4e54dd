"""Operations and memory counted off a jaxpr, against figures known by hand."""

import jax
import jax.numpy as jnp
import pytest

from hig_optax._planning.cost import cost_of


def cost(fun, *shapes):
    return cost_of(jax.make_jaxpr(fun)(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes)))


@pytest.mark.parametrize(
    ("fun", "shapes", "flops", "peak"),
    [
        # A product reads arguments and writes its result.
        (lambda a, b: a @ b, [(3, 5), (5, 7)], 2 * 3 * 5 * 7, 4 * 3 * 7),
        # Elementwise chains are fused: one result, no intermediate values.
        (lambda a: jnp.exp(jnp.sin(a) + 1), [(10,)], 30, 40),
        # Sums leave one number.
        (lambda a: jnp.sum(a * a), [(10,)], 20, 4),
        # Of two products in a row the first is freed after the second, at which both are there.
        (lambda a: (a @ a) @ a, [(4, 4)], 4 * 64, 128),
        (lambda a: ((a @ a) @ a) @ a, [(4, 4)], 6 * 64, 128),
        # Another order of reading is no other value.
        (lambda a: (a @ a).T.reshape(2, 8), [(4, 4)], 2 * 64, 64),
        # Within calls as without.
        (jax.jit(lambda a: jax.jit(lambda b: b @ b)(a) @ a), [(4, 4)], 4 * 64, 128),
        (jax.checkpoint(lambda a: (a @ a) @ a), [(4, 4)], 4 * 64, 128),
        # Vectors, and twice a matrix of workspace.
        (
            lambda a: jnp.linalg.eigh(a, symmetrize_input=False)[0],
            [(4, 4)],
            9 * 64,
            4 * (16 + 4 + 32),
        ),
    ],
)
def test_small_programs(fun, shapes, flops, peak):
    found = cost(fun, *shapes)
    assert found.peak_bytes == peak
    assert found.flops == flops


def test_a_loop_costs_its_body_so_often_and_the_memory_of_one_round():
    def loop(a):
        return jax.lax.scan(lambda x, _: (jnp.tanh(a @ (a @ x)), None), a, None, length=10)[0]

    found = cost(loop, (4, 4))
    assert found.flops == 10 * (2 * 2 * 64 + 16)
    assert 64 <= found.peak_bytes <= 3 * 64  # the carry, and two products in the body


def test_what_a_loop_stacks_is_held():
    found = cost(lambda a: jax.lax.map(lambda i: a * i, jnp.arange(100.0)), (10,))
    assert 4000 <= found.peak_bytes < 4600


def test_the_costlier_branch_counts():
    def branches(a):
        return jax.lax.cond(a[0, 0] > 0, lambda: a @ a @ a, lambda: a)

    found = cost(branches, (4, 4))
    assert 4 * 64 <= found.flops < 4 * 64 + 20
    assert found.peak_bytes >= 128
