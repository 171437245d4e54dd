"""JSON files that are either whole or absent."""

import json
import math
import os
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write a file through a temporary neighbour and a rename, so that no reader sees half of it.

    Folders above it are made. After an interruption the old file, or none, is there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as strict JSON: numbers that are not finite become ``null``."""
    write_text(path, json.dumps(_finite(value), allow_nan=False) + "\n")


def write_page(stem: Path, value: Any, markdown: str) -> list[Path]:
    """Write `value` as ``STEM.json`` and what there is to read of it as ``STEM.md``; returns both paths."""
    json_path, page = stem.with_suffix(".json"), stem.with_suffix(".md")
    write_json(json_path, value)
    write_text(page, markdown)
    return [json_path, page]


def read_json(path: Path) -> Any | None:
    """What `write_json` wrote; None where the file is missing or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None


def rounded(x: float, digits: int = 7) -> float:
    """A number as it is stored, with `digits` significant digits.

    Example:
        >>> rounded(1 / 3, 4)
        0.3333
    """
    return float(f"{x:.{digits}g}")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
