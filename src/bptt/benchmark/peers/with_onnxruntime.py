"""ONNX Runtime's RNN, LSTM and GRU operators: forward only.

Inputs and outputs are bound to arrays made once, its fastest call: 1 us or more below ``session.run``.
"""
# mypy: disable-error-code="import-not-found,import-untyped,unused-ignore"

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any

import numpy as np
import onnxruntime
from onnx import helper, numpy_helper

from bptt.benchmark.peers.base import Implementation, refuses_setups
from bptt.benchmark.problem import Array, Problem, Run
from bptt.benchmark.rows import BACKWARD, STEP, Task

_OPSET = 14
_IR_VERSION = 8  # of the same age as the opset, so that any ONNX Runtime of these years reads it

_OPERATORS = {"rnn": "RNN", "lstm": "LSTM", "gru": "GRU"}
_ATTRIBUTES: dict[str, dict[str, Any]] = {
    "rnn": {"activations": ["Tanh"]},
    "lstm": {},
    "gru": {"linear_before_reset": 1},
}
# Where its gates are among ours: i, o, f, c out of i, f, g, o;  z, r, h out of r, z, n.
_ORDER = {"rnn": [0], "lstm": [0, 3, 1, 2], "gru": [1, 0, 2]}


def _gates(cell: str, weight: Array) -> Array:
    blocks = np.split(weight, len(_ORDER[cell]))
    return np.concatenate([blocks[i] for i in _ORDER[cell]])


def _model(p: Problem) -> bytes:
    T, B, I, H = p.task.shape
    cell = p.task.cell
    element = helper.np_dtype_to_tensor_dtype(np.dtype(p.task.dtype))
    letters = "hc"[: len(p.states)]
    before, after = [f"{letter}_0" for letter in letters], [f"{letter}_n" for letter in letters]
    sizes = {"x": [T, B, I], "y": [T, 1, B, H]} | {name: [1, B, H] for name in before + after}
    values = {name: helper.make_tensor_value_info(name, element, size) for name, size in sizes.items()}
    W_ih, W_hh, b_ih, b_hh = (_gates(cell, weight) for weight in p.weights)
    weights = {"W": W_ih[None], "R": W_hh[None], "b": np.concatenate([b_ih, b_hh])[None]}
    node = helper.make_node(
        _OPERATORS[cell],
        ["x", "W", "R", "b", "", *before],
        ["y", *after],
        hidden_size=H,
        **_ATTRIBUTES[cell],
    )
    graph = helper.make_graph(
        [node],
        cell,
        [values[name] for name in ("x", *before)],
        [values[name] for name in ("y", *after)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opset = helper.make_opsetid("", _OPSET)
    return bytes(helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION).SerializeToString())


def _session(p: Problem, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Its threads may spin while a call runs, but not on into the next implementation's turn.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(_model(p), options, providers=["CPUExecutionProvider"])


def _bound(
    session: Any, inputs: dict[str, Array], outputs: dict[str, Array]
) -> Callable[[], dict[str, Array]]:
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    for name, array in outputs.items():
        binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    run = session.run_with_iobinding

    def call(_alive: dict[str, Array] = inputs) -> dict[str, Array]:  # the binding holds bare addresses
        run(binding)
        return outputs

    return call


def _build(p: Problem, threads: int) -> Run:
    T, B, _, H = p.task.shape
    session = _session(p, threads)
    y = np.empty((T, 1, B, H), p.task.dtype)
    letters = "hc"[: len(p.states)]
    # The state goes from one set of arrays to the other, and in single steps back.
    here = [state.copy() for state in p.states]
    there = [np.empty_like(state) for state in here]

    def bound(before: list[Array], after: list[Array]) -> Callable[[], dict[str, Array]]:
        inputs = {f"{letter}_0": state for letter, state in zip(letters, before, strict=True)}
        outputs = {f"{letter}_n": state for letter, state in zip(letters, after, strict=True)}
        return _bound(session, {"x": p.x, **inputs}, {"y": y, **outputs})

    def states(outputs: dict[str, Array]) -> dict[str, Array]:
        return {f"{letter}_n": outputs[f"{letter}_n"] for letter in letters}

    forward = bound(here, there)
    if p.task.case == STEP:
        turns = cycle((forward, bound(there, here)))
        return Run(lambda: next(turns)(), states)
    return Run(forward, lambda outputs: {"y": outputs["y"][:, 0], **states(outputs)})


def _refuses(task: Task) -> str | None:
    if task.case == BACKWARD:
        return "has no backward pass"
    if task.dtype != "float32":
        return "its operators on the CPU are float32 only"
    return refuses_setups(task)


IMPLEMENTATIONS = {
    "onnxruntime": Implementation("onnxruntime", onnxruntime.__version__, _build, _refuses),
}
