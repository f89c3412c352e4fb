"""The bench's bars: which there are, what they are held against, and the verdicts in the table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from bptt.benchmark import results, rows
from bptt.benchmark.rows import Shape, Task


def test_operations_of_one_layer() -> None:
    large = Shape(100, 128, 256, 256)
    flops = 2 * 100 * 128 * 512 * 256
    assert Task("forward", large).flops == flops
    assert Task("forward_backward", large).flops == 3 * flops
    assert Task("forward", large, cell="lstm").flops == 4 * flops
    assert Task("forward_backward", large, cell="gru").flops == 9 * flops
    assert Task("forward", Shape(3, 2, 5, 7), cell="gru").flops == 2 * 3 * 2 * 3 * 7 * (5 + 7)


def test_operations_of_a_ragged_stack() -> None:
    task = Task("forward", Shape(50, 4, 5, 7), cell="lstm", setup="ragged")
    lengths = task.lengths
    assert lengths is not None
    assert lengths.shape == (4,)
    assert lengths.min() >= 1
    assert lengths.max() <= 50
    assert len(set(lengths)) > 1
    np.testing.assert_array_equal(lengths, task.lengths)
    one_step = 2 * (2 * 4 * 7 * (5 + 7)) + 2 * (2 * 4 * 7 * (14 + 7))  # both directions of either layer
    assert task.flops == lengths.sum() * one_step
    many = Task("forward", Shape(200, 4000, 1, 1), setup="ragged").lengths
    assert many is not None
    assert (many.min(), many.max()) == (1, 200)
    assert abs(many.mean() - 100.5) < 3


def _measurement(
    task: Task, name: str, seconds: float, limits: Mapping[str, Any] | None = None, threads: int = 1
) -> results.Measurement:
    return results.Measurement(task, threads, name, seconds, **(limits or {}))


def _cells(table: str) -> list[dict[str, str]]:
    """Read a Markdown table: head to cell, for each line."""
    head, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
    return [dict(zip(head, line, strict=True)) for line in lines]


def test_ratios_and_bars(bench: Any) -> None:
    small, large = Task("forward", Shape(50, 1, 4, 4)), Task("forward", Shape(100, 128, 256, 256))
    limits = {"fma_peak": large.flops / 0.01 / 2, "read_bandwidth": 50 * 4 * 4 * 4 / 1e-6}
    measurements = [
        _measurement(small, "bptt", 2e-6, limits),
        _measurement(small, "jax", 9e-6, limits),
        _measurement(small, "onnxruntime", 3e-6, limits),
        _measurement(small, "reference", 1e-6, limits),  # not a peer
        _measurement(large, "bptt", 0.01, limits, 2),
        _measurement(large, "bptt-1-thread", 0.0171, limits, 2),
        _measurement(large, "numpy", 0.03, limits, 2),
    ]
    bars = {row.group: row for row in bench("shapes").BARS}
    first, second = _cells(results.table(measurements, bars))
    assert first["best peer / bptt"] == "1.50 (onnxruntime)"
    assert first["of bandwidth"] == "50.0%"
    assert first["bar"] == "1.5 pass"
    assert second["best peer / bptt"] == "3.00 (numpy)"
    assert second["of FMA peak"] == "100.0%"
    assert second["ratio"] == "1.71 (bptt-1-thread / bptt)"
    assert second["bar"] == "1.8 FAIL"
    chosen = [bars[m.group] for m in (measurements[0], measurements[4])]
    assert results.tally(measurements, chosen) == "bars: 1 passed, 1 failed, 0 not measured"
    assert results.tally(measurements[:3], chosen) == "bars: 1 passed, 0 failed, 1 not measured"


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_bars_of_gated_cells(bench: Any, cell: str) -> None:
    shape = Shape(100, 32, 256, 256)
    bars = {row.group: row for row in bench("shapes").BARS}
    forward, backward = Task("forward", shape, cell=cell), Task("forward_backward", shape, cell=cell)
    peak = {"fma_peak": forward.flops / 0.0085}
    ratio, ratio_back = {"lstm": (1.03, 1.25), "gru": (1.25, 1.8)}[cell]
    measurements = [
        _measurement(forward, "bptt", 0.00999, peak),
        _measurement(forward, "torch", 0.01 * ratio, peak),
        _measurement(backward, "bptt", 0.033, peak),
        _measurement(backward, "jax", 0.03 * ratio_back, peak),
    ]
    first, second = _cells(results.table(measurements, bars))
    assert first["layer"] == second["layer"] == cell
    assert (first["direction"], second["direction"]) == ("forward", "forward backward")
    assert (first["bar"], first["limit bar"]) == (f"{ratio} pass", "85% pass")
    assert (second["bar"], second["limit bar"]) == (f"{ratio_back} FAIL", "80% FAIL")


def test_bandwidth_counts_every_gate() -> None:
    task = Task("forward", Shape(100, 1, 64, 64), cell="lstm")
    m = _measurement(task, "bptt", 1e-3, {"read_bandwidth": 4 * 100 * 4 * 64 * 64 / 1e-3})
    assert m.fraction_of_bandwidth == pytest.approx(1)


def test_bars_of_options_and_lengths(bench: Any) -> None:
    bars = {row.group: row for row in bench("shapes").BARS}
    options = Shape(100, 32, 256, 256)
    measurements = []
    for setup in ("dropout", "recurrent_dropout", "zoneout", "layer_norm"):
        task = Task("forward_backward", options, cell="lstm", setup=setup)
        slower = 1.26 if setup == "zoneout" else 1.24
        measurements += [
            _measurement(task, "bptt", slower),
            _measurement(task, "bptt-without-option", 1.0),
        ]
    for cell in ("lstm", "gru"):
        task = Task("forward_backward", Shape(200, 32, 64, 128), cell=cell, setup="ragged")
        measurements += [_measurement(task, "bptt", 1.0), _measurement(task, "torch", 3.1)]
    lines = {line["layer"]: line for line in _cells(results.table(measurements, bars))}
    assert len(lines) == 6
    for setup, verdict in (("dropout", "pass"), ("zoneout", "FAIL"), ("layer_norm", "pass")):
        assert lines[f"lstm {setup}"]["bar"] == f"0.8 {verdict}"
        assert lines[f"lstm {setup}"]["ratio"].endswith(" (bptt-without-option / bptt)")
    assert lines["lstm zoneout"]["ratio"].startswith("0.79 ")
    for cell in ("lstm", "gru"):
        assert (lines[f"{cell} ragged"]["ratio"], lines[f"{cell} ragged"]["bar"]) == ("3.10", "3 pass")


def test_bars_of_steps_and_of_frozen_layers(bench: Any) -> None:
    bars = {row.group: row for row in bench("shapes").BARS}

    def verdicts(case: str, shape: Shape, kernel_step: float | None, **seconds: float) -> list[str]:
        task = Task(case, shape)
        row = bars[rows.group_name(task, 1)]
        limits = {"fma_peak": 1e11, "kernel_step": kernel_step}
        measurements = [
            _measurement(task, name.replace("_", "-"), time, limits) for name, time in seconds.items()
        ]
        (line,) = _cells(results.table(measurements, {row.group: row}))
        return [line[head] for head in ("ratio", "bar", "limit bar")]

    small, large = Shape(1, 1, 32, 32), Shape(1, 1, 64, 64)
    assert verdicts("single_step", small, 1e-7, bptt=1.49e-6)[2] == "100% pass"
    assert verdicts("single_step", small, 1e-7, bptt=1.51e-6)[2] == "100% FAIL"
    assert verdicts("single_step", large, 2e-6, bptt=3.79e-6)[2] == "100% pass"
    assert verdicts("single_step", large, 2e-6, bptt=3.81e-6)[2] == "100% FAIL"
    assert verdicts("single_step", large, None, bptt=1e-6)[2] == "100% not measured"
    assert verdicts("forward", large, None, bptt=9.0, bptt_frozen=1e-6, numpy=9e-7, onnxruntime=1.6e-6) == [
        "1.60 (onnxruntime / bptt-frozen)",
        "1.5 pass",
        "–",
    ]


def test_every_bar_is_in_the_table_once(bench: Any) -> None:
    shapes = bench("shapes")
    groups = [row.group for row in shapes.BARS]
    assert len(groups) == len(set(groups))
    ours = {
        (row.task.layer, row.task.case, str(row.task.shape)): row.ratio
        for row in shapes.BARS
        if row.task.dtype == "float32" and row.threads == 1
    }
    assert ours["rnn", "forward", "100,1,64,64"] == 2.3
    assert ours["rnn", "forward_backward", "100,1,64,64"] == 3.0
    assert ours["rnn", "forward_backward", "50,64,1024,1024"] == 1.4
    assert ours["lstm", "forward", "100,1,256,256"] == 1.1
    assert ours["lstm", "forward_backward", "50,64,1024,1024"] == 1.05
    assert ours["gru", "forward", "50,64,1024,1024"] == 1.2
    assert ours["gru", "forward_backward", "50,1,16,16"] == 2.0
    for cell in ("lstm", "gru"):
        for case, number in (("forward", 7), ("forward_backward", 6)):
            assert sum(key[:2] == (cell, case) for key in ours) == number
    assert {row.task.shape for row in shapes.select("main+odd+short", 1)} >= {
        row.task.shape for row in shapes.BARS if row.task.shape.T > 1 and row.task.setup == "plain"
    }


def test_selections(bench: Any) -> None:
    select = bench("shapes").select
    assert {row.task.layer for row in select("ragged", 1)} == {"lstm ragged", "gru ragged"}
    assert {row.task.layer for row in select("options", 1)} == {
        f"lstm {setup}" for setup in ("dropout", "recurrent_dropout", "zoneout", "layer_norm")
    }
    assert not select("options", 1, cells=("gru",))
    assert {(row.task.case, row.over) for row in select("short", 1)} == {("forward", "onnxruntime")}
    tiny = select("tiny:stack", 1, dtypes=("float32",), cells=("gru",))
    assert [str(row.task) for row in tiny] == [
        "gru stack forward 3,2,3,5 float32",
        "gru stack forward_backward 3,2,3,5 float32",
    ]
    (row,) = select("4,2,3,5:zoneout", 2, dtypes=("float64",), cells=("rnn",))
    assert row.group == "rnn zoneout forward_backward 4,2,3,5 float64 2 threads"
    assert (row.ratio, row.over) == (None, "bptt-without-option")
    assert {row.task.cell for row in select("bars", 2)} == {"rnn"}
