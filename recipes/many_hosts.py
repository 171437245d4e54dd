"""One run on several hosts: each loads its own samples, together they take one step, one writes checkpoints.

On every host the same line, with its own number (here two processes on one machine):

    python many_hosts.py --coordinator localhost:7001 --processes 2 --process 0 &
    python many_hosts.py --coordinator localhost:7001 --processes 2 --process 1
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp

import hig_optax


def error(params, sample):
    y = params["v"] @ jnp.tanh(params["w"] * sample["x"] + params["b"])
    return y - sample["target"]


def loss_fn(params, batch):
    return jnp.mean(jnp.sum(jax.vmap(error, (None, 0))(params, batch) ** 2, axis=-1))


BATCH = 16


def load(step):
    """This host's samples of a step's batch; from a file, they would be those that it alone reads."""
    x = np.random.default_rng(step).uniform(-1, 1, BATCH)
    mine = np.array_split(x, jax.process_count())[jax.process_index()].astype(np.float32)
    return {"x": mine, "target": np.stack([np.sin(3 * mine), 0.1 * np.cos(4 * mine)], axis=1)}


def main(steps=60, folder="checkpoints", every=10):
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    split = jax.sharding.NamedSharding(mesh, jax.P("data"))
    alike = jax.sharding.NamedSharding(mesh, jax.P())

    opt = hig_optax.adaptive_hig(error)
    w, b = jax.random.normal(jax.random.key(0), (2, 8))
    params = {"w": 3 * w, "b": b, "v": jnp.zeros((2, 8))}
    now = jax.device_put({"params": params, "state": opt.init(params)}, alike)

    @jax.jit
    def step(now, batch):
        loss, grads = jax.value_and_grad(loss_fn)(now["params"], batch)
        updates, state = opt.update(grads, now["state"], now["params"], batch=batch)
        return {"params": optax.apply_updates(now["params"], updates), "state": state}, loss

    options = ocp.CheckpointManagerOptions(max_to_keep=2, cleanup_tmp_directories=True)
    with ocp.CheckpointManager(Path(folder).absolute(), options=options) as manager:
        done = manager.latest_step() or 0
        if done:  # `now` says which tree, shapes, dtypes and shardings to expect
            now = manager.restore(done, args=ocp.args.StandardRestore(now))
        losses = []
        for i in range(done, steps):
            batch = jax.tree.map(
                lambda x: jax.make_array_from_process_local_data(split, x), load(i)
            )
            now, loss = step(now, batch)
            losses.append(float(loss))
            if (i + 1) % every == 0 or i + 1 == steps:
                print(f"step {i + 1}: loss {losses[-1]!r}", flush=True)
                manager.save(i + 1, args=ocp.args.StandardSave(now))
    return losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--coordinator", required=True, help="host:port of the first process")
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--process", type=int, required=True)
    parser.add_argument("--folder", default="checkpoints", help="one that all hosts see")
    parser.add_argument("--steps", type=int, default=60)
    given = parser.parse_args()
    # A process that is gone for so long makes the others end with an error: run all again, and they resume.
    jax.distributed.initialize(
        given.coordinator, given.processes, given.process, heartbeat_timeout_seconds=10
    )
    main(given.steps, given.folder)
