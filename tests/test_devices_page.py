"""docs/devices.md shows what its arithmetic gives."""

import re
from pathlib import Path

PAGE = (Path(__file__).parents[1] / "docs" / "devices.md").read_text()


def test_the_table_is_what_the_code_above_it_prints(capsys):
    (code, printed) = re.findall(
        r"```python\n(from math.*?)```\n\n```text\n(.*?)```", PAGE, re.DOTALL
    )[0]
    exec(code, {})
    assert capsys.readouterr().out.split() == printed.split()
