"""A GRU written by hand with NumPy, see `with_numpy`.

sigmoid(a) = (1 + tanh(a / 2)) / 2, with the halving done once in the weights of r and z.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bptt.benchmark.problem import WEIGHTS, Array, Problem, Run
from bptt.benchmark.rows import BACKWARD, STEP


class _Weights(NamedTuple):
    """Transposed, their columns of r and z halved."""

    W_ih_T: Array  # (I, 3*H)
    W_hh_T: Array  # (H, 3*H)
    b: Array  # (3*H,), all that can be added before the loop
    b_hn: Array  # (H,), which r multiplies


class _Forward(NamedTuple):
    """The forward loop, and where it leaves what."""

    run: Callable[[], None]
    h: Array  # (T+1, B, H), h_0 ... h_T
    gates: Array  # (T, B, 3*H)
    q: Array  # (T, B, H), W_hn h_{t-1} + b_hn; (1, B, H) unless all are kept
    change: Array  # (T, B, H), h_{t-1} - n_t; (1, B, H) unless all are kept


def _halved(p: Problem) -> _Weights:
    W_ih, W_hh, b_ih, b_hh = p.weights
    H = p.task.shape.H
    half = np.full(3 * H, 0.5, p.task.dtype)
    half[2 * H :] = 1  # n
    b = b_ih.copy()
    b[: 2 * H] += b_hh[: 2 * H]
    W_ih_T, W_hh_T = np.ascontiguousarray(W_ih.T), np.ascontiguousarray(W_hh.T)
    return _Weights(W_ih_T * half, W_hh_T * half, b * half, b_hh[2 * H :].copy())


def _forward(p: Problem, *, keep: bool) -> _Forward:
    T, B, I, H = p.task.shape
    dtype = p.task.dtype
    W_ih_T, W_hh_T, b, b_hn = _halved(p)
    states = np.empty((T + 1, B, H), dtype)
    states[0] = p.states[0][0]
    gates = np.empty((T, B, 3 * H), dtype)
    q, change = (np.empty((T if keep else 1, B, H), dtype) for _ in range(2))
    qs, changes = (list(kept) if keep else [kept[0]] * T for kept in (q, change))
    h = list(states)
    plan = [
        (h[t], h[t + 1], qs[t], changes[t], a[:, : 2 * H], *np.split(a, 3, axis=1))
        for t, a in enumerate(gates)
    ]
    x, rows = p.x.reshape(T * B, I), gates.reshape(T * B, 3 * H)
    recurrent = np.empty((B, 3 * H), dtype)
    v_rz, v_n = recurrent[:, : 2 * H], recurrent[:, 2 * H :]
    half = np.array(0.5, dtype)
    dot, add, multiply, subtract, tanh = np.dot, np.add, np.multiply, np.subtract, np.tanh

    def run() -> None:
        dot(x, W_ih_T, out=rows)
        add(rows, b, out=rows)
        for h, h_new, q_t, change_t, rz, r, z, n in plan:
            dot(h, W_hh_T, out=recurrent)
            add(rz, v_rz, out=rz)
            tanh(rz, out=rz)
            multiply(rz, half, out=rz)
            add(rz, half, out=rz)
            # n = tanh(p_n + r q_n);  h_t = n + z (h_{t-1} - n)
            add(v_n, b_hn, out=q_t)
            multiply(r, q_t, out=change_t)
            add(n, change_t, out=n)
            tanh(n, out=n)
            subtract(h, n, out=change_t)
            multiply(z, change_t, out=h_new)
            add(h_new, n, out=h_new)

    return _Forward(run, states, gates, q, change)


def _backward(p: Problem) -> Run:
    T, B, I, H = p.task.shape
    dtype = p.task.dtype
    forward, states, gates, q, change = _forward(p, keep=True)
    x, before = p.x.reshape(T * B, I), states[:-1].reshape(T * B, H)
    W_ih, W_hh, _, _ = p.weights
    d = np.empty_like(gates)  # dq, and after the loop dp, which differs in n
    d_rows = d.reshape(T * B, 3 * H)
    r, z, n = np.split(gates, 3, axis=2)
    d_r, d_z, d_n = np.split(d, 3, axis=2)
    rz, d_rz = gates[:, :, : 2 * H], d[:, :, : 2 * H]
    n_factor, total = np.empty((T, B, H), dtype), np.empty((T, B, H), dtype)
    dx = np.empty((T, B, I), dtype)
    dx_rows = dx.reshape(T * B, I)
    dW_ih, dW_hh = np.empty_like(W_ih), np.empty_like(W_hh)
    dh, part = np.empty((B, H), dtype), np.empty((B, H), dtype)
    factors, thrice = d.reshape(T, B, 3, H), total[:, :, None, :]  # views
    plan = list(zip(p.dy, total, thrice, factors, z, d, strict=True))[::-1]
    dot, add, multiply, subtract = np.dot, np.add, np.multiply, np.subtract

    def call() -> Any:
        forward()
        # All factors that don't depend on a gradient, for all t at once.
        multiply(n, n, out=n_factor)
        subtract(1, n_factor, out=n_factor)
        subtract(1, z, out=d_n)
        multiply(n_factor, d_n, out=n_factor)  # (1 - z) (1 - n^2)
        multiply(rz, rz, out=d_rz)
        subtract(rz, d_rz, out=d_rz)
        multiply(d_z, change, out=d_z)
        multiply(d_r, q, out=d_r)
        multiply(d_r, n_factor, out=d_r)
        multiply(r, n_factor, out=d_n)
        dh.fill(0)
        for dy_t, total_t, thrice_t, factors_t, z_t, d_t in plan:
            add(dh, dy_t, out=total_t)
            multiply(factors_t, thrice_t, out=factors_t)
            dot(d_t, W_hh, out=dh)
            multiply(total_t, z_t, out=part)
            add(dh, part, out=dh)
        dot(d_rows.T, before, out=dW_hh)
        db_hh = d_rows.sum(axis=0)
        multiply(n_factor, total, out=d_n)
        dot(d_rows.T, x, out=dW_ih)
        dot(d_rows, W_ih, out=dx_rows)
        return d_rows.sum(axis=0), db_hh

    def arrays(biases: Any) -> dict[str, Array]:
        gradients = zip(WEIGHTS, (dW_ih, dW_hh, *biases), strict=True)
        named = {f"d{name}_l0": gradient for name, gradient in gradients}
        return {"y": states[1:], "dx": dx, "dh_0": dh[None]} | named

    return Run(call, arrays)


def _step(p: Problem) -> Run:
    x, H = p.x[0], p.task.shape.H
    W_ih_T, W_hh_T, b, b_hn = _halved(p)
    h: Array = p.states[0][0].copy()
    a, recurrent = (np.empty((len(h), 3 * H), p.task.dtype) for _ in range(2))
    rz, v_rz, v_n = a[:, : 2 * H], recurrent[:, : 2 * H], recurrent[:, 2 * H :]
    r, z, n = np.split(a, 3, axis=1)
    half = np.array(0.5, p.task.dtype)
    dot, add, multiply, subtract, tanh = np.dot, np.add, np.multiply, np.subtract, np.tanh

    def call() -> Array:
        dot(h, W_hh_T, out=recurrent)
        dot(x, W_ih_T, out=a)
        add(a, b, out=a)
        add(rz, v_rz, out=rz)
        tanh(rz, out=rz)
        multiply(rz, half, out=rz)
        add(rz, half, out=rz)
        add(v_n, b_hn, out=v_n)
        multiply(r, v_n, out=v_n)
        add(n, v_n, out=n)
        tanh(n, out=n)
        subtract(h, n, out=h)
        multiply(z, h, out=h)
        add(h, n, out=h)
        return h

    return Run(call, lambda h_n: {"h_n": h_n[None]})


def build(p: Problem) -> Run:
    """Make a run ready."""
    if p.task.case == BACKWARD:
        return _backward(p)
    if p.task.case == STEP:
        return _step(p)
    forward = _forward(p, keep=False)

    def arrays(_: Any) -> dict[str, Array]:
        return {"y": forward.h[1:], "h_n": forward.h[-1:]}

    return Run(forward.run, arrays)
