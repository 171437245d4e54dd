"""The README's Python runs as it stands, block after block, and says what it says it says."""

import re
from pathlib import Path

import jax

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_snippets_run(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) >= 2
    names = {}
    with jax.numpy_dtype_promotion("standard"):  # as a reader's program has it
        for block in blocks:
            exec(compile(block, "README.md", "exec"), names)
    assert "finite: True" in capsys.readouterr().out


def test_loop_is_short():
    loop = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)[0]
    optimizer_lines = [
        line for line in loop.splitlines() if "hig_optax" in line or "batch=batch" in line
    ]
    assert len(optimizer_lines) <= 3
