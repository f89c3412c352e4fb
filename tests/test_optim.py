"""Optimisers against scalar loops written out here; states; steps interrupted at every line."""

from __future__ import annotations

import math
import sys
import tracemalloc

import numpy as np
import pytest
from errors import raises

from bptt import optim
from bptt.optim import SGD, Adam, AdamW

SHAPES = {"weight": (3, 4), "bias": (5,)}


def arrays(seed, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in SHAPES.items()}


def scalar_sgd(p, gradients, lr, momentum=0.0, nesterov=False, weight_decay=0.0):
    """One parameter through PyTorch's documented SGD loop."""
    b = None
    for g in gradients:
        g = g + weight_decay * p
        if momentum:
            b = g if b is None else momentum * b + g
            g = g + momentum * b if nesterov else b
        p = p - lr * g
    return p


def scalar_adam(p, gradients, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled=False):
    """One parameter through PyTorch's documented Adam loop."""
    m = v = 0.0
    for t, g in enumerate(gradients, start=1):
        if decoupled:
            p = p - lr * weight_decay * p
        else:
            g = g + weight_decay * p
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        m_hat = m / (1 - betas[0] ** t)
        v_hat = v / (1 - betas[1] ** t)
        p = p - lr * m_hat / (math.sqrt(v_hat) + eps)
    return p


CASES = [
    (SGD, {"lr": 0.1}, scalar_sgd, {}),
    (SGD, {"lr": 0.1, "weight_decay": 0.3}, scalar_sgd, {}),
    (SGD, {"lr": 0.1, "momentum": 0.9}, scalar_sgd, {}),
    (SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}, scalar_sgd, {}),
    (SGD, {"lr": 0.1, "momentum": 0.5, "nesterov": True, "weight_decay": 0.3}, scalar_sgd, {}),
    (Adam, {}, scalar_adam, {}),
    (Adam, {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3}, scalar_adam, {}),
    (Adam, {"lr": 0.05, "weight_decay": 0.3}, scalar_adam, {}),
    (AdamW, {"lr": 0.05}, scalar_adam, {"weight_decay": 0.01, "decoupled": True}),
    (AdamW, {"lr": 0.05, "weight_decay": 0.3}, scalar_adam, {"decoupled": True}),
    (AdamW, {"lr": 0.05, "weight_decay": 0.0}, scalar_adam, {}),
]
IDS = [f"{kind.__name__}-{options}" for kind, options, _, _ in CASES]
each_case = pytest.mark.parametrize(("kind", "options", "scalar", "more"), CASES, ids=IDS)
each_kind = pytest.mark.parametrize(("kind", "options"), [case[:2] for case in CASES], ids=IDS)


@each_case
def test_float64_steps_are_the_formulas(kind, options, scalar, more):
    optimizer, parameters = kind(**options), arrays(0)
    start = {name: value.copy() for name, value in parameters.items()}
    gradients = [arrays(seed) for seed in range(1, 6)]
    for gradient in gradients:
        optimizer.step(parameters, gradient)
    for name, value in parameters.items():
        for index in np.ndindex(value.shape):
            series = [float(g[name][index]) for g in gradients]
            expected = scalar(float(start[name][index]), series, **(options | more))
            assert value[index] == pytest.approx(expected, rel=1e-13)


@each_kind
def test_float32_follows_float64(kind, options):
    narrow, wide = kind(**options), kind(**options)
    p32 = arrays(0, np.float32)
    p64 = {name: value.astype(np.float64) for name, value in p32.items()}
    for seed in range(1, 6):
        g32 = arrays(seed, np.float32)
        narrow.step(p32, g32)
        wide.step(p64, {name: value.astype(np.float64) for name, value in g32.items()})
    for name in SHAPES:
        assert p32[name].dtype == np.float32
        np.testing.assert_allclose(p32[name], p64[name], rtol=1e-5, atol=1e-6)


@each_kind
def test_against_torch(kind, options):
    torch = pytest.importorskip("torch")
    ours = arrays(0)
    theirs = {name: torch.tensor(value, requires_grad=True) for name, value in ours.items()}
    optimizer = kind(**options)
    peer = getattr(torch.optim, kind.__name__)(theirs.values(), **options)
    for seed in range(1, 6):
        gradients = arrays(seed)
        optimizer.step(ours, gradients)
        for name, tensor in theirs.items():
            tensor.grad = torch.tensor(gradients[name])
        peer.step()
    for name, tensor in theirs.items():
        np.testing.assert_allclose(ours[name], tensor.detach().numpy(), rtol=1e-12)


@each_kind
def test_in_place_and_gradients_untouched(kind, options):
    optimizer, parameters, gradients = kind(**options), arrays(0), arrays(1)
    same, before = dict(parameters), {name: g.copy() for name, g in gradients.items()}
    for g in gradients.values():
        g.flags.writeable = False
    optimizer.step(parameters, gradients)
    for name in SHAPES:
        assert parameters[name] is same[name]
        assert not np.array_equal(parameters[name], arrays(0)[name])
        np.testing.assert_array_equal(gradients[name], before[name])


def test_views_are_updated_where_they_are():
    base = np.ones((4, 6))
    expected = base.copy()
    expected[:, ::2] -= 0.5
    SGD(0.5).step({"p": base[:, ::2]}, {"p": np.ones((4, 3))})
    np.testing.assert_array_equal(base, expected)


@each_kind
def test_a_step_allocates_nothing(kind, options):
    n = 200_000
    parameters, gradients = {"p": np.ones(n, np.float32)}, {"p": np.ones(n, np.float32)}
    optimizer = kind(**options)
    optimizer.step(parameters, gradients)
    tracemalloc.start()
    optimizer.step(parameters, gradients)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < n  # a single temporary would take 4 n bytes


def test_parameters_without_gradient_are_frozen():
    optimizer, parameters = SGD(0.1, momentum=0.9, weight_decay=0.1), arrays(0)
    optimizer.step(parameters, arrays(1))
    frozen = parameters["bias"].copy()
    optimizer.step(parameters, {"weight": arrays(2)["weight"]})
    np.testing.assert_array_equal(parameters["bias"], frozen)
    assert optimizer.state_dict()["step.bias"] == 1
    assert optimizer.state_dict()["step.weight"] == 2


def test_learning_rate_may_change():
    parameters, optimizer = {"p": np.ones(1)}, SGD(0.5)
    optimizer.lr = 0.25
    optimizer.step(parameters, {"p": np.ones(1)})
    assert parameters["p"][0] == 0.75


def test_non_finite_gradients_flow_through():
    for optimizer in (SGD(0.1, momentum=0.9), Adam(), AdamW()):
        parameters = {"p": np.ones(3)}
        optimizer.step(parameters, {"p": np.array([np.nan, np.inf, 1.0])})
        assert np.isnan(parameters["p"][0])
        assert np.isfinite(parameters["p"][2])


def interrupted_at(line, error, call):
    """Call, raising at a line executed in optim.py as a signal handler would; False if it ended before."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        if frame.f_code.co_filename != optim.__file__:
            return None
        if event == "line":
            count += 1
            if count == line:
                sys.settrace(previous)
                raise error
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except error:
        return True
    finally:
        sys.settrace(previous)
    return False


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize(
    ("kind", "options"),
    [(SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}), (AdamW, {})],
)
def test_a_step_interrupted_anywhere_changes_nothing(kind, options, error):
    optimizer, parameters = kind(**options), arrays(0)
    optimizer.step(parameters, arrays(1))
    before, state = {name: p.copy() for name, p in parameters.items()}, optimizer.state_dict()
    gradients = arrays(2)
    line = 1
    while interrupted_at(line, error, lambda: optimizer.step(parameters, gradients)):
        for name in SHAPES:
            np.testing.assert_array_equal(parameters[name], before[name])
        np.testing.assert_equal(optimizer.state_dict(), state)
        line += 1
    assert line > 40  # both parameters and the end of the step were reached
    undisturbed = kind(**options)
    undisturbed.load_state_dict(state)
    undisturbed.step(before, gradients)
    for name in SHAPES:
        np.testing.assert_array_equal(parameters[name], before[name])


class TestState:
    @each_kind
    def test_resumed_is_uninterrupted(self, kind, options):
        p, optimizer = arrays(0), kind(**options)
        for seed in (1, 2):
            optimizer.step(p, arrays(seed))
        state, q = optimizer.state_dict(), {name: value.copy() for name, value in p.items()}
        resumed = kind(lr=123.0)
        resumed.load_state_dict(state)
        for seed in (3, 4):
            optimizer.step(p, arrays(seed))
            resumed.step(q, arrays(seed))
        for name in SHAPES:
            np.testing.assert_array_equal(p[name], q[name])

    def test_holds_what_it_says(self):
        optimizer = Adam(0.1)
        optimizer.step({"p": np.ones(2)}, {"p": np.array([2.0, -2.0])})
        state = optimizer.state_dict()
        assert set(state) == {
            *("optimizer", "lr", "betas", "eps", "weight_decay"),
            *("step.p", "exp_avg.p", "exp_avg_sq.p"),
        }
        assert state["optimizer"] == "Adam"
        assert state["step.p"] == 1
        np.testing.assert_allclose(state["exp_avg.p"], [0.2, -0.2], rtol=1e-15)
        np.testing.assert_allclose(state["exp_avg_sq.p"], [0.004, 0.004], rtol=1e-12)

    def test_is_a_copy(self):
        optimizer = SGD(0.1, momentum=0.9)
        optimizer.step({"p": np.ones(2)}, {"p": np.ones(2)})
        state = optimizer.state_dict()
        state["momentum_buffer.p"][:] = 99
        other = SGD(0.1, momentum=0.9)
        other.load_state_dict(optimizer.state_dict())
        optimizer.step({"p": np.ones(2)}, {"p": np.ones(2)})
        assert optimizer.state_dict()["momentum_buffer.p"][0] == 1.9
        assert other.state_dict()["momentum_buffer.p"][0] == 1.0

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"optimizer": "SGD"}, ValueError, "state: expected the state of Adam, got 'SGD'"),
            ({"optimizer": None}, ValueError, "state: expected the state of Adam, got None"),
            ({"lr": None}, TypeError, "lr: expected a number, got NoneType"),
            ({"lr": math.nan}, ValueError, "lr: expected a finite number of at least 0, got nan"),
            ({"betas": (0.5, 1.0)}, ValueError, "betas[1]: expected a finite number in [0, 1), got 1.0"),
            ({"step.p": -1}, ValueError, "step.p: expected an integer of at least 0, got -1"),
            ({"surplus": 1}, ValueError, "state: expected no entry 'surplus', got one"),
            ({"exp_avg.q": np.ones(2)}, ValueError, "state: expected no entry 'exp_avg.q', got one"),
            (
                {"exp_avg.p": np.ones(3)},
                ValueError,
                "state: expected moments of one shape and dtype for p, got several",
            ),
            (
                {"exp_avg.p": np.ones(2, np.float32)},
                ValueError,
                "state: expected moments of one shape and dtype for p, got several",
            ),
            (
                {"exp_avg.p": np.ones(2, int)},
                TypeError,
                "exp_avg.p: expected a float32 or float64 array, got int64",
            ),
            ({"exp_avg.p": 1.0}, TypeError, "exp_avg.p: expected a float32 or float64 array, got float"),
        ],
    )
    def test_bad_entries(self, change, error, message):
        optimizer = Adam()
        optimizer.step({"p": np.ones(2)}, {"p": np.ones(2)})
        target = Adam(lr=0.5)
        with raises(error, message):
            target.load_state_dict(optimizer.state_dict() | change)
        assert target.state_dict() == Adam(lr=0.5).state_dict()

    @pytest.mark.parametrize(
        ("key", "message"),
        [
            ("lr", "state: expected the option 'lr', got none"),
            ("exp_avg.p", "state: expected an entry 'exp_avg.p', got none"),
            ("step.p", "state: expected no entry 'exp_avg.p', got one"),
        ],
    )
    def test_missing_entries(self, key, message):
        optimizer = Adam()
        optimizer.step({"p": np.ones(2)}, {"p": np.ones(2)})
        state = optimizer.state_dict()
        del state[key]
        with raises(ValueError, message):
            Adam().load_state_dict(state)

    def test_no_mapping(self):
        with raises(TypeError, "state: expected a mapping, got list"):
            Adam().load_state_dict([])


@pytest.mark.parametrize(
    ("optimizer", "text"),
    [
        (SGD(0.5), "SGD(lr=0.5, momentum=0.0, nesterov=False, weight_decay=0.0)"),
        (Adam(), "Adam(lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0)"),
        (AdamW(), "AdamW(lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.01)"),
    ],
)
def test_repr(optimizer, text):
    assert repr(optimizer) == text
