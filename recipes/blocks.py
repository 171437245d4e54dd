"""Blocks of rows with batches of different lengths: an equation, its boundary, and weight decay, weighted."""

import jax
import jax.numpy as jnp
import optax

import hig_optax


def u(params, x):
    return params["v"] @ jnp.tanh(params["w"] * x + params["b"])


def equation(params, sample):
    """u'' = -π² sin(πx), by derivatives of the network."""
    curvature = jax.grad(jax.grad(u, argnums=1), argnums=1)(params, sample["x"])
    return curvature / jnp.pi**2 + jnp.sin(jnp.pi * sample["x"])


# Each sample brings the weight of its squared rows: 0 for padding, and 1/n for a mean over the n others.
residual = {
    "equation": hig_optax.weighted_residual(equation, lambda sample: sample["weight"]),
    "boundary": hig_optax.weighted_residual(u, 10.0),
    "decay": lambda params, root: jax.tree.map(lambda w: root * w, params),  # of all weights
}


def loss_fn(params, batch):
    rows = {name: jax.vmap(f, (None, 0))(params, batch[name]) for name, f in residual.items()}
    return sum(jnp.sum(x**2) for x in jax.tree.leaves(rows))


def padded(x, size):
    """A batch of always the same shape: nothing is compiled anew for the last one."""
    is_real = jnp.arange(size) < x.size
    return {"x": x[jnp.minimum(jnp.arange(size), x.size - 1)], "weight": is_real / x.size}


TRACES = []


def main(steps=100, size=16):
    opt = hig_optax.adaptive_hig(residual)
    w, b, v = jax.random.normal(jax.random.key(0), (3, 12))
    params = {"w": 2 * w, "b": b, "v": v / 4}
    state = opt.init(params)
    points = jax.random.uniform(jax.random.key(1), 40, minval=-1.0)  # two batches of 16, one of 8

    @jax.jit
    def step(params, state, batch):
        TRACES.append(1)
        loss, grads = jax.value_and_grad(loss_fn)(params, batch)
        updates, state = opt.update(grads, state, params, batch=batch)
        return optax.apply_updates(params, updates), state, loss

    losses = []
    for i in range(steps):
        start = i % 3 * size
        batch = {"equation": padded(points[start : start + size], size)}
        batch |= {"boundary": jnp.array([-1.0, 1.0]), "decay": jnp.sqrt(jnp.array([1e-6]))}
        params, state, loss = step(params, state, batch)
        losses.append(float(loss))
    return losses


if __name__ == "__main__":
    print(main())
