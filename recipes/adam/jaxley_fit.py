"""jaxley: fit the conductances of a Hodgkin-Huxley cell to its voltages under four currents."""

import jax
import jax.numpy as jnp
import jaxley
import optax
from jaxley.channels import HH

STEP, END = 0.025, 10.0  # ms
NAMES = ("HH_gNa", "HH_gK", "HH_gLeak")
CELL = jaxley.Compartment()
CELL.insert(HH())
CELL.record(verbose=False)
for name in NAMES:
    CELL.make_trainable(name, verbose=False)


def voltages(params, current):
    """In mV, every 0.25 ms, with a current (nA) from 1 to 9 ms."""
    pulse = jaxley.step_current(1.0, 8.0, current, STEP, END)
    # Logarithms: conductances are positive, and the leak is far smaller than the others.
    found = [{name: jnp.exp(params[name])[None]} for name in NAMES]
    stimulus = CELL.data_stimulate(pulse)
    return jaxley.integrate(CELL, params=found, data_stimuli=stimulus, delta_t=STEP)[0, ::10]


def error(params, sample):
    current, seen = sample
    return (voltages(params, current) - seen) / 10.0  # 10 mV, the scale of an error


def loss_fn(params, batch):
    return jnp.mean(jnp.sum(jax.vmap(error, (None, 0))(params, batch) ** 2, axis=-1))


def main(steps=60):
    true = dict(zip(NAMES, jnp.log(jnp.array([0.12, 0.036, 0.0003])), strict=True))
    params = dict(zip(NAMES, jnp.log(jnp.array([0.2, 0.02, 0.001])), strict=True))
    currents = jnp.array([0.0, 0.002, 0.005, 0.01])
    batch = (currents, jax.vmap(voltages, (None, 0))(true, currents))
    opt = optax.adam(3e-2)
    state = opt.init(params)

    @jax.jit
    def step(params, state, batch):
        loss, grads = jax.value_and_grad(loss_fn)(params, batch)
        updates, state = opt.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    losses = []
    for _ in range(steps):
        params, state, loss = step(params, state, batch)
        losses.append(float(loss))
    return losses


if __name__ == "__main__":
    print(main())
