"""An ensemble of seeds as one computation: `vmap` over a `scan`."""

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


def main(steps=100, seeds=4):
    opt = hig_optax.adaptive_hig(error)

    def train(key):
        def step(carry, _):
            params, state = carry
            loss, grads = jax.value_and_grad(loss_fn)(params, BATCH)
            updates, state = opt.update(grads, state, params, batch=BATCH)
            return (optax.apply_updates(params, updates), state), loss

        params = init(key)
        return jax.lax.scan(step, (params, opt.init(params)), length=steps)[1]

    losses = jax.jit(jax.vmap(train))(jax.random.split(jax.random.key(0), seeds))  # (seeds, steps)
    return [float(x) for x in jnp.median(losses, axis=0)]


if __name__ == "__main__":
    print(main())
