"""PhiFlow on JAX: from nine thermometers, a network finds where a plate was heated, and how hot."""

import jax
import jax.numpy as jnp
import optax
from phi.jax import flow

import hig_optax  # 1

jax.config.update("jax_enable_x64", True)  # as importing PhiFlow does
flow.math.set_global_precision(64)  # PhiFlow itself computes in float32 by default
PLATE = {"x": 12, "y": 12, "bounds": flow.Box(x=1, y=1), "extrapolation": 0}  # cold edges


def conduct(heat, _):
    # 0.1 s. Explicit: linear solves (`implicit`, `make_incompressible`) have a reverse rule alone, and
    # PhiML 1.16 fails where their gradient is traced a second time, as hig_optax does.
    grid = flow.CenteredGrid(flow.tensor(heat, flow.spatial("x,y")), **PLATE)
    return flow.diffuse.explicit(grid, 0.01, 0.1).values.native("x,y"), None


def thermometers(spot):  # nine, 2 s after a spot was heated: its x, y and temperature
    x, y = (jnp.mgrid[:12, :12] + 0.5) / 12
    start = spot[2] * jnp.exp(-50 * ((x - spot[0]) ** 2 + (y - spot[1]) ** 2))
    end, _ = jax.lax.scan(conduct, start, length=20)  # which compiles a step once, not 20 times
    return end[1::4, 1::4].ravel()


def error(params, seen):
    spot = 0.5 + params["v"] @ jnp.tanh(params["w"] @ seen + params["b"])
    return thermometers(spot) - seen  # the network is not told any spot


def loss_fn(params, batch):
    return jnp.mean(jnp.sum(jax.vmap(error, (None, 0))(params, batch) ** 2, axis=-1))


def main(steps=60):
    w, v = jax.random.normal(jax.random.key(0), (2, 24, 10))
    params = {"w": 4 * w[:, :9], "b": w[:, 9], "v": 0.01 * v[:, :3].T}
    spots = jax.random.uniform(jax.random.key(1), (32, 3), minval=0.2, maxval=0.8)
    batch = jax.vmap(thermometers)(spots)
    opt = hig_optax.adaptive_hig(error)  # 2, in place of optax.adam(1e-2)
    state = opt.init(params)

    @jax.jit
    def step(params, state, batch):
        loss, grads = jax.value_and_grad(loss_fn)(params, batch)
        updates, state = opt.update(grads, state, params, batch=batch)  # 3
        return optax.apply_updates(params, updates), state, loss

    losses = []
    for _ in range(steps):
        params, state, loss = step(params, state, batch)
        losses.append(float(loss))
    return losses


if __name__ == "__main__":
    print(main())
