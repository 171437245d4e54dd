"""Build sdist and wheel, look into both, and run the loop of the README from the wheel alone.

    python tests/wheel.py

The new environment gets the core's dependencies from a package index, in the versions of constraints.txt.
"""

import os
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
CORE = {"jax", "jaxlib", "jaxtyping", "numpy", "optax"}
APART = ("tests", "recipes", "notebooks", "docs", "hig_optax/experiments", "hig_optax/problems")


def build(into: Path) -> tuple[Path, Path]:
    """The source distribution, and the wheel that is made of it as an installer would."""
    # A copy of what git tracks: files that lie about must not get in.
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    source = into / "source"
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).is_file():
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    hatchling = [sys.executable, "-m", "hatchling", "build", "-d", str(into)]
    subprocess.run([*hatchling, "-t", "sdist"], cwd=source, check=True)
    (sdist,) = into.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(into / "unpacked", filter="data")
    (unpacked,) = (into / "unpacked").iterdir()
    subprocess.run([*hatchling, "-t", "wheel"], cwd=unpacked, check=True)
    (wheel,) = into.glob("*.whl")
    return sdist, wheel


def check_contents(sdist: Path, wheel: Path) -> None:
    """The library, all of it, and nothing of the laboratory."""
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = set(archive.namelist())
    modules = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "hig_optax").rglob("*.py")
        if path.relative_to(ROOT / "hig_optax").parts[0] not in ("experiments", "problems")
    }
    for found in (in_sdist, in_wheel):
        assert modules <= found, modules - found
        assert "hig_optax/py.typed" in found
        apart = [name for name in found if name.startswith(APART)]
        assert not apart, apart
    assert {"README.md", "LICENSE", "CHANGELOG.md"} <= in_sdist
    tops = {name.split("/")[0] for name in in_wheel}
    assert tops == {"hig_optax", *(top for top in tops if top.endswith(".dist-info"))}


def check_in_use(wheel: Path, where: Path) -> None:
    """Install it alone, and run the README's loop far from the repository."""
    venv.create(where, with_pip=True)
    python = where / "bin" / "python"
    quiet = [
        "--quiet",
        "--disable-pip-version-check",
        "--constraint",
        str(ROOT / "constraints.txt"),
    ]
    subprocess.run([python, "-m", "pip", "install", *quiet, str(wheel)], check=True)
    (loop,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    code = f"""
{loop}
from importlib.metadata import requires, version
from pathlib import Path
import re, sys
assert Path(hig_optax.__file__).is_relative_to(sys.prefix), hig_optax.__file__
assert version("hig-optax") == hig_optax.__version__
core = {{re.match("[a-z]+", line)[0] for line in requires("hig-optax") if "extra ==" not in line}}
assert core == {CORE!r}, core
print(hig_optax.__name__, hig_optax.__version__, "runs from", Path(hig_optax.__file__).parent)
"""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([python, "-c", code], cwd=where, env=clean, check=True)


def main() -> None:
    """Build, look, run."""
    with tempfile.TemporaryDirectory() as folder:
        sdist, wheel = build(Path(folder))
        check_contents(sdist, wheel)
        check_in_use(wheel, Path(folder) / "venv")
        (ROOT / "dist").mkdir(exist_ok=True)
        for path in (sdist, wheel):
            print((ROOT / "dist" / path.name).relative_to(ROOT))
            path.replace(ROOT / "dist" / path.name)


if __name__ == "__main__":
    main()
