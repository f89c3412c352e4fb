"""JAX: jit of lax.scan with the input product hoisted; the gradients by jax.vjp inside the same jit.

Dispatch is synchronous: a few us faster, since every call waits for its result. scan is not unrolled: by 4 it
gains 7% at 100,32,64,64 forward, loses 25% at 100,1,64,64 forward and 90% at 100,1,256,256 backward.
"""
# mypy: disable-error-code="import-not-found,no-any-return,no-untyped-call,unused-ignore"

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bptt.benchmark.peers.base import Implementation
from bptt.benchmark.problem import Array, Problem, Run
from bptt.benchmark.rows import BACKWARD, STEP

_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def _layer(x: Any, h_0: Any, W_ih: Any, W_hh: Any, b_ih: Any, b_hh: Any) -> tuple[Any, Any]:
    # a_t = W_ih x_t + b for all t at once;  h_t = tanh(a_t + W_hh h_{t-1})
    a = x @ W_ih.T + (b_ih + b_hh)

    def step(h: Any, a_t: Any) -> tuple[Any, Any]:
        h = jnp.tanh(a_t + h @ W_hh.T)
        return h, h

    h_n, y = jax.lax.scan(step, h_0, a)
    return y, h_n


def _gradients(dy: Any, *inputs: Any) -> tuple[Any, Any]:
    y, pull_back = jax.vjp(lambda *arguments: _layer(*arguments)[0], *inputs)
    return y, pull_back(dy)


def _step(h: Any, x: Any, W_ih: Any, W_hh: Any, b_ih: Any, b_hh: Any) -> Any:
    return jnp.tanh(x @ W_ih.T + h @ W_hh.T + (b_ih + b_hh))


def _numpy(names: tuple[str, ...], values: Any) -> dict[str, Array]:
    return {name: np.asarray(value) for name, value in zip(names, values, strict=True)}


def _build(p: Problem, threads: int) -> Run:
    # Global, but a row of the comparison has one dtype.  Off for float32: scan's counter stays 32 bits wide.
    jax.config.update("jax_enable_x64", p.dtype == "float64")
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    x, h_0 = jax.device_put(p.x), jax.device_put(p.h_0)
    weights = [jax.device_put(getattr(p, name)) for name in _WEIGHTS]
    ready = jax.block_until_ready
    if p.case == BACKWARD:
        names = ("dx", "dh_0", *(f"d{name}" for name in _WEIGHTS))
        backward = partial(jax.jit(_gradients), jax.device_put(p.dy), x, h_0, *weights)
        return Run(
            lambda: ready(backward()),
            lambda result: {"y": np.asarray(result[0]), **_numpy(names, result[1])},
        )
    if p.case == STEP:
        step, h, x_t = jax.jit(_step), h_0, x[0]

        def call() -> Any:
            nonlocal h
            h = ready(step(h, x_t, *weights))
            return h

        return Run(call, lambda h_n: {"h_n": np.asarray(h_n)})
    forward = partial(jax.jit(_layer), x, h_0, *weights)
    return Run(lambda: ready(forward()), lambda result: _numpy(("y", "h_n"), result))


IMPLEMENTATIONS = {"jax": Implementation("jax", jax.__version__, _build)}
