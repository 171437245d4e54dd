"""optimistix: `OptaxMinimiser` passes no batch to `update`, so `with_batch` binds one."""

import jax
import jax.numpy as jnp
import optimistix

import hig_optax


def error(params, sample):
    t, measured = sample
    return params["size"] * jnp.exp(-params["rate"] * t) - measured  # one decay


def loss(params, batch):
    return jnp.mean(jax.vmap(error, (None, 0))(params, batch) ** 2)


def main(steps=100):
    t = jnp.linspace(0.0, 4.0, 16)
    batch = (t, 2.0 * jnp.exp(-0.5 * t))
    start = {"size": jnp.array(1.0), "rate": jnp.array(2.0)}
    opt = hig_optax.with_batch(hig_optax.adaptive_hig(error), batch)  # the line that differs
    # Two rejected steps in a row look like convergence to it, so ask for a tolerance that can be met.
    solver = optimistix.OptaxMinimiser(opt, rtol=1e-6, atol=1e-8)
    found = optimistix.minimise(loss, solver, start, batch, max_steps=steps, throw=False)
    return [float(loss(start, batch)), float(loss(found.value, batch))]


if __name__ == "__main__":
    print(main())
