"""ONNX Runtime's RNN operator: forward only.

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

from bptt.benchmark.peers.base import Implementation
from bptt.benchmark.problem import Array, Problem, Run
from bptt.benchmark.rows import BACKWARD, STEP, Shape

_OPSET = 14
_IR_VERSION = 8  # of the same age as the opset, so that any ONNX Runtime of these years reads it


def _model(p: Problem) -> bytes:
    T, B, I, H = p.shape
    element = helper.np_dtype_to_tensor_dtype(np.dtype(p.dtype))
    sizes = {"x": [T, B, I], "h_0": [1, B, H], "y": [T, 1, B, H], "h_n": [1, B, H]}
    values = {name: helper.make_tensor_value_info(name, element, size) for name, size in sizes.items()}
    weights = {
        "W": p.weight_ih[None],
        "R": p.weight_hh[None],
        "b": np.concatenate([p.bias_ih, p.bias_hh])[None],
    }
    node = helper.make_node(
        "RNN", ["x", "W", "R", "b", "", "h_0"], ["y", "h_n"], hidden_size=H, activations=["Tanh"]
    )
    graph = helper.make_graph(
        [node],
        "rnn",
        [values["x"], values["h_0"]],
        [values["y"], values["h_n"]],
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
    T, B, _, H = p.shape
    session = _session(p, threads)
    y, h_0, h_n = np.empty((T, 1, B, H), p.dtype), p.h_0[None].copy(), np.empty((1, B, H), p.dtype)
    forward = _bound(session, {"x": p.x, "h_0": h_0}, {"y": y, "h_n": h_n})
    if p.case == STEP:
        # The state goes from one array to the other and back.
        turns = cycle((forward, _bound(session, {"x": p.x, "h_0": h_n}, {"y": y, "h_n": h_0})))
        return Run(lambda: next(turns)(), lambda outputs: {"h_n": outputs["h_n"][0]})
    return Run(forward, lambda outputs: {"y": outputs["y"][:, 0], "h_n": outputs["h_n"][0]})


def _refuses(case: str, shape: Shape, dtype: str) -> str | None:
    if case == BACKWARD:
        return "has no backward pass"
    if dtype != "float32":
        return "its RNN operator on the CPU is float32 only"
    return None


IMPLEMENTATIONS = {
    "onnxruntime": Implementation("onnxruntime", onnxruntime.__version__, _build, _refuses),
}
