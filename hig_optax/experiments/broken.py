"""Runs that are broken on purpose, each in one way, to see what the doctor says of them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import hig_optax

Tree = Any
STEPS = 60
SAMPLES = 32


class Run(NamedTuple):
    """A run that was taken, and what its author would hand to the doctor."""

    states: Tree
    """Stacked along a first axis of steps."""
    params: Tree
    """At the end."""
    residual_fn: Callable[[Tree, Tree], jax.Array]
    batch: Tree
    """The last one."""
    grads: Tree
    """There."""
    settings: Mapping[str, Any] = {}


class Broken(NamedTuple):
    """A way to break a run."""

    name: str
    run: Callable[[], Run]
    """Its docstring says what is wrong."""
    symptom: str
    """What the states alone show first."""
    closer: str
    """What the closer look shows first."""

    @property
    def what(self) -> str:
        """What is wrong, in a sentence."""
        return (self.run.__doc__ or "").strip()


def target(x: jax.Array) -> jax.Array:
    """Two curves, the second one ten times smaller."""
    return jnp.stack([jnp.sin(3 * x), 0.1 * jnp.cos(4 * x)])


def network(params: Tree, x: jax.Array) -> jax.Array:
    """Eight tanh neurons, two outputs."""
    return params["v"] @ jnp.tanh(params["w"] * x + params["b"])


def start(key: jax.Array) -> Tree:
    """Weights before training."""
    w, b = jax.random.normal(key, (2, 8))
    return {"w": 3 * w, "b": b, "v": jax.random.normal(jax.random.fold_in(key, 1), (2, 8)) / 4}


def error(params: Tree, sample: Tree) -> jax.Array:
    """Rows as they should be."""
    return network(params, sample["x"]) - sample["target"]


def squares(residual_fn: Callable[[Tree, Tree], jax.Array]) -> Callable[[Tree, Tree], jax.Array]:
    """The mean over the batch of the sum of squared rows."""

    def loss(params: Tree, batch: Tree) -> jax.Array:
        rows = jax.vmap(residual_fn, (None, 0))(params, batch)
        return jnp.mean(jnp.sum(rows.reshape(len(rows), -1) ** 2, axis=-1))

    return loss


def points(key: jax.Array | None = None) -> Tree:
    """A batch: on a grid, or at random."""
    x = (
        jnp.linspace(-1.0, 1.0, SAMPLES)
        if key is None
        else jax.random.uniform(key, (SAMPLES,), minval=-1.0)
    )
    return {"x": x, "target": jax.vmap(target)(x)}


def train(
    opt: optax.GradientTransformationExtraArgs,
    residual_fn: Callable[[Tree, Tree], jax.Array],
    loss_fn: Callable[[Tree, Tree], jax.Array],
    batch_at: Callable[[jax.Array], Tree],
    params: Tree | None = None,
    steps: int = STEPS,
    **settings: Any,
) -> Run:
    """Train, and keep every state."""
    params = start(jax.random.key(0)) if params is None else params

    def step(carry: Tree, i: jax.Array) -> tuple[Tree, Tree]:
        params, state = carry
        batch = batch_at(i)
        updates, state = opt.update(jax.grad(loss_fn)(params, batch), state, params, batch=batch)
        return (optax.apply_updates(params, updates), state), state

    (params, _), states = jax.jit(
        lambda params: jax.lax.scan(step, (params, opt.init(params)), jnp.arange(steps))
    )(params)
    batch = batch_at(jnp.int32(steps - 1))
    grads = jax.grad(loss_fn)(params, batch)
    return Run(states, params, residual_fn, batch, grads, settings)


def _always(batch: Tree) -> Callable[[jax.Array], Tree]:
    return lambda _: batch


def _fresh(i: jax.Array) -> Tree:
    return points(jax.random.fold_in(jax.random.key(1), i))


def nan_in_one_sample() -> Run:
    """One reading of the batch is missing."""
    batch = points()
    batch["target"] = batch["target"].at[17].set(jnp.nan)
    return train(hig_optax.adaptive_hig(error), error, squares(error), _always(batch))


def sign_of_the_gradient() -> Run:
    """The gradient of minus the loss, as for something that is to be maximised."""
    loss = squares(error)
    return train(hig_optax.adaptive_hig(error), error, lambda p, b: -loss(p, b), _fresh)


def mean_forgotten() -> Run:
    """The sum over the batch in place of its mean, at a learning rate that is meant for the mean."""
    loss = squares(error)
    return train(
        hig_optax.hig(0.5, error), error, lambda p, b: SAMPLES * loss(p, b), _fresh, steps=20
    )


def target_forgotten() -> Run:
    """The residual returns the output, the loss compares it with the target."""

    def output(params: Tree, sample: Tree) -> jax.Array:
        return network(params, sample["x"])

    return train(hig_optax.adaptive_hig(output), output, squares(error), _fresh)


def squared_residual() -> Run:
    """The residual returns squared errors, the loss is their mean."""

    def squared(params: Tree, sample: Tree) -> jax.Array:
        return error(params, sample) ** 2

    return train(hig_optax.adaptive_hig(squared), squared, squares(error), _fresh)


def weight_decay_in_the_loss() -> Run:
    """Weight decay in the loss that is differentiated, and not in the rows."""
    loss = squares(error)

    def decayed(params: Tree, batch: Tree) -> jax.Array:
        return loss(params, batch) + 1e-2 * optax.tree.norm(params, squared=True)

    return train(hig_optax.adaptive_hig(error), error, decayed, _fresh)


class Normalised(nn.Module):
    """A network with BatchNorm."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """One sample or a batch in, two outputs each."""
        x = nn.BatchNorm(use_running_average=False)(nn.Dense(8)(x))
        return nn.Dense(2)(nn.tanh(x))


def batch_norm() -> Run:
    """The loss normalises over the batch, the residual over its one sample."""
    model = Normalised()
    variables = model.init(jax.random.key(0), jnp.zeros((1, 1)))

    def output(params: Tree, x: jax.Array) -> jax.Array:
        return model.apply({**variables, "params": params}, x, mutable=["batch_stats"])[0]

    def normalised(params: Tree, sample: Tree) -> jax.Array:
        return output(params, sample["x"][None, None])[0] - sample["target"]

    def loss(params: Tree, batch: Tree) -> jax.Array:
        return jnp.mean(
            jnp.sum((output(params, batch["x"][:, None]) - batch["target"]) ** 2, axis=-1)
        )

    opt = hig_optax.adaptive_hig(normalised)
    return train(opt, normalised, loss, _fresh, variables["params"])


def float32_floor() -> Run:
    """Trained in float32 until the rows are rounding."""

    def line(params: Tree, sample: Tree) -> jax.Array:
        x = sample["x"]
        return params @ jnp.stack([jnp.ones_like(x), x, x**2]) - (1 + 2 * x + 3 * x**2)

    opt = hig_optax.adaptive_hig(line)
    return train(opt, line, squares(line), _always(points()), jnp.zeros(3))


def physical_units() -> Run:
    """An oscillator fitted in SI units: an amplitude of 3e-6 m beside a stiffness over mass of 4e8 / s²."""

    def displacement(params: Tree, t: jax.Array) -> jax.Array:
        phase = jnp.sqrt(params["stiffness"]) * t
        return params["amplitude"] * jnp.exp(-params["damping"] * t) * jnp.cos(phase)

    true = {"amplitude": 3e-6, "damping": 800.0, "stiffness": 4e8}

    def micrometres(params: Tree, sample: Tree) -> jax.Array:
        return 1e6 * (displacement(params, sample["t"]) - displacement(true, sample["t"]))

    opt = hig_optax.adaptive_hig(micrometres)
    first = {name: jnp.asarray(1.1 * value) for name, value in true.items()}
    batch = _always({"t": jnp.linspace(0.0, 1e-3, SAMPLES)})
    return train(opt, micrometres, squares(micrometres), batch, first)


def noise_in_the_data() -> Run:
    """Targets with noise of standard deviation 0.5, new at every step."""

    def noisy(i: jax.Array) -> Tree:
        batch = _fresh(i)
        noise = jax.random.normal(jax.random.fold_in(jax.random.key(2), i), (SAMPLES, 2))
        return batch | {"target": batch["target"] + noise / 2}

    opt = hig_optax.adaptive_hig(error)
    return train(opt, error, squares(error), noisy, steps=2000)


def batch_far_too_dear() -> Run:
    """Batches of 1024 samples, 2048 rows, for a network of 400 parameters and a curve that needs few."""

    def wide(key: jax.Array) -> Tree:
        w, b = jax.random.normal(key, (2, 100))
        return {
            "w": 3 * w,
            "b": b,
            "v": jax.random.normal(jax.random.fold_in(key, 1), (2, 100)) / 10,
        }

    def large(i: jax.Array) -> Tree:
        x = jax.random.uniform(jax.random.fold_in(jax.random.key(1), i), (1024,), minval=-1.0)
        return {"x": x, "target": jax.vmap(target)(x)}

    # "auto" would take products. Of large batches singular values are known only if an exponent is given.
    opt = hig_optax.adaptive_hig(error, exponent=-0.5, solver="gram")
    return train(opt, error, squares(error), large, wide(jax.random.key(0)), steps=3)


BROKEN: tuple[Broken, ...] = (
    Broken("NaN in one sample", nan_in_one_sample, "rows not finite", "rows not finite"),
    Broken("Sign of the gradient", sign_of_the_gradient, "opposite gradient", "opposite gradient"),
    Broken("Mean forgotten", mean_forgotten, "low rank", "summed loss"),
    Broken("Target forgotten", target_forgotten, "another loss", "rows without their target"),
    Broken("Squared residual", squared_residual, "another loss", "rows squared already"),
    Broken(
        "Weight decay in the loss",
        weight_decay_in_the_loss,
        "another loss",
        "weight decay in the loss",
    ),
    Broken(
        "BatchNorm in training mode", batch_norm, "another loss", "parameters without influence"
    ),
    Broken("The floor of float32", float32_floor, "rounding floor", "rounding floor"),
    Broken("Parameters in SI units", physical_units, "rounding floor", "parameters of unlike size"),
    Broken("Noise in the data", noise_in_the_data, "noise stops progress", "noise stops progress"),
    Broken("A batch far too dear", batch_far_too_dear, "low rank", "batch too dear"),
)
"""Every one of them."""
