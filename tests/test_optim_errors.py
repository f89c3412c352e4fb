"""What the optimisers refuse, and what they say then."""

from __future__ import annotations

import math

import numpy as np
import pytest
from errors import raises

from bptt.optim import SGD, Adam, AdamW, Optimizer


@pytest.mark.parametrize("kind", [SGD, Adam, AdamW])
@pytest.mark.parametrize("option", ["lr", "weight_decay"])
@pytest.mark.parametrize("bad", [-1e-9, math.nan, math.inf])
def test_options(kind, option, bad):
    with raises(ValueError, f"{option}: expected a finite number of at least 0, got {bad}"):
        kind(**({"lr": 0.1} | {option: bad}))


@pytest.mark.parametrize("bad", ["0.1", None, True])
def test_option_types(bad):
    with raises(TypeError, f"lr: expected a number, got {type(bad).__name__}"):
        Adam(lr=bad)


def test_numpy_numbers_are_numbers():
    assert Adam(lr=np.float32(0.5)).lr == 0.5
    assert SGD(1).lr == 1.0


def test_momentum():
    with raises(ValueError, "momentum: expected a finite number of at least 0, got -1"):
        SGD(0.1, momentum=-1)
    with raises(ValueError, "momentum: expected more than 0 with nesterov, got 0"):
        SGD(0.1, nesterov=True)
    with raises(TypeError, "nesterov: expected True or False, got 1"):
        SGD(0.1, momentum=0.9, nesterov=1)


@pytest.mark.parametrize("bad", [0.9, (0.9,), "ab"])
def test_betas(bad):
    with raises(ValueError, f"betas: expected two numbers, got {bad!r}"):
        Adam(betas=bad)


def test_beta_range():
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
def test_step(parameter, gradient, error, message):
    with raises(error, message):
        Adam().step({"p": parameter}, {"p": gradient})


def test_nothing_moves_if_a_later_gradient_is_bad():
    parameters = {"weight": np.ones((3, 4)), "bias": np.ones(5)}
    with pytest.raises(ValueError, match=r"^gradients\['bias'\]: expected shape"):
        SGD(0.1).step(parameters, {"weight": np.ones((3, 4)), "bias": np.ones(2)})
    np.testing.assert_array_equal(parameters["weight"], np.ones((3, 4)))


@pytest.mark.parametrize("shape", [2, 5])
def test_nothing_is_kept_of_a_step_that_was_not_made(shape, monkeypatch):
    optimizer = SGD(0.1)
    before = optimizer.state_dict()

    def fail(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(SGD, "_update", fail)
    with pytest.raises((ValueError, KeyboardInterrupt)):
        optimizer.step({"a": np.ones(5), "b": np.ones(5)}, {"a": np.ones(5), "b": np.ones(shape)})
    monkeypatch.undo()
    assert optimizer.state_dict() == before
    optimizer.step({"a": np.ones(3)}, {"a": np.ones(3)})  # another shape than was refused


def test_unknown_parameter():
    with raises(ValueError, "gradients: expected names of parameters, got 'q'"):
        SGD(0.1).step({"p": np.ones(2)}, {"q": np.ones(2)})


@pytest.mark.parametrize(
    ("other", "got"), [(np.ones(3), "(3,) and float64"), (np.ones(2, np.float32), "(2,) and float32")]
)
def test_parameter_of_another_shape_or_dtype_than_before(other, got):
    optimizer = Adam()
    optimizer.step({"p": np.ones(2)}, {"p": np.ones(2)})
    message = f"parameters['p']: expected shape (2,) and float64 as in earlier steps, got {got}"
    with raises(ValueError, message):
        optimizer.step({"p": other}, {"p": other.copy()})


def test_the_base_class_does_nothing_by_itself():
    parameters = {"p": np.ones(2)}
    with pytest.raises(NotImplementedError):
        Optimizer(0.1, 0.0).step(parameters, {"p": np.ones(2)})
    np.testing.assert_array_equal(parameters["p"], np.ones(2))
