"""Layers written by hand with NumPy, as well as they can be; here the tanh layer.

The input product is hoisted, buffers and all views of them are made once, the loops make no temporaries, and
the weight gradients are put off to one product over all time steps. The transposed weights are copied once:
OpenBLAS takes up to twice as long over a transposed view. ``dot`` has a little less overhead than ``matmul``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bptt.benchmark.peers import numpy_gru, numpy_lstm
from bptt.benchmark.peers.base import Implementation, refuses_setups
from bptt.benchmark.problem import Array, Problem, Run
from bptt.benchmark.rows import BACKWARD, FORWARD, STEP


def _forward(p: Problem) -> tuple[Callable[[], None], Array]:
    """Make the forward loop; its result is in the states h_0 ... h_T (T+1, B, H)."""
    T, B, I, H = p.task.shape
    states = np.empty((T + 1, B, H), p.task.dtype)
    states[0] = p.states[0][0]
    rows = list(states)
    x, y = p.x.reshape(T * B, I), states[1:].reshape(T * B, H)
    W_ih, W_hh, b_ih, b_hh = p.weights
    W_ih_T, W_hh_T = np.ascontiguousarray(W_ih.T), np.ascontiguousarray(W_hh.T)
    b = b_ih + b_hh
    recurrent = np.empty((B, H), p.task.dtype)
    dot, add, tanh = np.dot, np.add, np.tanh

    def forward() -> None:
        # a_t = W_ih x_t + b for all t at once;  h_t = tanh(a_t + W_hh h_{t-1})
        dot(x, W_ih_T, out=y)
        add(y, b, out=y)
        for h, a in zip(rows, rows[1:]):  # noqa: B905, RUF007 - fastest
            dot(h, W_hh_T, out=recurrent)
            add(a, recurrent, out=a)
            tanh(a, out=a)

    return forward, states


def _backward(p: Problem) -> Run:
    T, B, I, H = p.task.shape
    dtype = p.task.dtype
    forward, states = _forward(p)
    y, x = states[1:], p.x.reshape(T * B, I)
    before = states[:-1].reshape(T * B, H)
    da = np.empty((T, B, H), dtype)
    da_rows = da.reshape(T * B, H)
    dx = np.empty((T, B, I), dtype)
    dx_rows = dx.reshape(T * B, I)
    W_ih, W_hh, _, _ = p.weights
    dW_ih, dW_hh = np.empty_like(W_ih), np.empty_like(W_hh)
    dh, total = np.empty((B, H), dtype), np.empty((B, H), dtype)
    back = list(zip(p.dy, da, strict=True))[::-1]
    dot, add, multiply = np.dot, np.add, np.multiply

    def call() -> dict[str, Array]:
        forward()
        # da_t = (dy_t + W_hh^T da_{t+1}) (1 - h_t^2), the second factor for all t at once
        multiply(y, y, out=da)
        np.subtract(1, da, out=da)
        dh.fill(0)
        for dy_t, da_t in back:
            add(dy_t, dh, out=total)
            multiply(da_t, total, out=da_t)
            dot(da_t, W_hh, out=dh)
        dot(da_rows.T, x, out=dW_ih)
        dot(da_rows.T, before, out=dW_hh)
        dot(da_rows, W_ih, out=dx_rows)
        db = da_rows.sum(axis=0)
        return {
            "y": y,
            "dx": dx,
            "dh_0": dh[None],
            "dweight_ih_l0": dW_ih,
            "dweight_hh_l0": dW_hh,
            "dbias_ih_l0": db,
            "dbias_hh_l0": db.copy(),
        }

    return Run(call, _as_they_are)


def _step(p: Problem) -> Run:
    x = p.x[0]
    W_ih, W_hh, b_ih, b_hh = p.weights
    W_ih_T, W_hh_T = np.ascontiguousarray(W_ih.T), np.ascontiguousarray(W_hh.T)
    b = b_ih + b_hh
    h: Array = p.states[0][0].copy()
    a = np.empty_like(h)
    dot, add, tanh = np.dot, np.add, np.tanh

    def call() -> Array:
        # h <- tanh(W_ih x + W_hh h + b)
        dot(h, W_hh_T, out=a)
        dot(x, W_ih_T, out=h)
        add(h, a, out=h)
        add(h, b, out=h)
        tanh(h, out=h)
        return h

    return Run(call, lambda h_n: {"h_n": h_n[None]})


def _as_they_are(result: Mapping[str, Array]) -> Mapping[str, Array]:
    return result


def _rnn(p: Problem) -> Run:
    if p.task.case == BACKWARD:
        return _backward(p)
    if p.task.case == STEP:
        return _step(p)
    assert p.task.case == FORWARD
    forward, states = _forward(p)

    def arrays(_: Any) -> dict[str, Array]:
        return {"y": states[1:], "h_n": states[-1:]}

    return Run(forward, arrays)


_CELLS = {"rnn": _rnn, "lstm": numpy_lstm.build, "gru": numpy_gru.build}


def _build(p: Problem, threads: int) -> Run:
    return _CELLS[p.task.cell](p)


IMPLEMENTATIONS = {"numpy": Implementation("numpy", np.__version__, _build, refuses_setups)}
