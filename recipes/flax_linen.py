"""flax.linen with its TrainState, whose own `apply_gradients` does not pass a batch on."""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax.training.train_state import TrainState

import hig_optax


class Network(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(jnp.tanh(nn.Dense(8)(x)))


def error(params, sample):
    return Network().apply(params, sample["x"][None]) - sample["target"]


def loss_fn(params, batch):
    return jnp.mean(jnp.sum(jax.vmap(error, (None, 0))(params, batch) ** 2, axis=-1))


def apply_gradients(state, grads, batch):
    updates, opt_state = state.tx.update(grads, state.opt_state, state.params, batch=batch)
    params = optax.apply_updates(state.params, updates)
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state)


@jax.jit
def step(state, batch):
    loss, grads = jax.value_and_grad(loss_fn)(state.params, batch)
    state = apply_gradients(state, grads, batch=batch)
    return state, loss


def main(steps=100):
    x = jnp.linspace(-1.0, 1.0, 16)
    batch = {"x": x, "target": jnp.stack([jnp.sin(3 * x), 0.1 * jnp.cos(4 * x)], axis=1)}
    params = Network().init(jax.random.key(0), x[:1])
    opt = hig_optax.adaptive_hig(error)
    state = TrainState.create(apply_fn=Network().apply, params=params, tx=opt)
    losses = []
    for _ in range(steps):
        state, loss = step(state, batch)
        losses.append(float(loss))
    return losses


if __name__ == "__main__":
    print(main())
