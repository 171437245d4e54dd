"""Equinox: the arrays of the module are the parameters; the residual puts the rest back."""

import equinox as eqx
import jax
import jax.numpy as jnp

import hig_optax


def error(model, sample):
    return model(sample["x"][None]) - sample["target"]


@eqx.filter_value_and_grad
def loss_and_grad(model, batch):
    return jnp.mean(jnp.sum(jax.vmap(error, (None, 0))(model, batch) ** 2, axis=-1))


def main(steps=100):
    x = jnp.linspace(-1.0, 1.0, 16)
    batch = {"x": x, "target": jnp.stack([jnp.sin(3 * x), 0.1 * jnp.cos(4 * x)], axis=1)}
    model = eqx.nn.MLP(1, 2, 8, 1, activation=jnp.tanh, key=jax.random.key(0))
    opt = hig_optax.adaptive_hig(lambda arrays, sample: error(eqx.combine(arrays, model), sample))
    state = opt.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model, state, batch):
        loss, grads = loss_and_grad(model, batch)
        arrays = eqx.filter(model, eqx.is_inexact_array)
        updates, state = opt.update(grads, state, arrays, batch=batch)
        return eqx.apply_updates(model, updates), state, loss

    losses = []
    for _ in range(steps):
        model, state, loss = step(model, state, batch)
        losses.append(float(loss))
    return losses


if __name__ == "__main__":
    print(main())
