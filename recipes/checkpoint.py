"""Checkpoints by Orbax: a run that is killed and run again ends with the same parameters, bit for bit."""

from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp

import hig_optax


def error(params, sample):
    y = params["v"] @ jnp.tanh(params["w"] * sample["x"] + params["b"])
    return y - sample["target"]


def loss_fn(params, batch):
    return jnp.mean(jnp.sum(jax.vmap(error, (None, 0))(params, batch) ** 2, axis=-1))


BATCH, X = 16, jax.random.permutation(jax.random.key(1), jnp.linspace(-1.0, 1.0, 64))


def draw(key, position):
    """The next samples of the data set, moved a little at random."""
    x = X[(position + jnp.arange(BATCH)) % X.size] + 1e-3 * jax.random.normal(key, BATCH)
    return {"x": x, "target": jnp.stack([jnp.sin(3 * x), 0.1 * jnp.cos(4 * x)], axis=1)}


def main(steps=100, folder="checkpoints", every=10):
    opt = hig_optax.adaptive_hig(error)
    key, (w, b) = jax.random.key(2), jax.random.normal(jax.random.key(0), (2, 8))
    params = {"w": 3 * w, "b": b, "v": jnp.zeros((2, 8))}
    # All that one step hands to the next: what is not in here would start anew.
    now = {"params": params, "state": opt.init(params), "key": key, "position": jnp.int32(0)}

    @jax.jit
    def step(now):
        key, noise = jax.random.split(now["key"])
        batch, params = draw(noise, now["position"]), now["params"]
        loss, grads = jax.value_and_grad(loss_fn)(params, batch)
        updates, state = opt.update(grads, now["state"], params, batch=batch)
        params, position = optax.apply_updates(params, updates), now["position"] + BATCH
        return {"params": params, "state": state, "key": key, "position": position}, loss

    options = ocp.CheckpointManagerOptions(max_to_keep=2, cleanup_tmp_directories=True)
    with ocp.CheckpointManager(Path(folder).absolute(), options=options) as manager:
        done = manager.latest_step() or 0
        if done:  # `now` says which tree, shapes and dtypes to expect
            now = manager.restore(done, args=ocp.args.StandardRestore(now))
        losses = []
        for i in range(done + 1, steps + 1):
            now, loss = step(now)
            losses.append(float(loss))
            if i % every == 0 or i == steps:
                manager.save(i, args=ocp.args.StandardSave(now))
    return losses


if __name__ == "__main__":
    print(main())
