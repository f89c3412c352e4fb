"""An LSTM written by hand with NumPy, see `with_numpy`.

Its gates are kept in the order g, i, f, o: the three sigmoids are side by side, and so are the three that the
gradient of c goes to. sigmoid(a) = (1 + tanh(a / 2)) / 2, with the halving done once in the weights, so that
one call of tanh does all four.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bptt.benchmark.problem import WEIGHTS, Array, Problem, Run
from bptt.benchmark.rows import BACKWARD, STEP

_G_I_F_O = (2, 0, 1, 3)  # among i, f, g, o
_I_F_G_O = (1, 2, 0, 3)  # among g, i, f, o


def _ordered(weight: Array, order: tuple[int, ...]) -> Array:
    blocks = np.split(weight, 4)
    return np.concatenate([blocks[i] for i in order])


class _Forward(NamedTuple):
    """The forward loop, and where it leaves what."""

    run: Callable[[], None]
    h: Array  # (T+1, B, H), h_0 ... h_T
    c: Array  # (T+1, B, H), c_0 ... c_T; (1, B, H) unless all are kept
    gates: Array  # (T, B, 4*H)
    tanh_c: Array  # (T, B, H); (1, B, H) unless all are kept


def _halved(p: Problem) -> tuple[Array, Array, Array]:
    """Return the transposed weights and the bias for the gates of which one tanh is taken."""
    W_ih, W_hh, b_ih, b_hh = (_ordered(weight, _G_I_F_O) for weight in p.weights)
    half = np.full(4 * p.task.shape.H, 0.5, p.task.dtype)
    half[: p.task.shape.H] = 1  # g
    return np.ascontiguousarray(W_ih.T) * half, np.ascontiguousarray(W_hh.T) * half, (b_ih + b_hh) * half


def _forward(p: Problem, *, keep: bool) -> _Forward:
    T, B, I, H = p.task.shape
    dtype = p.task.dtype
    W_ih_T, W_hh_T, b = _halved(p)
    h_0, c_0 = (state[0] for state in p.states)
    states = np.empty((T + 1, B, H), dtype)
    states[0] = h_0
    gates = np.empty((T, B, 4 * H), dtype)
    cells, tanh_c = (np.empty((steps if keep else 1, B, H), dtype) for steps in (T + 1, T))
    h = list(states)
    c, tanhs = (list(cells), list(tanh_c)) if keep else ([cells[0]] * (T + 1), [tanh_c[0]] * T)
    plan = [
        (h[t], h[t + 1], c[t], c[t + 1], tanhs[t], a, a[:, H:], *np.split(a, 4, axis=1))
        for t, a in enumerate(gates)
    ]
    x, rows, recurrent = p.x.reshape(T * B, I), gates.reshape(T * B, 4 * H), np.empty((B, 4 * H), dtype)
    half = np.array(0.5, dtype)
    dot, add, multiply, tanh = np.dot, np.add, np.multiply, np.tanh

    def run() -> None:
        cells[0] = c_0
        dot(x, W_ih_T, out=rows)
        add(rows, b, out=rows)
        for h, h_new, c_t, c_new, tanh_t, a, ifo, g, i, f, o in plan:
            dot(h, W_hh_T, out=recurrent)
            add(a, recurrent, out=a)
            tanh(a, out=a)
            multiply(ifo, half, out=ifo)
            add(ifo, half, out=ifo)
            # c_t = f c_{t-1} + i g;  h_t = o tanh(c_t)
            multiply(f, c_t, out=c_new)
            multiply(i, g, out=tanh_t)
            add(c_new, tanh_t, out=c_new)
            tanh(c_new, out=tanh_t)
            multiply(o, tanh_t, out=h_new)

    return _Forward(run, states, cells, gates, tanh_c)


def _backward(p: Problem) -> Run:
    T, B, I, H = p.task.shape
    dtype = p.task.dtype
    forward, states, c, gates, tanh_c = _forward(p, keep=True)
    c_before = c[:-1]
    x, before = p.x.reshape(T * B, I), states[:-1].reshape(T * B, H)
    W_ih, W_hh, _, _ = (_ordered(weight, _G_I_F_O) for weight in p.weights)
    da = np.empty_like(gates)
    da_rows = da.reshape(T * B, 4 * H)
    g, i, f, o = np.split(gates, 4, axis=2)
    da_g, da_i, da_f, da_o = np.split(da, 4, axis=2)
    ifo, da_ifo = gates[:, :, H:], da[:, :, H:]
    dc_factor = np.empty_like(tanh_c)
    dx = np.empty((T, B, I), dtype)
    dx_rows = dx.reshape(T * B, I)
    dW_ih, dW_hh = np.empty_like(W_ih), np.empty_like(W_hh)
    dh, dc, part = (np.empty((B, H), dtype) for _ in range(3))
    dc_thrice = dc[:, None, :]
    gif = da[:, :, : 3 * H].reshape(T, B, 3, H)  # a view
    plan = list(zip(p.dy, dc_factor, gif, da_o, f, da, strict=True))[::-1]
    dot, add, multiply, subtract = np.dot, np.add, np.multiply, np.subtract

    def call() -> Any:
        forward()
        # All factors that don't depend on a gradient, for all t at once.
        multiply(ifo, ifo, out=da_ifo)
        subtract(ifo, da_ifo, out=da_ifo)
        multiply(da_i, g, out=da_i)
        multiply(da_f, c_before, out=da_f)
        multiply(da_o, tanh_c, out=da_o)
        multiply(g, g, out=da_g)
        subtract(1, da_g, out=da_g)
        multiply(da_g, i, out=da_g)
        multiply(tanh_c, tanh_c, out=dc_factor)
        subtract(1, dc_factor, out=dc_factor)
        multiply(dc_factor, o, out=dc_factor)
        dh.fill(0)
        dc.fill(0)
        for dy_t, factor, gif_t, o_t, f_t, da_t in plan:
            add(dh, dy_t, out=dh)
            multiply(factor, dh, out=part)
            add(dc, part, out=dc)
            multiply(gif_t, dc_thrice, out=gif_t)
            multiply(o_t, dh, out=o_t)
            multiply(dc, f_t, out=dc)
            dot(da_t, W_hh, out=dh)
        dot(da_rows.T, x, out=dW_ih)
        dot(da_rows.T, before, out=dW_hh)
        dot(da_rows, W_ih, out=dx_rows)
        return da_rows.sum(axis=0)

    def arrays(db: Array) -> dict[str, Array]:
        gradients = (_ordered(gradient, _I_F_G_O) for gradient in (dW_ih, dW_hh, db, db))
        named = {f"d{name}_l0": gradient for name, gradient in zip(WEIGHTS, gradients, strict=True)}
        return {"y": states[1:], "dx": dx, "dh_0": dh[None], "dc_0": dc[None]} | named

    return Run(call, arrays)


def _step(p: Problem) -> Run:
    x, H = p.x[0], p.task.shape.H
    W_ih_T, W_hh_T, b = _halved(p)
    states: list[Array] = [state[0].copy() for state in p.states]
    h, c = states
    a, recurrent = (np.empty((len(h), 4 * H), p.task.dtype) for _ in range(2))
    g, i, f, o = np.split(a, 4, axis=1)
    ifo = a[:, H:]
    half = np.array(0.5, p.task.dtype)
    dot, add, multiply, tanh = np.dot, np.add, np.multiply, np.tanh

    def call() -> Array:
        dot(h, W_hh_T, out=recurrent)
        dot(x, W_ih_T, out=a)
        add(a, recurrent, out=a)
        add(a, b, out=a)
        tanh(a, out=a)
        multiply(ifo, half, out=ifo)
        add(ifo, half, out=ifo)
        multiply(f, c, out=c)
        multiply(i, g, out=h)
        add(c, h, out=c)
        tanh(c, out=h)
        multiply(o, h, out=h)
        return h

    return Run(call, lambda h_n: {"h_n": h_n[None], "c_n": c[None]})


def build(p: Problem) -> Run:
    """Make a run ready."""
    if p.task.case == BACKWARD:
        return _backward(p)
    if p.task.case == STEP:
        return _step(p)
    forward = _forward(p, keep=False)

    def arrays(_: Any) -> dict[str, Array]:
        return {"y": forward.h[1:], "h_n": forward.h[-1:], "c_n": forward.c[-1:]}

    return Run(forward.run, arrays)
