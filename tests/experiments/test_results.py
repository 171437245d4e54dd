from fakes import comparisons

from hig_optax.experiments import results
from hig_optax.experiments.claims import CLAIMS


def test_the_page_tells_of_every_experiment(tmp_path):
    done = comparisons(tmp_path)
    written = results.write(done, tmp_path / "page", command="make it")
    page = written[0].read_text()
    assert written[0].name == "RESULTS.md"
    assert "written by `make it`" in page
    assert page.count("| holds |") + page.count("| **does not hold** |") == len(CLAIMS)
    assert "| **hig 1.0e-03** < " in page
    for name in done:
        assert f"\n## {name}: " in page
    for path in written[1:]:
        assert f"](results/{path.name})" in page
        assert path.stat().st_size < results.MAX_BYTES
        assert path.read_bytes().startswith(b"\x89PNG")
    names = {path.name for path in written[1:]}
    assert {
        "toy-toy.png",
        "toy-against-time-loss.png",
        "linear-oscillators-trajectory.png",
        "quantum-dipole-density.png",
        "poisson-fields.png",
        "poisson-spectrum-hig.png",
    } <= names


def test_what_departs_from_the_source_is_said_beside_the_number(tmp_path):
    done = comparisons(tmp_path)
    rows = {row[0]: row[-1] for row in results.claims_table(done).rows}
    poisson = next(why for claim, why in rows.items() if claim.startswith("Poisson"))
    assert "hig: 10 Krylov products at" in poisson
    asked = next(why for claim, why in rows.items() if "with the paper's batches" in claim)
    assert "batches of 32" not in asked


def test_the_page_does_not_depend_on_anything_but_the_runs(tmp_path):
    done = comparisons(tmp_path)
    first = results.write(done, tmp_path / "a", command="x")[0].read_text()
    assert results.write(done, tmp_path / "b", command="x")[0].read_text() == first
