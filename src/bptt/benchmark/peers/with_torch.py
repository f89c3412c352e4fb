"""PyTorch's nn.RNN, nn.LSTM and nn.GRU; lengths by PackedSequence, packed and padded again in every call."""
# mypy: disable-error-code="import-not-found,no-untyped-call,unused-ignore"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from bptt.benchmark.peers.base import Implementation
from bptt.benchmark.problem import Array, Problem, Run
from bptt.benchmark.rows import BACKWARD, OPTIONS, STEP, Task

_LAYERS = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}

#: x and the initial state (an LSTM's is a pair) to y and the final state.
Layer = Callable[[Any, Any], tuple[Any, Any]]


def _module(p: Problem) -> Any:
    _, _, I, H = p.task.shape
    layer = _LAYERS[p.task.cell](I, H, dtype=getattr(torch, p.task.dtype), **p.task.options.keywords)
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            weight.copy_(torch.from_numpy(p.parameters[name]))
    return layer


def _with_lengths(p: Problem, module: Any) -> Layer:
    if p.task.lengths is None:
        return module  # type: ignore[no-any-return]
    T, lengths = p.task.shape.T, torch.from_numpy(p.task.lengths)

    def ragged(x: Any, state: Any) -> tuple[Any, Any]:
        y, last = module(pack_padded_sequence(x, lengths, enforce_sorted=False), state)
        return pad_packed_sequence(y, total_length=T)[0], last

    return ragged


def _state(tensors: list[Any]) -> Any:
    return tuple(tensors) if len(tensors) == 2 else tensors[0]


def _final(state: Any) -> dict[str, Array]:
    parts = state if isinstance(state, tuple) else (state,)
    return {name: part.numpy() for name, part in zip(("h_n", "c_n"), parts, strict=False)}


def _backward(p: Problem) -> Run:
    module = _module(p)
    layer = _with_lengths(p, module)
    x = torch.from_numpy(p.x).clone().requires_grad_()
    states = [torch.from_numpy(state).clone().requires_grad_() for state in p.states]
    state, dy = _state(states), torch.from_numpy(p.dy)
    leaves: dict[str, Any] = {"dx": x, **dict(zip(("dh_0", "dc_0"), states, strict=False))}
    leaves |= {f"d{name}": weight for name, weight in module.named_parameters()}
    tensors = list(leaves.values())

    def call() -> Any:
        for leaf in tensors:
            leaf.grad = None
        y, _ = layer(x, state)
        y.backward(dy)  # a little faster than torch.autograd.grad
        return y

    def arrays(y: Any) -> dict[str, Array]:
        return {"y": y.detach().numpy()} | {name: leaf.grad.numpy() for name, leaf in leaves.items()}

    return Run(call, arrays)


def _step(p: Problem) -> Run:
    layer, x, state = _module(p), torch.from_numpy(p.x), _state([torch.from_numpy(s) for s in p.states])
    inference_mode = torch.inference_mode

    def call() -> Any:
        nonlocal state
        with inference_mode():
            _, state = layer(x, state)
        return state

    return Run(call, _final)


def _build(p: Problem, threads: int) -> Run:
    torch.set_num_threads(threads)
    if p.task.case == BACKWARD:
        return _backward(p)
    if p.task.case == STEP:
        return _step(p)
    layer = _with_lengths(p, _module(p))
    x, state = torch.from_numpy(p.x), _state([torch.from_numpy(s) for s in p.states])
    inference_mode = torch.inference_mode

    def call() -> Any:
        with inference_mode():
            return layer(x, state)

    return Run(call, lambda result: {"y": result[0].numpy(), **_final(result[1])})


def _refuses(task: Task) -> str | None:
    return "has not this option, or draws masks of its own" if task.setup in OPTIONS else None


IMPLEMENTATIONS = {"torch": Implementation("torch", torch.__version__, _build, _refuses)}
