"""bptt itself, called as a user calls it, and its pure-Python reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import bptt
from bptt.benchmark import problem
from bptt.benchmark.peers.base import Implementation
from bptt.benchmark.problem import Array, Problem, Run
from bptt.benchmark.rows import BACKWARD, FORWARD, STEP, Task
from bptt.benchmark.truth import Masks
from bptt.description import LAYERS

# About 0.1 s of Python floats.
_REFERENCE_FLOPS = 1_000_000

_SEED = 0


def _layer(p: Problem, backend: Literal["kernels", "reference"]) -> Any:
    _, _, I, H = p.task.shape
    layer = LAYERS[p.task.cell](I, H, dtype=p.task.dtype, backend=backend, **p.task.options.keywords)
    for name, weight in p.parameters.items():
        layer.parameters[name][...] = weight
    return layer


def _state(p: Problem) -> Any:
    return p.states if len(p.states) == 2 else p.states[0]


def _named(p: Problem, state: Any) -> dict[str, Array]:
    parts = state if len(p.states) == 2 else (state,)
    return dict(zip(("h_n", "c_n"), parts, strict=False))


def _build(
    p: Problem,
    threads: int,
    *,
    backend: Literal["kernels", "reference"] = "kernels",
    use: Callable[[int], int | None] = lambda threads: threads,
    frozen: bool = False,
) -> Run:
    layer, x, state, dy = _layer(p, backend), p.x, _state(p), p.dy
    used, lengths = use(threads), p.task.lengths
    if p.task.case == BACKWARD:
        seed = {"seed": _SEED} if p.task.options.random else {}

        def backward() -> Any:
            y, _, tape = layer.record(x, state, lengths=lengths, threads=used, **seed)
            return y, tape.backward(dy, threads=used), tape

        def gradients(result: Any) -> dict[str, Array]:
            y, grads, _ = result
            states = {"dh_0": grads.h_0} | ({} if len(p.states) == 1 else {"dc_0": grads.c_0})
            parameters = {f"d{name}": array for name, array in grads.parameters.items()}
            return {"y": y, "dx": grads.x} | states | parameters

        def masks(result: Any) -> Masks:
            tape = result[2]
            return Masks(*(getattr(tape, name) for name in Masks._fields))

        return Run(backward, gradients, masks if p.task.options.random else None)
    if p.task.case == STEP:
        stream, x_t = layer.stream(p.task.shape.B, state), x[0]
        step = stream.step

        def carried(y_t: Array) -> dict[str, Array]:
            return _named(p, stream.state) | {"h_n": y_t[None]}

        return Run(lambda: step(x_t), carried)
    run = layer.freeze() if frozen else layer
    if lengths is not None:
        run = partial(run, lengths=lengths)
    return Run(
        lambda: run(x, state, threads=used),
        lambda result: {"y": result[0], **_named(p, result[1])},
    )


def _without_option(p: Problem, threads: int) -> Run:
    """Build the layer without the option whose cost is to be seen."""
    setup = p.task.options.without
    assert setup is not None
    plain = problem.make(replace(p.task, setup=setup))
    return replace(_build(plain, threads), solves=plain)


def _too_long(task: Task) -> str | None:
    return "pure Python: small shapes only" if task.flops > _REFERENCE_FLOPS else None


def _forward_only(task: Task) -> str | None:
    if task.case == FORWARD:
        return None
    if task.case == BACKWARD:
        return "has no backward pass"
    return "steps with the stream that bptt is timed with"


def _no_option(task: Task) -> str | None:
    return None if task.options.without else "is bptt, there is no option to do without"


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
        Implementation("bptt-without-option", bptt.__version__, _without_option, _no_option),
        Implementation("reference", bptt.__version__, partial(_build, backend="reference"), _too_long),
    )
}
