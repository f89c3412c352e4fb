"""Optimisers against scalar loops written out here; clipping; states; steps interrupted at every line."""

from __future__ import annotations

import math
import sys
import tracemalloc

import numpy as np
import pytest
from errors import raises

from bptt import optim
from bptt.optim import SGD, Adam, AdamW, clip_grad_norm, clip_grad_value

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
each_case = pytest.mark.parametrize(
    ("kind", "options", "scalar", "more"), CASES, ids=[f"{kind.__name__}-{o}" for kind, o, _, _ in CASES]
)


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


@each_case
def test_float32_follows_float64(kind, options, scalar, more):
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


@each_case
def test_against_torch(kind, options, scalar, more):
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


@each_case
def test_in_place_and_gradients_untouched(kind, options, scalar, more):
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


@each_case
def test_a_step_allocates_nothing(kind, options, scalar, more):
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
    @each_case
    def test_resumed_is_uninterrupted(self, kind, options, scalar, more):
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


class TestClipNorm:
    def test_scales_to_the_norm(self, dtype):
        gradients = {"a": np.array([3.0, 0.0], dtype), "b": np.array([[0.0], [4.0]], dtype)}
        assert clip_grad_norm(gradients, 1.0) == 5.0
        scale = 1.0 / (5.0 + 1e-6)
        np.testing.assert_allclose(gradients["a"], [3 * scale, 0], rtol=1e-6)
        np.testing.assert_allclose(gradients["b"], [[0], [4 * scale]], rtol=1e-6)
        assert gradients["a"].dtype == dtype

    def test_denominator(self):
        gradients = {"a": np.array([3e-6, 4e-6])}
        clip_grad_norm(gradients, 1e-6)
        # 1e-6 / (5e-6 + 1e-6) = 1/6: PyTorch's
        np.testing.assert_allclose(gradients["a"], [0.5e-6, 4e-6 / 6], rtol=1e-12)

    @pytest.mark.parametrize("max_norm", [5.1, math.inf])
    def test_short_gradients_keep_their_bits(self, max_norm):
        gradients = {"a": np.array([3.0, 4.0])}
        assert clip_grad_norm(gradients, max_norm) == 5.0
        np.testing.assert_array_equal(gradients["a"], [3, 4])

    def test_accumulates_in_float64(self):
        # 4096^2 is 2^24: in float32, adding 1 to it changes nothing
        gradients = {"a": np.array([4096.0] + [1.0] * 1000, np.float32)}
        assert clip_grad_norm(gradients, math.inf) == math.sqrt(2**24 + 1000)

    def test_squares_beyond_float32(self):
        assert clip_grad_norm({"a": np.array([1e30], np.float32)}, math.inf) == pytest.approx(1e30, rel=1e-6)

    def test_views(self):
        base = np.full((2, 4), 3.0)
        clip_grad_norm({"a": base[:, ::2]}, 0.0)
        np.testing.assert_array_equal(base, [[0, 3, 0, 3]] * 2)

    def test_nothing(self):
        assert clip_grad_norm({}, 1.0) == 0.0
        assert clip_grad_norm({"a": np.zeros((0, 3))}, 1.0) == 0.0

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_not_finite(self, bad):
        gradients = {"a": np.array([bad, 1.0])}
        with raises(FloatingPointError, f"gradients: expected a finite norm, got {bad}"):
            clip_grad_norm(gradients, 1.0, error_if_nonfinite=True)
        assert gradients["a"][1] == 1.0
        clip_grad_norm(gradients, 1.0)
        assert np.isnan(gradients["a"][0])

    def test_against_torch(self):
        torch = pytest.importorskip("torch")
        gradients = arrays(0)
        tensors = [torch.zeros(shape, dtype=torch.float64, requires_grad=True) for shape in SHAPES.values()]
        for tensor, gradient in zip(tensors, gradients.values(), strict=True):
            tensor.grad = torch.tensor(gradient)
        expected = torch.nn.utils.clip_grad_norm_(tensors, 0.7)
        assert clip_grad_norm(gradients, 0.7) == pytest.approx(expected.item(), rel=1e-14)
        for tensor, gradient in zip(tensors, gradients.values(), strict=True):
            np.testing.assert_allclose(gradient, tensor.grad.numpy(), rtol=1e-14)


def test_clip_value(dtype):
    gradients = {"a": np.array([-3.0, -0.25, 0.5, np.inf, np.nan], dtype)}
    assert clip_grad_value(gradients, 0.5) is None
    np.testing.assert_array_equal(gradients["a"], [-0.5, -0.25, 0.5, 0.5, np.nan])
    assert gradients["a"].dtype == dtype


class TestErrors:
    @pytest.mark.parametrize("kind", [SGD, Adam, AdamW])
    @pytest.mark.parametrize("option", ["lr", "weight_decay"])
    @pytest.mark.parametrize("bad", [-1e-9, math.nan, math.inf])
    def test_options(self, kind, option, bad):
        with raises(ValueError, f"{option}: expected a finite number of at least 0, got {bad}"):
            kind(**({"lr": 0.1} | {option: bad}))

    @pytest.mark.parametrize("bad", ["0.1", None, True])
    def test_option_types(self, bad):
        with raises(TypeError, f"lr: expected a number, got {type(bad).__name__}"):
            Adam(lr=bad)

    def test_numpy_numbers_are_numbers(self):
        assert Adam(lr=np.float32(0.5)).lr == 0.5
        assert SGD(1).lr == 1.0

    def test_momentum(self):
        with raises(ValueError, "momentum: expected a finite number of at least 0, got -1"):
            SGD(0.1, momentum=-1)
        with raises(ValueError, "momentum: expected more than 0 with nesterov, got 0"):
            SGD(0.1, nesterov=True)
        with raises(TypeError, "nesterov: expected True or False, got 1"):
            SGD(0.1, momentum=0.9, nesterov=1)

    @pytest.mark.parametrize("bad", [0.9, (0.9,), "ab"])
    def test_betas(self, bad):
        with raises(ValueError, f"betas: expected two numbers, got {bad!r}"):
            Adam(betas=bad)

    def test_beta_range(self):
        with raises(ValueError, "betas[0]: expected a finite number in [0, 1), got 1.0"):
            Adam(betas=(1.0, 0.9))
        with raises(ValueError, "eps: expected a finite number of at least 0, got -1"):
            Adam(eps=-1)

    @pytest.mark.parametrize(
        ("parameter", "gradient", "error", "message"),
        [
            (np.ones(2), np.ones(3), ValueError, "gradients['p']: expected shape (2,), got (3,)"),
            (np.ones(2), np.ones(2, np.float32), TypeError, "gradients['p']: expected float64, got float32"),
            (
                np.ones(2, int),
                np.ones(2),
                TypeError,
                "parameters['p']: expected a float32 or float64 array, got int64",
            ),
            (
                np.ones(2),
                [1.0, 1.0],
                TypeError,
                "gradients['p']: expected a float32 or float64 array, got list",
            ),
            (
                np.broadcast_to(np.ones(1), 2),
                np.ones(2),
                ValueError,
                "parameters['p']: expected a writeable array, got a read-only one",
            ),
        ],
    )
    def test_step(self, parameter, gradient, error, message):
        with raises(error, message):
            Adam().step({"p": parameter}, {"p": gradient})

    def test_nothing_moves_if_a_later_gradient_is_bad(self):
        parameters = arrays(0)
        with pytest.raises(ValueError, match=r"^gradients\['bias'\]: expected shape"):
            SGD(0.1).step(parameters, arrays(1) | {"bias": np.ones(2)})
        np.testing.assert_array_equal(parameters["weight"], arrays(0)["weight"])

    def test_unknown_parameter(self):
        with raises(ValueError, "gradients: expected names of parameters, got 'q'"):
            SGD(0.1).step({"p": np.ones(2)}, {"q": np.ones(2)})

    def test_parameter_of_another_shape_than_before(self):
        optimizer = Adam()
        optimizer.step({"p": np.ones(2)}, {"p": np.ones(2)})
        message = "parameters['p']: expected shape (2,) and float64 as in earlier steps, got (3,) and float64"
        with raises(ValueError, message):
            optimizer.step({"p": np.ones(3)}, {"p": np.ones(3)})

    @pytest.mark.parametrize("bad", [-1.0, math.nan])
    def test_clip_limits(self, bad):
        with raises(ValueError, f"max_norm: expected a number of at least 0, got {bad}"):
            clip_grad_norm({}, bad)
        with raises(ValueError, f"clip_value: expected a number of at least 0, got {bad}"):
            clip_grad_value({}, bad)

    @pytest.mark.parametrize("clip", [clip_grad_norm, clip_grad_value])
    def test_clip_arrays(self, clip):
        with raises(TypeError, "gradients['p']: expected a float32 or float64 array, got int64"):
            clip({"p": np.ones(2, int)}, 1.0)
        frozen = np.ones(2)
        frozen.flags.writeable = False
        with raises(ValueError, "gradients['p']: expected a writeable array, got a read-only one"):
            clip({"q": np.ones(2), "p": frozen}, 0.1)

    def test_the_base_class_does_nothing_by_itself(self):
        parameters = {"p": np.ones(2)}
        with pytest.raises(NotImplementedError):
            optim.Optimizer(0.1, 0.0).step(parameters, {"p": np.ones(2)})
        np.testing.assert_array_equal(parameters["p"], np.ones(2))


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
