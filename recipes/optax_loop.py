"""Plain Optax, with a jitted step."""

import jax
import jax.numpy as jnp
import optax

import hig_optax


def error(params, sample):
    y = params["v"] @ jnp.tanh(params["w"] * sample["x"] + params["b"])
    return y - sample["target"]


def loss_fn(params, batch):
    return jnp.mean(jnp.sum(jax.vmap(error, (None, 0))(params, batch) ** 2, axis=-1))


def main(steps=100):
    x = jnp.linspace(-1.0, 1.0, 16)
    batch = {"x": x, "target": jnp.stack([jnp.sin(3 * x), 0.1 * jnp.cos(4 * x)], axis=1)}
    w, b = jax.random.normal(jax.random.key(0), (2, 8))
    params = {"w": 3 * w, "b": b, "v": jnp.zeros((2, 8))}
    opt = hig_optax.adaptive_hig(error)
    state = opt.init(params)

    @jax.jit
    def step(params, state, batch):
        loss, grads = jax.value_and_grad(loss_fn)(params, batch)
        updates, state = opt.update(grads, state, params, batch=batch)
        return optax.apply_updates(params, updates), state, loss

    losses = []
    for _ in range(steps):
        params, state, loss = step(params, state, batch)
        losses.append(float(loss))
    return losses


if __name__ == "__main__":
    print(main())
