"""flax.nnx with its Optimizer, which passes `batch=` on."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx


class Network(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(1, 8, rngs=rngs)
        self.out = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x):
        return self.out(jnp.tanh(self.hidden(x)))


def error(model, sample):
    return model(sample["x"][None]) - sample["target"]


def loss_fn(model, batch):
    rows = jax.vmap(lambda sample: error(model, sample))(batch)
    return jnp.mean(jnp.sum(rows**2, axis=-1))


def main(steps=100):
    x = jnp.linspace(-1.0, 1.0, 16)
    batch = {"x": x, "target": jnp.stack([jnp.sin(3 * x), 0.1 * jnp.cos(4 * x)], axis=1)}
    model = Network(nnx.Rngs(0))
    opt = optax.adam(1e-2)
    optimizer = nnx.Optimizer(model, opt, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, batch):
        loss, grads = nnx.value_and_grad(loss_fn)(model, batch)
        optimizer.update(model, grads)
        return loss

    return [float(step(model, optimizer, batch)) for _ in range(steps)]


if __name__ == "__main__":
    print(main())
