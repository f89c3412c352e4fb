"""The reference against torch.nn.LSTM and torch.nn.GRU: one direction, lengths, projection, all gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from reference_problems import Problem, problem

torch = pytest.importorskip("torch")

#: Both sides round.
ROUNDING = 1e-14


def layer(p: Problem) -> Any:
    """PyTorch's bidirectional layer, with the problem's parameters in both directions."""
    H, I = p.weights.weight_ih.shape[0] // (4 if p.cell == "lstm" else 3), p.weights.weight_ih.shape[1]
    options: dict[str, Any] = {"bias": p.weights.bias_ih is not None, "bidirectional": True}
    if p.weights.weight_hr is not None:
        options["proj_size"] = len(p.weights.weight_hr)
    kind = torch.nn.LSTM if p.cell == "lstm" else torch.nn.GRU
    made = kind(I, H, dtype=torch.float64, **options)
    values = {name: torch.from_numpy(a) for name, a in p.weights._asdict().items() if a is not None}
    made.load_state_dict(
        {f"{name}_l0{end}": value for name, value in values.items() for end in ("", "_reverse")}
    )
    return made


def close(actual: Any, expected: Any) -> None:
    expected = expected.detach().numpy()
    bound = ROUNDING * max(1.0, np.abs(expected).max(initial=0.0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=bound)


FEATURES = [(), ("no_bias",), ("lengths",), ("reverse",), ("lengths", "reverse")]
CASES = [("lstm", f) for f in FEATURES] + [("gru", f) for f in FEATURES]
CASES += [("lstm", (*f, "projection")) for f in FEATURES]


@pytest.mark.parametrize(("cell", "features"), CASES, ids=str)
def test_torch(cell: str, features: tuple[str, ...]) -> None:
    p = problem(cell, features, T=5, B=4, I=3, H=4)
    if "lengths" in features:  # PyTorch takes no row without steps
        p.options["lengths"] = np.maximum(p.options["lengths"], 1)
        p = Problem(**(vars(p) | {"x": np.nan_to_num(p.x), "dy": np.nan_to_num(p.dy)}))
    made = layer(p)
    direction, end = (1, "_reverse") if "reverse" in features else (0, "")
    x = torch.tensor(p.x, requires_grad=True)
    state = [torch.tensor(np.stack([part, part]), requires_grad=True) for part in p.state]
    lengths = p.options.get("lengths")
    pack, pad = torch.nn.utils.rnn.pack_padded_sequence, torch.nn.utils.rnn.pad_packed_sequence
    given = x if lengths is None else pack(x, torch.from_numpy(lengths), enforce_sorted=False)
    out, last = made(given, tuple(state) if cell == "lstm" else state[0])
    out = out if lengths is None else pad(out, total_length=len(p.x))[0]
    out = out.chunk(2, dim=2)[direction]
    last = [part[direction] for part in (last if cell == "lstm" else (last,))]

    y, final, _ = p.run()
    close(y, out)
    for actual, expected in zip(final, last, strict=True):
        close(actual, expected)

    loss = (torch.from_numpy(p.dy) * out).sum()
    for d, part in zip(p.dfinal, last, strict=True):
        loss = loss + (torch.from_numpy(d) * part).sum()
    loss.backward()
    gradients = p.gradients()
    close(gradients.pop("x"), x.grad)
    for name, part in zip(("h_0", "c_0"), state, strict=False):
        close(gradients.pop(name), part.grad[direction])
    for name, gradient in gradients.items():
        close(gradient, getattr(made, f"{name}_l0{end}").grad)
