"""Checks of a ground-floor implementation against the golden values, for any implementation and precision.

A check takes a Subject and, where it applies to all cases, a Case. It uses only what every implementation
offers (unroll, bptt, affine, affine_backward, softmax_cross_entropy), so the reference and the compiled
kernels are held to the same values. The checks of single files stand in golden_special.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from golden_cases import Case

from bptt.arrays import Array, Weights
from bptt.reference import losses
from bptt.reference.cells import sigmoid

#: Case name -> factor by which cancellation amplifies a rounding error: |yhat| / |y - yhat| = 0.99 / 0.01.
CONDITION = {"seed004_relu_four_sequences": 100.0}


@dataclass(frozen=True)
class Subject:
    """What is checked: an implementation, its precision, and how far a result may be off.

    ``allowed(expected, scale, K)`` is the largest absolute error of each entry, ``scale`` the largest number
    that was added up on the way to one, K how many were.
    """

    name: str
    backend: Any
    dtype: type[np.float32] | type[np.float64]
    allowed: Callable[[Array, float, int], Any]

    def cast(self, array: Any) -> Array:
        """C-contiguous array of the subject's dtype."""
        return np.ascontiguousarray(array, dtype=self.dtype)

    def check(self, what: str, actual: Any, expected: Any, case: Case, addends: Any = None) -> None:
        """Fail unless every entry is within what is allowed.

        Rounding is relative to what was added, not to what is left after cancellation: ``addends``, if not
        the expected values themselves.
        """
        got = np.asarray(actual, dtype=np.float64)
        want = np.asarray(expected, dtype=np.float64)
        assert got.shape == want.shape, f"{case.name} {what}: shape {got.shape}, expected {want.shape}"
        T, _, I = case.x.shape
        scale = float(np.abs(want if addends is None else addends).max(initial=0.0))
        bound = self.allowed(want, scale * CONDITION.get(case.name, 1.0), T * (I + case.h_0.shape[1]))
        error = np.abs(got - want)
        # not (error <= bound): a NaN must fail.
        assert np.all(error <= bound), f"{case.name} {what}: off by {error.max()}, got {got}, expected {want}"


def elementwise(tolerance: float) -> Callable[[Array, float, int], Any]:
    """Return tolerance * max(1, |expected|) for each entry."""
    return lambda expected, scale, K: tolerance * np.maximum(1.0, np.abs(expected))


def relative_to_largest(tolerance: float, *, grows: bool = False) -> Callable[[Array, float, int], Any]:
    """Return tolerance times the scale, times sqrt(K) if it grows with the length of the sums."""
    return lambda expected, scale, K: tolerance * scale * (math.sqrt(K) if grows else 1.0)


def addends(case: Case, name: str) -> Array:
    """Sum of |term(i,k)| of a recurrent parameter over all i and k."""
    total: Array = np.sum([np.abs(entry[name]) for entry in case.expected["terms"]], axis=0)
    return total


@dataclass(frozen=True)
class Parameters:
    """Parameters of a whole system under the golden files' keys, in PyTorch's layout."""

    W_xh: Array  # (H, I)
    W_hh: Array  # (H, H)
    b_h: Array  # (H,)
    W_hy: Array  # (O, H)
    b_y: Array  # (O,)

    @staticmethod
    def of(subject: Subject, case: Case) -> Parameters:
        """Return a case's parameters in the subject's precision."""
        w = case.weights
        assert w.bias_ih is not None
        return Parameters(
            *(subject.cast(a) for a in (w.weight_ih, w.weight_hh, w.bias_ih, case.W_hy, case.b_y))
        )

    def recurrent(self) -> Weights:
        """Weights of the recurrence, the bias standing in bias_ih."""
        return Weights(self.W_xh, self.W_hh, self.b_h, np.zeros_like(self.b_h))

    def updated(self, gradients: dict[str, Array], names: tuple[str, ...], rate: float) -> Parameters:
        """Return theta - rate * gradient for the names given, theta for the others."""
        new = {
            name: value - value.dtype.type(rate) * gradients[name] if name in names else value
            for name, value in vars(self).items()
        }
        return Parameters(**new)


@dataclass(frozen=True)
class Forward:
    """Everything a forward pass gives."""

    h: Array  # (T, B, H)
    h_n: Array  # (B, H)
    saved: Any
    s: Array  # (T, B, O) or (B, O)
    yhat: Array  # like s


def forward(subject: Subject, case: Case, parameters: Parameters) -> Forward:
    """Unroll, read out and predict."""
    x, h_0 = subject.cast(case.x), subject.cast(case.h_0)
    h, (h_n,), saved = subject.backend.unroll(case.cell, x, (h_0,), parameters.recurrent())
    rows = h_n if case.many_to_one else h.reshape(-1, h.shape[2])
    s = subject.backend.affine(rows, parameters.W_hy, parameters.b_y)
    s = s if case.many_to_one else s.reshape(*h.shape[:2], -1)
    return Forward(h, h_n, saved, s, predict(case.readout, s))


def predict(readout: str, s: Array) -> Array:
    """Return yhat = g(s) in float64."""
    rows = s.reshape(-1, s.shape[-1]).tolist()
    if readout == "softmax":
        return np.array([losses.softmax(row)[0] for row in rows]).reshape(s.shape)
    if readout == "sigmoid":
        return np.array([[sigmoid(v) for v in row] for row in rows]).reshape(s.shape)
    assert readout == "identity"
    return s.astype(np.float64)


def loss_and_ds(subject: Subject, loss: str, readout: str, s: Array, targets: Array) -> tuple[float, Array]:
    """Return the summed loss of some rows and its gradient with respect to s, in the subject's dtype."""
    rows = np.ascontiguousarray(s.reshape(-1, s.shape[-1]))
    y = targets.reshape(-1, s.shape[-1])
    if loss == "cross_entropy":
        classes = y.argmax(axis=1).astype(np.int64)
        total, count, ds = subject.backend.softmax_cross_entropy(rows, classes)
        assert count == len(rows)
        return total, ds.reshape(s.shape)
    if loss == "bce":
        total, nested = losses.binary_cross_entropy(rows.tolist(), y.tolist())
    else:
        function = {"residual": losses.residual, "ssr": losses.sum_squared_residuals}[loss]
        total, nested = function(rows.tolist(), y.tolist(), readout)
    return total, subject.cast(nested).reshape(s.shape)


@dataclass(frozen=True)
class Backward:
    """Everything a backward pass gives."""

    dh: Array  # (T, B, H) gradient reaching each state from its own readout
    gradients: dict[str, Array]  # under the golden files' keys


def backward(
    subject: Subject, case: Case, parameters: Parameters, run: Forward, ds: Array, depth: int | None = None
) -> Backward:
    """Go back through the readout and through time."""
    rows = run.h_n if case.many_to_one else run.h.reshape(-1, run.h.shape[2])
    drows, dW_hy, db_y = subject.backend.affine_backward(rows, parameters.W_hy, ds.reshape(len(rows), -1))
    dh = np.zeros_like(run.h)
    if case.many_to_one:
        dh[-1] = drows
    else:
        dh[:] = drows.reshape(run.h.shape)
    dx, (dh_0,), dw = subject.backend.bptt(case.cell, run.saved, dh, None, depth=depth)
    gradients = {"W_xh": dw.weight_ih, "W_hh": dw.weight_hh, "b_h": dw.bias_ih, "W_hy": dW_hy, "b_y": db_y}
    return Backward(dh, {**gradients, "x": dx, "h0": dh_0})


def whole(subject: Subject, case: Case) -> tuple[Parameters, Forward, float, Array, Backward]:
    """Run a case once, forward and backward."""
    parameters = Parameters.of(subject, case)
    run = forward(subject, case, parameters)
    loss, ds = loss_and_ds(subject, case.loss, case.readout, run.s, case.targets)
    return parameters, run, loss, ds, backward(subject, case, parameters, run, ds)


def single_loss_step(dh: Array, i: int) -> Array:
    """Return dh with the loss of step i (from 1) alone."""
    only = np.zeros_like(dh)
    only[i - 1] = dh[i - 1]
    return only


def check_forward(subject: Subject, case: Case) -> None:
    """Check z, h, h_n, s and yhat."""
    parameters = Parameters.of(subject, case)
    run = forward(subject, case, parameters)
    want = case.expected
    subject.check("h", run.h, want["h"], case)
    subject.check("h_n", run.h_n, want["h"][-1], case)
    subject.check("s", run.s, want["s"], case)
    subject.check("yhat", run.yhat, want["yhat"], case)
    # One step of the identity cell from the right state gives the pre-activation.
    x = subject.cast(case.x)
    states = [case.h_0, *want["h"][:-1]]
    z = [
        subject.backend.unroll("identity", x[t : t + 1], (subject.cast(h),), parameters.recurrent())[0][0]
        for t, h in enumerate(states)
    ]
    subject.check("z", z, want["z"], case)


def check_bias_placement(subject: Subject, case: Case) -> None:
    """The sum of the biases counts; a zero bias is no bias."""
    w = Parameters.of(subject, case).recurrent()
    x, state = subject.cast(case.x), (subject.cast(case.h_0),)
    variants = [Weights(w.weight_ih, w.weight_hh, w.bias_hh, w.bias_ih), w._replace(bias_hh=None)]
    if not np.any(w.bias_ih):
        variants += [w._replace(bias_ih=None), w._replace(bias_ih=None, bias_hh=None)]
    for variant in variants:
        h, _, saved = subject.backend.unroll(case.cell, x, state, variant)
        subject.check("h", h, case.expected["h"], case)
        *_, dw = subject.backend.bptt(case.cell, saved, h, None)
        assert (dw.bias_ih is None, dw.bias_hh is None) == (variant.bias_ih is None, variant.bias_hh is None)


def check_loss(subject: Subject, case: Case) -> None:
    """Check the loss, its parts by step and by sample, and dL/ds."""
    run = forward(subject, case, Parameters.of(subject, case))
    want = case.expected

    def loss_of(s: Array, targets: Array) -> float:
        return loss_and_ds(subject, case.loss, case.readout, s, targets)[0]

    total, ds = loss_and_ds(subject, case.loss, case.readout, run.s, case.targets)
    subject.check("loss", total, want["loss"], case)
    subject.check("dL_ds", ds, want["dL_ds"], case)
    T, B = case.x.shape[:2]
    if case.many_to_one:
        by_step = {str(T): total}
        by_sample = [loss_of(run.s[b : b + 1], case.targets[b : b + 1]) for b in range(B)]
    else:
        by_step = {str(t + 1): loss_of(run.s[t], case.targets[t]) for t in range(T)}
        by_sample = [loss_of(run.s[:, b], case.targets[:, b]) for b in range(B)]
    assert by_step.keys() == want["loss_per_step"].keys()
    subject.check("loss_per_step", list(by_step.values()), list(want["loss_per_step"].values()), case)
    subject.check("loss_per_sample", by_sample, want["loss_per_sample"], case)


def check_gradients(subject: Subject, case: Case) -> None:
    """Check every gradient and the total dL/dh_t."""
    parameters, run, _, _, back = whole(subject, case)
    assert back.gradients.keys() == case.expected["grads"].keys()
    for name, want in case.expected["grads"].items():
        subject.check(f"grads {name}", back.gradients[name], want, case)
    # dL/dh_t = own readout's part + what a tail that starts from h_t sends back to its initial state.
    x = subject.cast(case.x)
    for t, want in enumerate(case.expected["dL_dh_total"]):
        _, _, tail = subject.backend.unroll(case.cell, x[t + 1 :], (run.h[t].copy(),), parameters.recurrent())
        _, (carry,), _ = subject.backend.bptt(case.cell, tail, back.dh[t + 1 :].copy(), None)
        subject.check(f"dL_dh_total at {t + 1}", back.dh[t] + carry, want, case)


def check_final_state_gradient(subject: Subject, case: Case) -> None:
    """A gradient at h_n does what the same gradient at y_T does, with any depth."""
    _, run, _, _, back = whole(subject, case)
    dh_n = back.dh[-1].copy()
    others = back.dh.copy()
    others[-1] = 0.0
    T = len(back.dh)
    for depth in (None, *range(1, T + 2)):
        for dy in (others, None) if case.many_to_one else (others,):
            dx, (dh_0,), dw = subject.backend.bptt(case.cell, run.saved, dy, (dh_n,), depth=depth)
            if depth is None or depth > T:
                subject.check("grads x", dx, case.expected["grads"]["x"], case)
                subject.check("grads h0", dh_0, case.expected["grads"]["h0"], case)
            want = case.expected["grads"] if depth is None else case.expected["truncated"][str(min(depth, T))]
            for name, got in (("W_xh", dw.weight_ih), ("W_hh", dw.weight_hh), ("b_h", dw.bias_hh)):
                subject.check(f"{name} at depth {depth}", got, want[name], case, addends(case, name))


def check_truncated(subject: Subject, case: Case) -> None:
    """Check the truncated gradients K = 1 .. T; the readout's are not touched by truncation."""
    parameters, run, _, ds, _ = whole(subject, case)
    depths = [int(K) for K in case.expected["truncated"]]
    assert depths == list(range(1, len(case.x) + 1))
    for K in depths:
        got = backward(subject, case, parameters, run, ds, K).gradients
        for name, want in case.expected["truncated"][str(K)].items():
            subject.check(f"truncated {K} {name}", got[name], want, case, addends(case, name))
        for name in ("W_hy", "b_y"):
            subject.check(f"truncated {K} {name}", got[name], case.expected["grads"][name], case)


def check_terms(subject: Subject, case: Case) -> None:
    """Check term(i,k) through its sums over k > i - K, one loss step at a time (no difference is taken)."""
    _, run, _, _, back = whole(subject, case)
    by_loss_step: dict[int, dict[int, dict[str, Array]]] = {}
    for entry in case.expected["terms"]:
        by_loss_step.setdefault(int(entry["i"]), {})[int(entry["k"])] = entry
    T = len(case.x)
    assert list(by_loss_step) == ([T] if case.many_to_one else list(range(1, T + 1)))
    for i, entries in by_loss_step.items():
        assert list(entries) == list(range(i, 0, -1))
        dy = single_loss_step(back.dh, i)
        for K in range(1, i + 1):
            *_, dw = subject.backend.bptt(case.cell, run.saved, dy, None, depth=K)
            for name, got in (("W_xh", dw.weight_ih), ("W_hh", dw.weight_hh), ("b_h", dw.bias_ih)):
                want = sum(entries[k][name] for k in range(i, i - K, -1))
                what = f"terms ({i}, k > {i - K}) {name}"
                subject.check(what, got, want, case, sum(np.abs(e[name]) for e in entries.values()))


def check_readout_terms(subject: Subject, case: Case) -> None:
    """Check the readout's gradient, one term for each loss step."""
    parameters, run, _, ds, _ = whole(subject, case)
    for entry in case.expected["readout_terms"]:
        t = int(entry["i"]) - 1
        ds_t = ds if case.many_to_one else ds[t]
        _, dW_hy, db_y = subject.backend.affine_backward(run.h[t].copy(), parameters.W_hy, ds_t.copy())
        subject.check(f"readout term {t + 1} W_hy", dW_hy, entry["W_hy"], case)
        subject.check(f"readout term {t + 1} b_y", db_y, entry["b_y"], case)


def check_update(
    subject: Subject, case: Case, parameters: Parameters, gradients: dict[str, Array], want: dict[str, Any]
) -> None:
    """Check parameters, predictions and loss after theta - eta dL/dtheta."""
    assert float(want["learning_rate"]) == case.learning_rate
    new = parameters.updated(gradients, tuple(want["updated"]), case.learning_rate)
    for name, value in want["weights_after"].items():
        subject.check(f"sgd {name}", getattr(new, name), value, case)
    run = forward(subject, case, new)
    subject.check("sgd yhat_after", run.yhat, want["yhat_after"], case)
    loss, _ = loss_and_ds(subject, case.loss, case.readout, run.s, case.targets)
    subject.check("sgd loss_after", loss, want["loss_after"], case)


def check_sgd(subject: Subject, case: Case) -> None:
    """Check one update; the tied system has its own (golden_special.py)."""
    if "sgd" not in case.expected:
        assert case.name == "seed000_tied_readout"
        return
    parameters, _, _, _, back = whole(subject, case)
    assert tuple(case.expected["sgd"]["updated"]) == case.trainable
    check_update(subject, case, parameters, back.gradients, case.expected["sgd"])


def state_jacobian(subject: Subject, case: Case, k: int, i: int, h_k: Array) -> Array:
    """Return dh_i/dh_k (B, H, H), [b][q][p] = dh_i[q]/dh_k[p], by sending unit gradients back from step i."""
    parameters = Parameters.of(subject, case)
    x = subject.cast(case.x)[k:i].copy()
    _, _, saved = subject.backend.unroll(case.cell, x, (subject.cast(h_k),), parameters.recurrent())
    B, H = case.h_0.shape
    rows = []
    for q in range(H):
        unit = np.zeros((B, H), dtype=subject.dtype)
        unit[:, q] = 1.0
        _, (dh_k,), _ = subject.backend.bptt(case.cell, saved, None, (unit,))
        rows.append(dh_k)
    return np.stack(rows, axis=1)


def check_jacobians(subject: Subject, case: Case) -> None:
    """Check state Jacobians and their products, where the file has them."""
    if "jacobians" not in case.expected:
        return
    states = [case.h_0, *case.expected["h"]]
    T = len(case.x)
    jacobians = case.expected["jacobians"]
    assert list(jacobians["one_step"]) == [f"dh{t}_dh{t - 1}" for t in range(1, T + 1)]
    assert list(jacobians["products"]) == [f"dh{T}_dh{k}" for k in range(T, -1, -1)]
    for name, want in {**jacobians["one_step"], **jacobians["products"]}.items():
        i, k = (int(part) for part in name.replace("dh", "").split("_"))
        subject.check(name, state_jacobian(subject, case, k, i, states[k]), want, case)


#: Every check that applies to all runnable cases.
COMMON = (
    check_forward,
    check_bias_placement,
    check_loss,
    check_gradients,
    check_final_state_gradient,
    check_truncated,
    check_terms,
    check_readout_terms,
    check_sgd,
    check_jacobians,
)
