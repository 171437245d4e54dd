"""Settings of every test: strict promotion, and eight virtual CPU devices for those that ask."""

import os

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")

# Virtual devices make everything else up to ten times slower, even a single one asked for by number: tests
# marked `devices` run in a process of their own (see the Makefile).
if "HIG_OPTAX_TEST_DEVICES" in os.environ:
    jax.config.update("jax_num_cpu_devices", int(os.environ["HIG_OPTAX_TEST_DEVICES"]))

# Every new shape compiles anew: the time of an example says nothing, and the same examples every time
# make a failure one that can be repeated.
hypothesis.settings.register_profile("jax", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("jax")


@pytest.fixture(autouse=True)
def _enough_devices(request):
    if request.node.get_closest_marker("devices") and jax.device_count() < 8:
        pytest.skip("needs HIG_OPTAX_TEST_DEVICES=8")


def pytest_terminal_summary(terminalreporter):
    """How many combinations of optimizer and wrapper were tried."""
    reports = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        if "test_optax_contract.py" in report.nodeid and report.when == "call"
    ]
    if reports:
        passed = sum(report.passed for report in reports)
        terminalreporter.write_line(
            f"Optax contract: {passed} of {len(reports)} combinations as they should be"
        )
