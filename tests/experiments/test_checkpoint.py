import jax.numpy as jnp
import numpy as np

from hig_optax.experiments.checkpoint import Checkpoint, Saved

CARRY = {"params": {"w": jnp.arange(3.0)}, "state": ((), None, jnp.int32(4))}


def saved(step, looks):
    facts = {"x": 0.1, "nan": float("nan"), "points": [{"a": None}]}
    return Saved("a", step, CARRY, {"losses": np.arange(2.0) / 3, "looks": looks}, facts)


def test_the_newest_save_comes_back(tmp_path):
    checkpoint = Checkpoint(tmp_path / "a" / "b", every=0.0)
    assert checkpoint.is_due
    assert checkpoint.restore(CARRY, "a") is None
    checkpoint.save(saved(3, {}))
    checkpoint.save(saved(7, {"path": np.ones((2, 1))}))
    checkpoint.close()

    found = Checkpoint(tmp_path / "a" / "b", every=0.0).restore(CARRY, "a")
    assert found.step == 7
    np.testing.assert_array_equal(found.carry["params"]["w"], CARRY["params"]["w"])
    assert found.carry["state"] == CARRY["state"]
    assert found.record["losses"].dtype == np.float64
    np.testing.assert_array_equal(found.record["losses"], np.arange(2.0) / 3)
    assert found.record["looks"]["path"].shape == (2, 1)
    assert found.facts["x"] == 0.1
    assert np.isnan(found.facts["nan"])


def test_a_save_of_another_identity_is_as_good_as_none(tmp_path):
    checkpoint = Checkpoint(tmp_path, every=1e9)
    assert not checkpoint.is_due
    checkpoint.save(saved(1, {}))
    assert checkpoint.restore(CARRY, "b") is None
    assert checkpoint.restore(CARRY, "a").step == 1
    checkpoint.discard()
    assert not tmp_path.exists()
    assert checkpoint.restore(CARRY, "a") is None
