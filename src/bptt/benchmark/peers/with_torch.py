"""PyTorch's nn.RNN."""
# mypy: disable-error-code="import-not-found,no-untyped-call,unused-ignore"

from __future__ import annotations

from typing import Any

import torch

from bptt.benchmark.peers.base import Implementation
from bptt.benchmark.problem import Array, Problem, Run
from bptt.benchmark.rows import BACKWARD, STEP


def _layer(p: Problem) -> Any:
    rnn = torch.nn.RNN(p.shape.I, p.shape.H, dtype=getattr(torch, p.dtype))
    with torch.no_grad():
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(rnn, f"{name}_l0").copy_(torch.from_numpy(getattr(p, name)))
    return rnn


def _backward(p: Problem) -> Run:
    rnn = _layer(p)
    x = torch.from_numpy(p.x).clone().requires_grad_()
    h_0 = torch.from_numpy(p.h_0[None]).clone().requires_grad_()
    dy = torch.from_numpy(p.dy)
    leaves: dict[str, Any] = {"dx": x, "dh_0": h_0}
    leaves |= {f"d{name.removesuffix('_l0')}": weight for name, weight in rnn.named_parameters()}
    tensors = list(leaves.values())

    def call() -> Any:
        for leaf in tensors:
            leaf.grad = None
        y, _ = rnn(x, h_0)
        y.backward(dy)  # a little faster than torch.autograd.grad
        return y

    def arrays(y: Any) -> dict[str, Array]:
        gradients = {name: leaf.grad.numpy() for name, leaf in leaves.items()}
        return {"y": y.detach().numpy()} | gradients | {"dh_0": gradients["dh_0"][0]}

    return Run(call, arrays)


def _step(p: Problem) -> Run:
    rnn, x, h = _layer(p), torch.from_numpy(p.x), torch.from_numpy(p.h_0[None])
    inference_mode = torch.inference_mode

    def call() -> Any:
        nonlocal h
        with inference_mode():
            _, h = rnn(x, h)
        return h

    return Run(call, lambda h_n: {"h_n": h_n[0].numpy()})


def _build(p: Problem, threads: int) -> Run:
    torch.set_num_threads(threads)
    if p.case == BACKWARD:
        return _backward(p)
    if p.case == STEP:
        return _step(p)
    rnn, x, h_0 = _layer(p), torch.from_numpy(p.x), torch.from_numpy(p.h_0[None])
    inference_mode = torch.inference_mode

    def call() -> Any:
        with inference_mode():
            return rnn(x, h_0)

    return Run(call, lambda result: {"y": result[0].numpy(), "h_n": result[1][0].numpy()})


IMPLEMENTATIONS = {"torch": Implementation("torch", torch.__version__, _build)}
