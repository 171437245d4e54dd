import json

import pytest

from hig_optax.experiments import footprint, growth
from hig_optax.experiments.figures import growth as figures


def fake(request):
    """Time m·n and memory m + n, as if measured."""
    rows, columns = 16 * request["samples"], footprint.num_params(request["hidden"])
    return {
        "rows": rows,
        "columns": columns,
        "seconds": 1e-9 * rows * columns,
        "predicted": None if request["solver"] == "adam" else 1.25 * (rows + columns),
        "grown": float(rows + columns),
        "process": 500.0,
        "chosen": "krylov",
        "is_finite": True,
    }


def test_rows_grow_tenfold_and_then_the_parameters():
    start, *rows, wide, wider = growth.sizes("gram", 16, 128)
    assert [size["samples"] for size in rows] == [51, 160]
    assert [size["hidden"] for size in rows] == [128, 128]
    assert [size["samples"] for size in (wide, wider)] == [16, 16]
    grown = footprint.num_params(wider["hidden"]) / footprint.num_params(start["hidden"])
    assert grown == pytest.approx(10, rel=0.02)
    assert footprint.num_params(growth.LARGEST["hidden"]) > 1e6
    assert 16 * growth.LARGEST["samples"] == 65536


def test_the_bench_writes_a_table_and_two_plots(tmp_path, monkeypatch):
    monkeypatch.setattr(growth, "in_a_fresh_process", fake)
    told = []
    table, written = growth.scale(out=tmp_path, report=told.append)
    names = ["bench-scale.json", "bench-scale.md", "bench-scale-time.png", "bench-scale-memory.png"]
    assert [path.name for path in written] == names
    assert all(path.stat().st_size > 0 for path in written)
    assert len(told) == len(table.rows) == 5 * len(growth.STARTS) + 1
    assert table.rows[-1][0] == "auto: krylov"
    assert "krylov 1.00 in rows, 1.00 in parameters" in table.note
    results = json.loads(written[0].read_text())["results"]
    assert len(figures.time(results).axes) == 2
    with pytest.raises(ValueError, match="No bench of qr"):
        growth.scale(["qr"], out=tmp_path)


def test_a_step_is_measured_in_a_process_of_its_own():
    found = growth.in_a_fresh_process({"solver": "gram", "samples": 2, "hidden": 8, "grows": []})
    assert (found["rows"], found["columns"]) == (32, footprint.num_params(8))
    assert found["is_finite"]
    assert 0 < found["seconds"] < 10
    assert 10 < found["predicted"] < 20
    assert 0 <= found["grown"] < found["process"]
    with pytest.raises(RuntimeError, match="solver must be one of"):
        growth.in_a_fresh_process({"solver": "qr", "samples": 2, "hidden": 8})
