"""MuJoCo MJX: a network swings a pendulum to rest at a given angle. Nearly all of the time is compilation."""

import jax
import jax.numpy as jnp
import mujoco
import optax
from mujoco import mjx

import hig_optax  # 1

PENDULUM = """
<mujoco>
  <option timestep="0.05"><flag constraint="disable"/></option>
  <worldbody><body>
    <joint name="hinge" axis="0 1 0" damping="0.05"/><geom size="0.1" pos="0 0 -1" mass="0.2"/>
  </body></worldbody>
  <actuator><motor joint="hinge"/></actuator>
</mujoco>"""
MODEL = mjx.put_model(mujoco.MjModel.from_xml_string(PENDULUM))


@jax.jit  # so that its many operations are traced once
def move(data, torque):
    return mjx.step(MODEL, data.replace(ctrl=torque[None])), None


def error(params, angle):
    hidden = jnp.tanh(params["w"] * angle + params["b"])
    torques = jnp.repeat(params["v"] @ hidden, 5)  # six, each for 0.25 s
    end, _ = jax.lax.scan(move, mjx.make_data(MODEL), torques)
    return jnp.concatenate([end.qpos - angle, end.qvel])


def loss_fn(params, batch):
    return jnp.mean(jnp.sum(jax.vmap(error, (None, 0))(params, batch) ** 2, axis=-1))


def main(steps=60):
    w, b = jax.random.normal(jax.random.key(0), (2, 8))
    params = {"w": w, "b": b, "v": jnp.zeros((6, 8))}
    batch = jnp.linspace(-3.0, 3.0, 8)
    # Contacts and limits of joints make MJX iterate in a while_loop, which has forward mode alone.
    opt = hig_optax.adaptive_hig(error)  # 2, in place of optax.adam(1e-1)
    state = opt.init(params)

    @jax.jit
    def step(params, state, batch):
        updates, state = opt.update(None, state, params, batch=batch)  # 3, no gradient
        return optax.apply_updates(params, updates), state, loss_fn(params, batch)

    losses = []
    for _ in range(steps):
        params, state, loss = step(params, state, batch)
        losses.append(float(loss))
    return losses


if __name__ == "__main__":
    print(main())
