"""bptt itself, called as a user calls it, and its pure-Python reference."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import bptt
from bptt.benchmark.peers.base import Implementation
from bptt.benchmark.problem import Problem, Run
from bptt.benchmark.rows import BACKWARD, FORWARD, STEP, Shape, flops

# About 0.1 s of Python floats.
_REFERENCE_FLOPS = 1_000_000


def _layer(p: Problem, backend: Literal["kernels", "reference"]) -> bptt.RNN:
    rnn = bptt.RNN(p.shape.I, p.shape.H, dtype=p.dtype, backend=backend)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        rnn.parameters[f"{name}_l0"][...] = getattr(p, name)
    return rnn


def _build(
    p: Problem,
    threads: int,
    *,
    backend: Literal["kernels", "reference"] = "kernels",
    use: Callable[[int], int | None] = lambda threads: threads,
    frozen: bool = False,
) -> Run:
    rnn, x, h, dy = _layer(p, backend), p.x, p.h_0[None], p.dy
    used = use(threads)
    run = rnn.freeze() if frozen else rnn
    if p.case == BACKWARD:

        def backward() -> Any:
            y, _, tape = rnn.record(x, h, threads=used)
            return y, tape.backward(dy, threads=used)

        return Run(
            backward,
            lambda result: {
                "y": result[0],
                "dx": result[1].x,
                "dh_0": result[1].h_0[0],
                **{f"d{name.removesuffix('_l0')}": array for name, array in result[1].parameters.items()},
            },
        )
    if p.case == STEP:
        step, x_t = rnn.stream(p.shape.B, h).step, x[0]
        return Run(lambda: step(x_t), lambda y_t: {"h_n": y_t})
    return Run(
        lambda: run(x, h, threads=used),
        lambda result: {"y": result[0], "h_n": result[1][0]},
    )


def _too_long(case: str, shape: Shape, dtype: str) -> str | None:
    return "pure Python: small shapes only" if flops(case, shape) > _REFERENCE_FLOPS else None


def _forward_only(case: str, shape: Shape, dtype: str) -> str | None:
    if case == FORWARD:
        return None
    return "has no backward pass" if case == BACKWARD else "steps with the stream that bptt is timed with"


def _one(threads: int) -> int | None:
    return 1


def _default(threads: int) -> int | None:
    return None


IMPLEMENTATIONS = {
    implementation.name: implementation
    for implementation in (
        Implementation("bptt", bptt.__version__, _build),
        Implementation("bptt-frozen", bptt.__version__, partial(_build, frozen=True), _forward_only),
        Implementation("bptt-1-thread", bptt.__version__, partial(_build, use=_one)),
        Implementation("bptt-default-threads", bptt.__version__, partial(_build, use=_default)),
        Implementation("reference", bptt.__version__, partial(_build, backend="reference"), _too_long),
    )
}
