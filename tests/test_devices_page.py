"""docs/devices.md shows what its code prints."""

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "devices.md").read_text()


def test_the_plans_are_what_the_code_above_them_prints(capsys):
    ((code, printed),) = re.findall(
        r"```python\n(import jax.*?)```\n\n```text\n(.*?)```", PAGE, re.DOTALL
    )
    exec(code, {})
    words = capsys.readouterr().out.split()
    assert len(words) == len(printed.split())
    for word, shown in zip(words, printed.split(), strict=True):
        try:
            expected = float(shown)
        except ValueError:
            assert word == shown
        else:
            # From one release of JAX to the next programs differ: JAX 0.12 plans 552 MiB for one of 504.
            assert float(word) == pytest.approx(expected, rel=0.12)
