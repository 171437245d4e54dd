import jax
import jax.numpy as jnp
import pytest
from swing import Swing

from hig_optax import problems
from hig_optax.experiments import methods, optimizers
from hig_optax.experiments.losses import batch_loss

SUMS_OF_SQUARES = ("spring", "geodesic-lm")


def test_settings_are_defaults_then_recommended_then_overrides(swing):
    hig = methods.get("hig").settings(swing, {"rtol": 1e-3})
    assert (hig["batch_size"], hig["learning_rate"], hig["rtol"], hig["exponent"]) == (
        8,
        0.5,
        1e-3,
        -0.5,
    )


@pytest.mark.parametrize("name", ["gauss-newton", "levenberg-marquardt"])
def test_relatives_of_hig_take_its_settings_as_far_as_they_have_them(name):
    class Odd(Swing):
        @property
        def recommended(self):
            return {"hig": {"learning_rate": 0.5, "exponent": -0.75, "max_rank": 3}}

    settings = methods.get(name).settings(Odd())
    assert (settings["learning_rate"], settings["max_rank"]) == (0.5, 3)
    assert "exponent" not in settings


def test_unknown_names_are_errors_that_say_what_there_is(swing):
    with pytest.raises(ValueError, match=r"No method 'hug'; there are hig, gauss-newton"):
        methods.get("hug")
    with pytest.raises(ValueError, match="adam has no setting rtol; it has batch_size"):
        methods.get("adam").settings(swing, {"rtol": 1e-3})
    adam = methods.get("adam")
    settings = adam.settings(swing, {"schedule": "steps"})
    with pytest.raises(ValueError, match="schedule must be"):
        adam.optimizer(swing, settings)


@pytest.mark.parametrize(
    "name", [name for name in methods.METHODS if name not in ("hig", "soap", *SUMS_OF_SQUARES)]
)
def test_every_method_takes_a_step_downhill(swing, name):
    method = methods.get(name)
    settings = method.settings(swing, {"learning_rate": 1e-2})
    optimizer = method.optimizer(swing, settings)
    value_and_grad = method.gradient(swing, settings)
    params = swing.init(jax.random.key(0))
    batch, _ = swing.data(jax.random.key(1))

    @jax.jit
    def change(params, batch):
        loss, grads = value_and_grad(params, batch)
        updates, _ = optimizer.update(
            grads,
            optimizer.init(params),
            params,
            batch=batch,
            value=loss,
            progress=jnp.float32(0),
        )
        grads = jax.grad(batch_loss(swing))(params, batch)
        return sum(
            jnp.vdot(g, u) for g, u in zip(*map(jax.tree.leaves, (grads, updates)), strict=True)
        )

    assert change(params, batch) < 0


@pytest.mark.parametrize("name", SUMS_OF_SQUARES)
def test_what_minimises_sums_of_squares_wants_rows_that_are_errors(name, swing):
    method, toy = methods.get(name), problems.get("toy")
    with pytest.raises(ValueError, match=f"{name} minimises .* rows of swing are no errors"):
        method.optimizer(swing, method.settings(swing))
    method.optimizer(toy, method.settings(toy)).init(toy.init(jax.random.key(0)))


def test_cosine_ends_at_zero():
    optimizer = optimizers.decay_to_zero()
    factors = [
        optimizer.update(jnp.ones(()), optimizer.init(None), progress=jnp.float32(p))[0]
        for p in (0.0, 0.5, 1.0, 1.5)
    ]
    assert jnp.allclose(jnp.stack(factors), jnp.array([1.0, 0.5, 0.0, 0.0]), atol=1e-6)
