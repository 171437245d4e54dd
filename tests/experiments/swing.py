"""A problem small enough to train in a test: push a pendulum so that it comes to a given angle."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from hig_optax.problems import Batch, Params


@dataclass(frozen=True)
class Swing:
    """Angle and speed of a pendulum after four pushes, (2,); the target is where it should be."""

    width: int = 8
    samples: int = 64
    reduction: str = "mean"
    start: tuple[float, float] = (0.0, 0.0)

    name = "swing"

    @property
    def recommended(self) -> Mapping[str, Mapping[str, Any]]:
        return {
            "hig": {"batch_size": 8, "learning_rate": 0.5, "rtol": 1e-4},
            "adam": {"batch_size": 16, "learning_rate": 1e-2},
        }

    def init(self, key: jax.Array) -> Params:
        first, second = jax.random.split(key)
        return {
            "in": jax.random.normal(first, (2, self.width)),
            "out": jax.random.normal(second, (self.width, 4)) / self.width,
        }

    def data(self, key: jax.Array) -> tuple[Batch, Batch]:
        targets = jax.random.uniform(key, (2, self.samples, 2), minval=-1.0)
        return {"target": targets[0]}, {"target": targets[1]}

    def draw(self, key: jax.Array, step: jax.Array, train: Batch, batch_size: int) -> Batch:
        chosen = jax.random.choice(jax.random.fold_in(key, step), self.samples, (batch_size,))
        return jax.tree.map(lambda x: x[chosen], train)

    def control(self, params: Params, sample: Batch) -> jax.Array:
        return jnp.tanh(sample["target"] @ params["in"]) @ params["out"]

    def physics(self, control: jax.Array, sample: Batch) -> jax.Array:
        def swing(state: jax.Array, push: jax.Array) -> tuple[jax.Array, None]:
            speed = state[1] + 0.5 * (push - jnp.sin(state[0]))
            return jnp.stack([state[0] + 0.5 * speed, speed]), None

        return jax.lax.scan(swing, jnp.array(self.start), control)[0]

    def residual(self, params: Params, sample: Batch) -> jax.Array:
        return self.physics(self.control(params, sample), sample)

    def sample_loss(self, rows: jax.Array, sample: Batch) -> jax.Array:
        return jnp.sum((rows - sample["target"]) ** 2)
