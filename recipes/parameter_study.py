"""Several values of a setting, compiled once: `inject_hyperparams` keeps the setting in the state."""

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


TRACES = []


def main(steps=100, cuts=(1e-2, 1e-3, 1e-4)):
    factory = optax.inject_hyperparams(hig_optax.hig, static_args=hig_optax.STATIC_ARGS)
    opt = factory(learning_rate=0.5, residual_fn=error, rtol=cuts[0])

    @jax.jit
    def step(params, state, batch):
        TRACES.append(1)  # runs only while jax compiles
        loss, grads = jax.value_and_grad(loss_fn)(params, batch)
        updates, state = opt.update(grads, state, params, batch=batch)
        return optax.apply_updates(params, updates), state, loss

    curves = {}
    for rtol in cuts:
        params = init(jax.random.key(0))
        state = opt.init(params)
        state.hyperparams["rtol"] = jnp.asarray(rtol, jnp.float32)
        curves[rtol] = []
        for _ in range(steps):
            params, state, loss = step(params, state, BATCH)
            curves[rtol].append(float(loss))
    return min(curves.values(), key=lambda losses: losses[-1])


if __name__ == "__main__":
    print(main(), "compiled", len(TRACES))
