"""Log rank and condition every few steps, halt on NaN, and stop early."""

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


def main(steps=100, every=10, target=0.02, log=print):
    """Between two logs nothing is read back, so that steps queue up without waiting for the device."""
    opt = hig_optax.adaptive_hig(error)
    params = init(jax.random.key(0))
    state = opt.init(params)

    @jax.jit
    def step(params, state, batch):
        loss, grads = jax.value_and_grad(loss_fn)(params, batch)
        updates, state = opt.update(grads, state, params, batch=batch)
        return optax.apply_updates(params, updates), state, loss

    losses = []
    for i in range(steps):
        params, state, loss = step(params, state, BATCH)
        losses.append(loss)
        if i % every == 0:
            seen = optax.tree.get(state, "spectrum")
            log(
                {
                    "step": i,
                    "loss": float(loss),
                    "rank": int(seen.rank),
                    "cond": float(seen.condition),
                }
            )
            if not seen.is_finite:
                raise FloatingPointError(f"step {i} met NaN or inf, and left the parameters alone")
            if loss < target:
                break
    return [float(x) for x in losses]


if __name__ == "__main__":
    main()
