"""JAX: jit of lax.scan with the input product hoisted; the gradients by jax.vjp inside the same jit.

Dispatch is synchronous: a few us faster, since every call waits for its result. scan is not unrolled: by 4 it
gains 7% for the tanh layer at 100,32,64,64 forward, loses 25% at 100,1,64,64 forward and 90% at 100,1,256,256
backward. Sigmoids are jax.nn's: of the forms tried the fastest forward + backward. Forward alone, one tanh
for all gates of an LSTM halves the time at 100,32,64,64, which still is more than PyTorch's.
"""
# mypy: disable-error-code="import-not-found,no-any-return,no-untyped-call,unused-ignore"

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bptt.benchmark.peers.base import Implementation, refuses_setups
from bptt.benchmark.problem import WEIGHTS, Array, Problem, Run
from bptt.benchmark.rows import BACKWARD, STEP

#: (h,), for an LSTM (h, c).
State = tuple[Any, ...]


# A cell: from the state, a = W_ih x + the biases that can be added beforehand, W_hh and b_hh to a new state.


def _rnn(state: State, a: Any, W_hh: Any, b_hh: Any) -> State:
    return (jnp.tanh(a + state[0] @ W_hh.T),)


def _lstm(state: State, a: Any, W_hh: Any, b_hh: Any) -> State:
    h, c = state
    i, f, g, o = jnp.split(a + h @ W_hh.T, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def _gru(state: State, a: Any, W_hh: Any, b_hh: Any) -> State:
    (h,) = state
    (a_r, a_z, a_n), (v_r, v_z, v_n) = jnp.split(a, 3, axis=-1), jnp.split(h @ W_hh.T, 3, axis=-1)
    r, z = jax.nn.sigmoid(a_r + v_r), jax.nn.sigmoid(a_z + v_z)
    n = jnp.tanh(a_n + r * (v_n + jnp.split(b_hh, 3)[2]))
    return (n + z * (h - n),)


_CELLS: dict[str, Callable[[State, Any, Any, Any], State]] = {"rnn": _rnn, "lstm": _lstm, "gru": _gru}


def _inputs(cell: str, x: Any, W_ih: Any, b_ih: Any, b_hh: Any) -> Any:
    H = len(b_hh) // 3
    # r multiplies a GRU's last third of b_hh
    before = jnp.concatenate([b_hh[: 2 * H], jnp.zeros_like(b_hh[2 * H :])]) if cell == "gru" else b_hh
    return x @ W_ih.T + (b_ih + before)


def _layer(cell: str, x: Any, state: State, W_ih: Any, W_hh: Any, b_ih: Any, b_hh: Any) -> tuple[Any, State]:
    def step(state: State, a: Any) -> tuple[State, Any]:
        state = _CELLS[cell](state, a, W_hh, b_hh)
        return state, state[0]

    last, y = jax.lax.scan(step, state, _inputs(cell, x, W_ih, b_ih, b_hh))
    return y, last


def _gradients(cell: str, dy: Any, *inputs: Any) -> tuple[Any, Any]:
    y, pull_back = jax.vjp(lambda *arguments: _layer(cell, *arguments)[0], *inputs)
    return y, pull_back(dy)


def _step(cell: str, state: State, x: Any, W_ih: Any, W_hh: Any, b_ih: Any, b_hh: Any) -> State:
    return _CELLS[cell](state, _inputs(cell, x, W_ih, b_ih, b_hh), W_hh, b_hh)


def _numpy(names: tuple[str, ...], values: Any) -> dict[str, Array]:
    return {name: np.asarray(value) for name, value in zip(names, values, strict=False)}


def _states(names: tuple[str, str], state: State) -> dict[str, Array]:
    return {name: array[None] for name, array in _numpy(names, state).items()}


def _build(p: Problem, threads: int) -> Run:
    # Global, but a row of the comparison has one dtype.  Off for float32: scan's counter stays 32 bits wide.
    jax.config.update("jax_enable_x64", p.task.dtype == "float64")
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    x, state = jax.device_put(p.x), tuple(jax.device_put(s[0]) for s in p.states)
    weights = [jax.device_put(weight) for weight in p.weights]
    ready = jax.block_until_ready
    if p.task.case == BACKWARD:
        gradients = jax.jit(partial(_gradients, p.task.cell))
        backward = partial(gradients, jax.device_put(p.dy), x, state, *weights)

        def arrays(result: Any) -> dict[str, Array]:
            y, (dx, dstate, *dweights) = result
            named = _numpy(tuple(f"d{name}_l0" for name in WEIGHTS), dweights)
            return {"y": np.asarray(y), "dx": np.asarray(dx)} | named | _states(("dh_0", "dc_0"), dstate)

        return Run(lambda: ready(backward()), arrays)
    if p.task.case == STEP:
        step, x_t = jax.jit(partial(_step, p.task.cell)), x[0]

        def call() -> State:
            nonlocal state
            state = ready(step(state, x_t, *weights))
            return state

        return Run(call, lambda state: _states(("h_n", "c_n"), state))
    forward = partial(jax.jit(partial(_layer, p.task.cell)), x, state, *weights)
    return Run(
        lambda: ready(forward()),
        lambda result: {"y": np.asarray(result[0]), **_states(("h_n", "c_n"), result[1])},
    )


IMPLEMENTATIONS = {"jax": Implementation("jax", jax.__version__, _build, refuses_setups)}
