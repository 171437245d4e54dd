"""HIG for the last layer, Adam for the others, by `optax.partition`."""

import jax
import jax.numpy as jnp
import optax

import hig_optax


def error(params, sample):
    y = params["v"] @ jnp.tanh(params["w"] * sample["x"] + params["b"])
    return y - sample["target"]


def loss_fn(params, batch):
    return jnp.mean(jnp.sum(jax.vmap(error, (None, 0))(params, batch) ** 2, axis=-1))


def init(key):
    w, b = jax.random.normal(key, (2, 8))
    return {"w": 3 * w, "b": b, "v": jnp.zeros((2, 8))}


X = jnp.linspace(-1.0, 1.0, 16)
BATCH = {"x": X, "target": jnp.stack([jnp.sin(3 * X), 0.1 * jnp.cos(4 * X)], axis=1)}


def main(steps=100):
    """HIG moves the last layer alone; through all_params it evaluates the residual with all layers."""
    labels = {"w": "adam", "b": "adam", "v": "hig"}
    opt = optax.partition({"hig": hig_optax.adaptive_hig(error), "adam": optax.adam(1e-2)}, labels)
    params = init(jax.random.key(0))
    state = opt.init(params)

    @jax.jit
    def step(params, state, batch):
        loss, grads = jax.value_and_grad(loss_fn)(params, batch)
        updates, state = opt.update(grads, state, params, batch=batch, all_params=params)
        return optax.apply_updates(params, updates), state, loss

    losses = []
    for _ in range(steps):
        params, state, loss = step(params, state, BATCH)
        losses.append(float(loss))
    return losses


if __name__ == "__main__":
    print(main())
