"""What the next step is told: damping, first length, and the factor that follows the loss of new batches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hig_optax._optimizers.control import Trial, next_damping, shorten_until_lower
from hig_optax._optimizers.plateau import (
    DAMPED_FACTOR,
    FADING,
    FREE_FACTOR,
    MIN_FACTOR,
    SHORT,
    Plateau,
)


@functools.partial(jax.jit, static_argnames="is_partial")
def factors(losses, slopes, patience, *, is_partial=False):
    """The factor after each of these batches, whose loss would fall by such a share along the last step."""

    def body(plateau, seen):
        loss, slope = seen
        plateau = plateau.seen(loss, slope * loss, patience, is_partial=is_partial)
        return plateau, plateau.scale

    start = Plateau.start(jnp.dtype(jnp.float32))
    return jax.lax.scan(body, start, (losses, slopes))[1]


COUNT = 2000
STEPS = np.arange(1, COUNT + 1, dtype=np.float32)
CHANCE = np.random.default_rng(0).normal(size=COUNT).astype(np.float32)
NOISE = np.exp(0.3 * CHANCE)
# The slope along the last step, a tenth of the loss by chance.
SLOPES = 0.1 * np.random.default_rng(1).normal(size=COUNT).astype(np.float32)


def test_it_stays_while_the_loss_falls_faster_than_noise_is_averaged():
    """Though the last step was too long for the next batch, by a quarter of its loss."""
    assert factors(NOISE * STEPS**-2, SLOPES - 0.25, 20.0).min() > 0.7


@pytest.mark.parametrize("patience", [10.0, 40.0])
def test_it_falls_where_steps_are_too_long_for_other_batches(patience):
    """By the slope, over the patience, once the averages have something to tell."""
    f = factors(NOISE, SLOPES - 0.25, patience)
    np.testing.assert_array_equal(f[: int(SHORT)], 1)
    early = np.log(f[119] / f[19])
    # 100 batches of a quarter of the loss, and t^(-1/2) from 20 to 120.
    expected = -100 * 0.25 / patience - FADING * np.log(6)
    np.testing.assert_allclose(early, expected, atol=0.1 * 100 / patience)
    assert factors(NOISE, SLOPES + 0.25, patience).min() > 0.7


def test_what_a_mean_over_noise_brings_is_no_progress_of_partial_steps():
    """A loss that falls as 1/t: their slope alone tells whether they are too long or too short."""
    slopes = SLOPES - 0.05
    expected = np.exp(slopes[20:500].sum() / 20)
    found = factors(NOISE / STEPS, slopes, 20.0, is_partial=True)[499]
    np.testing.assert_allclose(found, expected, rtol=0.3)
    assert factors(NOISE / STEPS, SLOPES + 0.05, 20.0, is_partial=True).min() > 0.7
    assert factors(NOISE / STEPS, slopes, 20.0).min() > 0.7


def test_it_fades_where_nothing_tells_of_progress():
    f = factors(NOISE, SLOPES, 20.0)
    # t^(-1/2) from 20 on, and the mean of the slopes.
    expected = np.sqrt(20 / COUNT) * np.exp(SLOPES[20:].sum() / 20)
    # The power exceeds chance in one of six batches, which holds it up.
    assert expected < f[-1] < 3 * expected


def test_it_recovers_and_has_a_floor():
    slopes = np.repeat([-1.0, 1.0], COUNT // 2).astype(np.float32)
    f = factors(NOISE, slopes, 10.0)
    np.testing.assert_allclose(f[COUNT // 2 - 1], MIN_FACTOR)
    assert f[-1] == 1


def test_the_power_of_a_loss_is_told():
    """Of t⁻ᵖ, by two averages of its logarithm that forget in proportion to t."""

    def power(p):
        def body(plateau, loss):
            return plateau.seen(loss, jnp.float32(0), 20.0), None

        start = Plateau.start(jnp.dtype(jnp.float32))
        return jax.lax.scan(body, start, STEPS**-p)[0].power

    np.testing.assert_allclose([power(p) for p in (0.0, 0.5, 3.0)], [0.0, 0.5, 3.0], atol=0.01)


def test_chance_is_the_spread_of_the_power_where_nothing_falls():
    def power(key):
        losses = jnp.exp(0.3 * jax.random.normal(key, (500,)))

        def body(plateau, loss):
            return plateau.seen(loss, jnp.float32(0), 20.0), None

        plateau = jax.lax.scan(body, Plateau.start(jnp.dtype(jnp.float32)), losses)[0]
        return plateau.power, plateau.chance

    powers, chances = jax.jit(jax.vmap(power))(jax.random.split(jax.random.key(0), 300))
    # The longer average shares batches with the shorter one, which takes some off the difference.
    np.testing.assert_allclose(jnp.std(powers), jnp.mean(chances), rtol=0.3)


def test_the_least_damping_rises_as_the_factor_falls():
    def at(factor, minimum):
        plateau = Plateau.start(jnp.dtype(jnp.float32))._replace(scale=jnp.float32(factor))
        return plateau.least_damping(jnp.float32(minimum))

    np.testing.assert_allclose(at(1.0, 1e-8), 1e-8)
    np.testing.assert_allclose(at(FREE_FACTOR, 1e-8), 1e-8)
    middle = (FREE_FACTOR * DAMPED_FACTOR) ** 0.5
    np.testing.assert_allclose(at(middle, 1e-8), 1e-4, rtol=1e-5)
    np.testing.assert_allclose([at(x, 1e-8) for x in (DAMPED_FACTOR, MIN_FACTOR)], 1.0, rtol=1e-5)
    # Never less than what was asked for.
    np.testing.assert_allclose([at(x, 10.0) for x in (1.0, 0.2, MIN_FACTOR)], 10.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, -1.0])
def test_a_batch_without_logarithm_or_slope_changes_nothing(bad):
    falling, at = NOISE / STEPS, [3, 500, 700]
    expected = factors(falling, SLOPES, 20.0)
    spoiled = factors(np.insert(falling, at, bad), np.insert(SLOPES, at, 0.5), 20.0)
    np.testing.assert_array_equal(np.delete(spoiled, [3, 501, 702]), expected)
    if not np.isfinite(bad):
        spoiled = factors(np.insert(falling, at, 1.0), np.insert(SLOPES, at, bad), 20.0)
        np.testing.assert_array_equal(np.delete(spoiled, [3, 501, 702]), expected)


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


def test_the_bound_shrinks_with_small_factors():
    shares = [
        float(Plateau.start(jnp.float32)._replace(scale=jnp.float32(scale)).bound_share)
        for scale in (1.0, 0.2, 0.1, 0.001)
    ]
    np.testing.assert_allclose(shares, [1.0, 1.0, 0.5, 0.005], rtol=1e-6)
