"""What the next step is told: damping, first length, and the factor that follows the loss of new batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hig_optax._optimizers.control import (
    DAMPED_FACTOR,
    LOSS_OF_FACTOR,
    MIN_FACTOR,
    Plateau,
    Trial,
    next_damping,
    shorten_until_lower,
)


@jax.jit
def factors(losses, patience):
    """The factor after each of these losses."""

    def body(plateau, loss):
        plateau = plateau.seen(loss, patience)
        return plateau, plateau.scale

    return jax.lax.scan(body, Plateau.start(jnp.dtype(jnp.float32)), losses)[1]


NOISE = np.exp(0.3 * np.random.default_rng(0).normal(size=2000)).astype(np.float32)
FALLING = NOISE * np.exp(-np.arange(2000) / 300).astype(np.float32)


def test_it_stays_while_the_loss_falls_through_noise():
    # The lag of the two averages, 160 steps, is half an e-fold here, three times the noise of the shorter.
    assert factors(FALLING, 200.0).min() > 0.9


def test_it_falls_where_the_loss_does_not():
    f = factors(NOISE, 200.0)
    np.testing.assert_array_equal(f[:200], 1)
    assert f[-1] < 0.4
    assert (
        factors(NOISE[::-1] * np.exp(np.arange(2000) / 500, dtype=np.float32), 200.0)[-1]
        < 0.03 + 0.01
    )


def test_it_recovers_and_has_a_floor():
    stuck = np.ones(3000, np.float32)
    f = factors(np.append(stuck, np.exp(-np.arange(3000) / 100, dtype=np.float32)), 50.0)
    np.testing.assert_allclose(f[2999], MIN_FACTOR)
    np.testing.assert_allclose(f[60] / f[59], 1 - LOSS_OF_FACTOR / 50, rtol=1e-5)
    assert f[-1] > 2 * MIN_FACTOR


def test_the_least_damping_rises_as_the_factor_falls():
    def at(factor, minimum):
        plateau = Plateau.start(jnp.dtype(jnp.float32))._replace(scale=jnp.float32(factor))
        return plateau.least_damping(jnp.float32(minimum))

    np.testing.assert_allclose(at(1.0, 1e-8), 1e-8)
    np.testing.assert_allclose(at(DAMPED_FACTOR**0.5, 1e-8), 1e-4, rtol=1e-5)
    np.testing.assert_allclose([at(x, 1e-8) for x in (DAMPED_FACTOR, MIN_FACTOR)], 1.0, rtol=1e-5)
    # Never less than what was asked for.
    np.testing.assert_allclose([at(x, 10.0) for x in (1.0, 0.2, MIN_FACTOR)], 10.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, -1.0])
def test_a_loss_without_logarithm_changes_nothing(bad):
    spoiled = np.insert(FALLING, [3, 500, 700], bad)
    np.testing.assert_array_equal(
        np.delete(factors(spoiled, 100.0), [3, 501, 702]), factors(FALLING, 100.0)
    )


@pytest.mark.parametrize(
    ("gain", "factor"),
    [(0.95, 1 / 3), (0.76, 1 / 3), (0.7, 1), (0.55, 1), (0.26, 1), (0.24, 3), (0.1, 3)],
)
def test_damping_follows_the_gain(gain, factor):
    trial = Trial(jnp.int32(1), jnp.ones(()), jnp.float32(gain), jnp.array(True))
    damping, seen = next_damping(
        jnp.float32(0.01),
        trial,
        jnp.ones(()),
        jnp.ones(()),
        minimum=jnp.float32(1e-8),
        is_cut=jnp.array(False),
        is_usable=jnp.array(True),
    )
    np.testing.assert_allclose(seen, gain, rtol=1e-6)
    np.testing.assert_allclose(damping, 0.01 * factor, rtol=1e-6)


def test_what_always_fails_is_tried_at_a_millionth_at_last():
    scale = jnp.ones(())
    for _ in range(12):
        trial, scale = shorten_until_lower(lambda scale: -scale, scale, jnp.array(True))
        assert not trial.accepted
    np.testing.assert_allclose(scale, 4.0**-10)
