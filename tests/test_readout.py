"""The Linear readout on both backends, against a few lines of NumPy."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from numpy_rnn import close

import bptt

H, O = 5, 3


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("leading", [(), (7,), (4, 2), (2, 2, 2)])
def test_forward_and_backward(backend, dtype, bias, leading):
    readout = bptt.Linear(H, O, bias=bias, dtype=dtype, seed=1, backend=backend)
    rng = np.random.default_rng(0)
    h, ds = rng.normal(size=(*leading, H)).astype(dtype), rng.normal(size=(*leading, O)).astype(dtype)
    w = readout.parameters["weight"].astype(np.float64)
    b = readout.parameters["bias"].astype(np.float64) if bias else 0.0
    s = readout(h)
    assert s.dtype == dtype
    close(s, np.asarray(h.astype(np.float64) @ w.T + b))
    dh, gradients = readout.backward(h, ds)
    close(dh, np.asarray(ds.astype(np.float64) @ w))
    rows_h, rows_ds = h.reshape(-1, H).astype(np.float64), ds.reshape(-1, O).astype(np.float64)
    close(gradients["weight"], rows_ds.T @ rows_h)
    assert set(gradients) == set(readout.parameters)
    if bias:
        close(gradients["bias"], rows_ds.sum(0))


def test_memory_layouts(backend):
    readout = bptt.Linear(H, O, seed=1, backend=backend)
    rng = np.random.default_rng(0)
    h, ds = rng.normal(size=(4, 2, H)).astype(np.float32), rng.normal(size=(4, 2, O)).astype(np.float32)
    s, (dh, gradients) = readout(h), readout.backward(h, ds)
    for form in (
        np.asfortranarray,
        lambda a: a.astype(a.dtype.newbyteorder()),
        lambda a: np.flip(np.flip(a).copy()),
    ):
        np.testing.assert_array_equal(readout(form(h)), s)
        dh2, gradients2 = readout.backward(form(h), form(ds))
        np.testing.assert_array_equal(dh2, dh)
        for name in gradients:
            np.testing.assert_array_equal(gradients2[name], gradients[name])


def test_reads_the_y_of_a_record(backend):
    """It is read-only, and not contiguous with batch_first."""
    rnn = bptt.RNN(2, H, batch_first=True, dtype=np.float64, seed=0, backend=backend)
    readout = bptt.Linear(H, O, dtype=np.float64, seed=1, backend=backend)
    y, _, _ = rnn.record(np.random.default_rng(0).normal(size=(2, 3, 2)))
    close(readout(y), y @ readout.parameters["weight"].T + readout.parameters["bias"])


@pytest.mark.parametrize("leading", [(0,), (0, 3), (3, 0)])
def test_no_rows(backend, leading):
    readout = bptt.Linear(H, O, seed=1, backend=backend)
    h = np.zeros((*leading, H), np.float32)
    s = readout(h)
    assert s.shape == (*leading, O)
    dh, gradients = readout.backward(h, s)
    assert dh.shape == h.shape
    np.testing.assert_array_equal(gradients["weight"], np.zeros((O, H)))
    np.testing.assert_array_equal(gradients["bias"], np.zeros(O))


def test_parameters_are_read_afresh(backend):
    readout = bptt.Linear(H, O, dtype=np.float64, seed=1, backend=backend)
    h = np.random.default_rng(0).normal(size=(4, H))
    readout(h)
    readout.parameters["bias"] += 1.0
    close(readout(h), h @ readout.parameters["weight"].T + readout.parameters["bias"])
    transposed = np.random.default_rng(1).normal(size=(H, O)).T
    readout.parameters["weight"] = transposed
    close(readout(h), h @ transposed.T + readout.parameters["bias"])
    transposed[0, 0] += 1.0
    close(readout(h), h @ transposed.T + readout.parameters["bias"])


def test_init():
    readout = bptt.Linear(100, 50, seed=3, backend="reference")
    for value in readout.parameters.values():
        assert value.dtype == np.float32
        assert 0.09 < np.abs(value).max() <= 0.1
    same = bptt.Linear(100, 50, seed=3, dtype=np.float64, backend="reference")
    np.testing.assert_array_equal(same.parameters["weight"].astype(np.float32), readout.parameters["weight"])
    other = bptt.Linear(100, 50, seed=4, backend="reference")
    assert not np.array_equal(other.parameters["weight"], readout.parameters["weight"])


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda readout: pickle.loads(pickle.dumps(readout))])
def test_pickle_and_copy(backend, duplicate):
    readout = bptt.Linear(H, O, seed=1, backend=backend)
    h = np.ones((2, H), np.float32)
    s = readout(h)
    twin = duplicate(readout)
    np.testing.assert_array_equal(twin(h), s)
    twin.parameters["weight"][...] = 0
    np.testing.assert_array_equal(readout(h), s)


def test_state_dict(backend):
    a, b = bptt.Linear(H, O, seed=1, backend=backend), bptt.Linear(H, O, seed=2, backend=backend)
    b.load_state_dict(a.state_dict())
    h = np.ones((2, H), np.float32)
    np.testing.assert_array_equal(b(h), a(h))
    assert not np.shares_memory(a.state_dict()["weight"], a.parameters["weight"])


def test_repr_and_fixed_options(backend):
    kernel_part = "" if backend == "kernels" else f", backend='{backend}'"
    assert (
        repr(bptt.Linear(H, O, seed=1, backend=backend))
        == f"Linear(5, 3, dtype=float32, seed=1{kernel_part})"
    )
    readout = bptt.Linear(H, O, bias=False, dtype=np.float64, backend=backend)
    assert repr(readout) == f"Linear(5, 3, bias=False, dtype=float64{kernel_part})"
    with pytest.raises(AttributeError, match="out_features: fixed when the Linear is made"):
        readout.out_features = 4
