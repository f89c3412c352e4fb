"""Losses against scalar formulas written out here, central differences, golden numbers and the reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
from errors import raises
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bptt import losses, reference
from bptt.losses import LOSSES

S = np.array([[0.3, -1.2, 2.0], [0.0, 4.5, -0.7]])
Y = np.array([[1.0, 0.0, 0.25], [0.5, 1.0, 0.0]])
IDS = np.array([2, 0])
EPS = {kind: float(np.finfo(kind).eps) for kind in (np.float32, np.float64)}


def logistic(s):
    return 1 / (1 + math.exp(-s))


def scalar(name, s, y, link="identity"):
    """Sum over the definition of each loss, without any stable form."""
    total = 0.0
    for row, target in zip(s.tolist(), y.tolist(), strict=True):
        if name == "softmax_cross_entropy":
            total -= math.log(math.exp(row[target]) / sum(map(math.exp, row)))
            continue
        for s_o, y_o in zip(row, target, strict=True):
            yhat = logistic(s_o) if link == "sigmoid" or name == "binary_cross_entropy" else s_o
            if name == "binary_cross_entropy":
                total -= y_o * math.log(yhat) + (1 - y_o) * math.log(1 - yhat)
            elif name == "residual":
                total += y_o - yhat
            else:
                total += (y_o - yhat) ** 2
    return total


CASES = [
    ("softmax_cross_entropy", IDS, {}),
    ("binary_cross_entropy", Y, {}),
    ("mean_squared_error", Y, {}),
    ("sum_squared_residuals", Y, {}),
    ("sum_squared_residuals", Y, {"link": "sigmoid"}),
    ("residual", Y, {}),
    ("residual", Y, {"link": "sigmoid"}),
]
each_case = pytest.mark.parametrize(
    ("name", "y", "options"),
    CASES,
    ids=[f"{name}{'-sigmoid' if options else ''}" for name, _, options in CASES],
)


def backed(name, backend, options):
    return options | ({"backend": backend} if name == "softmax_cross_entropy" else {})


@each_case
def test_sum_is_the_definition(name, y, options, backend):
    loss, ds = LOSSES[name](S, y, reduction="sum", **backed(name, backend, options))
    assert loss == pytest.approx(scalar(name, S, y, **options), rel=1e-14)
    assert ds.shape == S.shape
    assert ds.dtype == np.float64


@each_case
def test_gradient_is_the_difference_quotient(name, y, options, backend):
    keywords = backed(name, backend, options)
    _, ds = LOSSES[name](S, y, reduction="sum", **keywords)
    h = 1e-6
    for index in np.ndindex(S.shape):
        step = np.zeros_like(S)
        step[index] = h
        above, below = (LOSSES[name](S + sign * step, y, reduction="sum", **keywords)[0] for sign in (1, -1))
        assert ds[index] == pytest.approx((above - below) / (2 * h), rel=1e-8, abs=1e-9)


@each_case
def test_mean_divides_sum_and_gradient_by_the_number_of_terms(name, y, options, backend):
    keywords = backed(name, backend, options)
    total, ds = LOSSES[name](S, y, reduction="sum", **keywords)
    mean, dmean = LOSSES[name](S, y, reduction="mean", **keywords)
    terms = 2 if name == "softmax_cross_entropy" else 6
    assert mean == total / terms
    np.testing.assert_allclose(dmean, ds / terms, rtol=1e-15)


@pytest.mark.parametrize(
    ("name", "terms"),
    [("binary_cross_entropy", 6), ("mean_squared_error", 6), ("sum_squared_residuals", 1), ("residual", 1)],
)
def test_default_reduction(name, terms):
    assert LOSSES[name](S, Y)[0] == pytest.approx(scalar(name, S, Y) / terms, rel=1e-14)


def test_default_reduction_of_the_cross_entropy(backend):
    loss, _ = losses.softmax_cross_entropy(S, IDS, backend=backend)
    assert loss == pytest.approx(scalar("softmax_cross_entropy", S, IDS) / 2, rel=1e-14)


@each_case
def test_float32_computes_and_returns_float32(name, y, options, backend):
    y32 = y if y.dtype == np.int64 else y.astype(np.float32)
    keywords = backed(name, backend, options)
    loss, ds = LOSSES[name](S.astype(np.float32), y32, **keywords)
    loss64, ds64 = LOSSES[name](S, y, **keywords)
    assert type(loss) is float
    assert ds.dtype == np.float32
    assert loss == pytest.approx(loss64, rel=1e-6)
    np.testing.assert_allclose(ds, ds64, rtol=1e-5, atol=1e-6)


def test_the_notes_four_steps():
    # the four-step system of docs/equations.md: yhat = sigmoid(1.4 O_4) for target 1
    s = np.array([[math.log((1 - 0.32671787083659473) / 0.32671787083659473)]])
    loss, ds = losses.residual(s, np.ones((1, 1)), link="sigmoid")
    assert loss == pytest.approx(0.32671787083659473, rel=1e-14)
    assert ds[0, 0] == pytest.approx(-0.2199733037125969317, rel=1e-14)


def test_sum_is_taken_in_float64():
    # each term is 1 + 2^-20; a float32 sum of 2^14 such terms would round the small part away
    s = np.full((2**14, 1), -1 - 2.0**-20, np.float32)
    loss, _ = losses.residual(s, np.zeros_like(s))
    assert loss == 2**14 * (1 + 2.0**-20)


def test_any_leading_axes(backend):
    s = np.arange(24.0).reshape(2, 3, 4) % 5
    ids = np.arange(6).reshape(2, 3) % 4
    loss, ds = losses.softmax_cross_entropy(s, ids, backend=backend)
    flat, dflat = losses.softmax_cross_entropy(s.reshape(6, 4), ids.reshape(6), backend=backend)
    one, done = losses.softmax_cross_entropy(s[0, 0], ids[0, 0], backend=backend)
    assert loss == flat
    np.testing.assert_array_equal(ds, dflat.reshape(2, 3, 4))
    assert one == pytest.approx(scalar("softmax_cross_entropy", s[0, :1], ids[0, :1]), rel=1e-14)
    np.testing.assert_allclose(done, ds[0, 0] * 6, rtol=1e-15)


@pytest.mark.parametrize("name", ["binary_cross_entropy", "mean_squared_error", "residual"])
def test_no_axes_at_all(name):
    loss, ds = LOSSES[name](np.float32(0.5), np.float32(1.0), reduction="mean")
    assert isinstance(ds, np.ndarray)
    assert ds.shape == ()
    assert ds.dtype == np.float32
    assert loss == pytest.approx(scalar(name, np.array([[0.5]]), np.array([[1.0]])), rel=1e-6)


class TestIgnoreIndex:
    @pytest.mark.parametrize("ignored", [-100, 1])
    def test_ignored_rows_do_not_count(self, backend, ignored):
        s = np.vstack([S, [[9.0, 8.0, 7.0]]])
        ids = np.append(IDS, ignored)
        loss, ds = losses.softmax_cross_entropy(s, ids, ignore_index=ignored, backend=backend)
        expected, dexpected = losses.softmax_cross_entropy(S, IDS, backend=backend)
        assert loss == expected
        np.testing.assert_array_equal(ds, np.vstack([dexpected, np.zeros((1, 3))]))

    def test_mean_over_nothing(self, backend):
        loss, ds = losses.softmax_cross_entropy(S, [-1, -1], ignore_index=-1, backend=backend)
        assert math.isnan(loss)
        np.testing.assert_array_equal(ds, np.zeros_like(S))

    def test_sum_over_nothing(self, backend):
        loss, _ = losses.softmax_cross_entropy(S, [-1, -1], ignore_index=-1, reduction="sum", backend=backend)
        assert loss == 0.0

    @pytest.mark.parametrize("value", [2**63, -(2**63) - 1])
    def test_range(self, value):
        with pytest.raises(ValueError, match=r"^ignore_index: expected"):
            losses.softmax_cross_entropy(S, IDS, ignore_index=value)

    def test_type(self):
        with pytest.raises(TypeError, match=r"^ignore_index: expected"):
            losses.softmax_cross_entropy(S, IDS, ignore_index=0.0)


def test_empty_batches(backend):
    loss, ds = losses.softmax_cross_entropy(np.zeros((0, 3)), np.zeros(0, int), backend=backend)
    assert math.isnan(loss)
    assert ds.shape == (0, 3)
    assert losses.softmax_cross_entropy(np.zeros((0, 3)), [], reduction="sum", backend=backend)[0] == 0.0
    loss, ds = losses.mean_squared_error(np.zeros((0, 3)), np.zeros((0, 3)))
    assert math.isnan(loss)
    assert ds.shape == (0, 3)


class TestExtremes:
    @pytest.mark.parametrize("kind", [np.float32, np.float64])
    def test_large_logits(self, kind, backend):
        s = np.array([[3e4, -3e4, 0.0]], kind)
        loss, ds = losses.softmax_cross_entropy(s, [1], backend=backend)
        assert loss == 6e4
        np.testing.assert_array_equal(ds, np.array([[1, -1, 0]], kind))
        loss, ds = losses.binary_cross_entropy(s, np.array([[0, 1, 1]]), reduction="sum")
        assert loss == pytest.approx(6e4 + math.log(2), rel=EPS[kind])
        np.testing.assert_array_equal(ds, np.array([[1, -1, -0.5]], kind))

    def test_small_losses_keep_their_digits(self):
        s = np.array([[40.0]])
        # log(1 + e^-40) is e^-40 to the last bit, where log(sigmoid(40)) is 0
        loss, _ = losses.binary_cross_entropy(s, np.ones((1, 1)))
        assert loss == pytest.approx(math.exp(-40), rel=1e-15)

    def test_nan_stays(self, backend):
        s = np.array([[np.nan, 0.0]])
        assert math.isnan(losses.softmax_cross_entropy(s, [1], backend=backend)[0])
        for name in ("binary_cross_entropy", "mean_squared_error", "residual", "sum_squared_residuals"):
            assert math.isnan(LOSSES[name](s, np.zeros((1, 2)))[0])

    @np.errstate(all="raise")
    def test_infinity_and_tiny_gradients_make_no_warning(self):
        assert losses.residual(np.float32([-3e38]), np.float32([3e38]))[0] == math.inf
        assert 0 < losses.binary_cross_entropy(np.float32([-100, 0]), np.zeros(2, int))[1][0] < 3e-44
        s = np.array([[np.inf, -np.inf]])
        assert losses.mean_squared_error(s, np.zeros((1, 2)))[0] == math.inf
        assert math.isnan(losses.residual(s, np.zeros((1, 2)))[0])
        np.testing.assert_array_equal(losses.binary_cross_entropy(s, np.zeros((1, 2)))[1], [[0.5, 0.0]])

    def test_squares_of_float32_do_not_overflow(self):
        s = np.array([[1e30]], np.float32)
        assert losses.sum_squared_residuals(s, np.zeros_like(s))[0] == pytest.approx(1e60, rel=1e-6)


class TestHelpers:
    def test_sigmoid(self, dtype):
        s = np.array([-np.inf, -1e4, -1.5, 0.0, 1.5, 1e4, np.inf], dtype)
        expected = [0, 0, logistic(-1.5), 0.5, logistic(1.5), 1, 1]
        result = losses.sigmoid(s)
        assert result.dtype == dtype
        np.testing.assert_allclose(result, expected, rtol=4 * EPS[dtype])

    def test_sigmoid_of_very_negative_numbers_is_not_zero(self):
        assert losses.sigmoid(np.array([-700.0]))[0] == pytest.approx(math.exp(-700), rel=1e-14)

    def test_softmax(self, dtype):
        s = np.array([[1.0, 2.0, 3.0], [1000.0, 1000.0, -1000.0]], dtype)
        total = sum(map(math.exp, (1, 2, 3)))
        expected = [[math.exp(k) / total for k in (1, 2, 3)], [0.5, 0.5, 0.0]]
        result = losses.softmax(s)
        assert result.dtype == dtype
        np.testing.assert_allclose(result, expected, rtol=4 * EPS[dtype])

    def test_softmax_of_infinity(self):
        result = losses.softmax(np.array([[0.0, -np.inf], [np.inf, 0.0]]))
        np.testing.assert_array_equal(result[0], [1, 0])
        assert np.isnan(result[1, 0])

    @pytest.mark.parametrize("shape", [(), (2, 0)])
    def test_softmax_needs_an_axis(self, shape):
        with raises(ValueError, f"s: expected shape (..., O) with O >= 1, got {shape}"):
            losses.softmax(np.zeros(shape))


ROWS = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=4)


@given(st.data())
def test_against_the_reference(data):
    """The reference's losses are written by another hand, in scalar loops."""
    shape = data.draw(ROWS)
    s = data.draw(hnp.arrays(np.float64, shape, elements=st.floats(-30, 30)))
    y = data.draw(hnp.arrays(np.float64, shape, elements=st.floats(0, 1)))
    link = data.draw(st.sampled_from(["identity", "sigmoid"]))
    for name in ("binary_cross_entropy", "sum_squared_residuals", "residual"):
        options = {} if name == "binary_cross_entropy" else {"link": link}
        loss, ds = LOSSES[name](s, y, reduction="sum", **options)
        expected, dexpected = getattr(reference.losses, name)(s.tolist(), y.tolist(), **options)
        assert loss == pytest.approx(expected, rel=1e-13, abs=1e-13)
        np.testing.assert_allclose(ds, dexpected, rtol=1e-13, atol=1e-15)
    loss, ds = losses.mean_squared_error(s, y)
    expected, dexpected = reference.losses.mean_squared_error(s.tolist(), y.tolist())
    assert loss == pytest.approx(expected, rel=1e-13)
    np.testing.assert_allclose(ds, dexpected, rtol=1e-13, atol=1e-15)


class TestInputs:
    def test_nothing_is_written_to_the_arguments(self, backend):
        s, y, ids = S.copy(), Y.copy(), IDS.copy()
        for array in (s, y, ids):
            array.flags.writeable = False
        for name, _, options in CASES:
            target = ids if name == "softmax_cross_entropy" else y
            _, ds = LOSSES[name](s, target, reduction="mean", **backed(name, backend, options))
            assert ds.flags.writeable
            assert not np.shares_memory(ds, s)

    def test_strided_and_byte_swapped(self, backend):
        wide = np.zeros((2, 6), ">f8")
        wide[:, ::2] = S
        for name, y, options in CASES:
            keywords = backed(name, backend, options)
            swapped = y.astype(y.dtype.newbyteorder())
            loss, ds = LOSSES[name](wide[:, ::2], swapped, **keywords)
            expected, dexpected = LOSSES[name](S, y, **keywords)
            assert loss == expected
            assert ds.dtype == np.float64
            np.testing.assert_array_equal(ds, dexpected)

    def test_fortran_order(self, backend):
        loss, ds = losses.softmax_cross_entropy(np.asfortranarray(S), IDS, backend=backend)
        expected, dexpected = losses.softmax_cross_entropy(S, IDS, backend=backend)
        assert loss == expected
        np.testing.assert_array_equal(ds, dexpected)

    @pytest.mark.parametrize("kind", [np.uint8, np.int32, np.uint64])
    def test_integer_class_ids_of_any_width(self, kind, backend):
        loss, _ = losses.softmax_cross_entropy(S, IDS.astype(kind), ignore_index=-100, backend=backend)
        assert loss == losses.softmax_cross_entropy(S, IDS, backend=backend)[0]

    @pytest.mark.parametrize("kind", [bool, np.int64, np.uint8])
    def test_labels_may_be_integers_or_bool(self, kind):
        y = np.array([[1, 0, 1], [0, 1, 1]])
        s = S.astype(np.float32)
        loss, ds = losses.binary_cross_entropy(s, y.astype(kind))
        expected, _ = losses.binary_cross_entropy(s, y.astype(np.float32))
        assert loss == expected
        assert ds.dtype == np.float32


class TestErrors:
    def test_target_dtype(self):
        message = (
            "target: expected float32 as the outputs are, or integers or bool, got float64; "
            "cast with target.astype(numpy.float32)"
        )
        for name in ("binary_cross_entropy", "mean_squared_error", "residual", "sum_squared_residuals"):
            with raises(TypeError, message):
                LOSSES[name](S.astype(np.float32), Y)

    def test_target_shape(self):
        with raises(ValueError, "target: expected shape (2, 3), the outputs', got (2,)"):
            losses.mean_squared_error(S, Y[:, 0])

    @pytest.mark.parametrize("kind", [np.float16, np.int64, np.complex128, object])
    def test_s_dtype(self, kind):
        with raises(TypeError, f"s: expected float32 or float64, got {np.dtype(kind)}"):
            losses.mean_squared_error(np.zeros((2, 3), kind), Y)

    @pytest.mark.parametrize("bad", [-0.1, 1.1, np.nan])
    def test_binary_range(self, bad):
        with pytest.raises(ValueError, match=r"^target: expected values in \[0, 1\], got"):
            losses.binary_cross_entropy(S, np.full_like(S, bad))

    @pytest.mark.parametrize(("bad", "kind"), [(3, int), (-1, int), (2**64 - 1, np.uint64)])
    def test_class_range(self, bad, kind):
        with raises(ValueError, f"target: expected class ids in [0, 3), got {bad}"):
            losses.softmax_cross_entropy(S, np.array([0, bad], kind))

    def test_class_range_with_ignore_index(self):
        with raises(ValueError, "target: expected class ids in [0, 3) or ignore_index -100, got -1"):
            losses.softmax_cross_entropy(S, [-100, -1], ignore_index=-100)

    @pytest.mark.parametrize("kind", [np.float32, bool])
    def test_class_dtype(self, kind):
        with raises(TypeError, f"target: expected integer class ids, got {np.dtype(kind)}"):
            losses.softmax_cross_entropy(S, np.zeros(2, kind))

    @pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 1)])
    def test_class_shape(self, shape):
        with raises(ValueError, f"target: expected shape (2,), one class id a row, got {shape}"):
            losses.softmax_cross_entropy(S, np.zeros(shape, int))

    @pytest.mark.parametrize("name", LOSSES)
    def test_reduction(self, name):
        with raises(ValueError, "reduction: expected one of 'mean', 'sum', got 'none'"):
            LOSSES[name](S, IDS if name == "softmax_cross_entropy" else Y, reduction="none")

    @pytest.mark.parametrize("name", ["residual", "sum_squared_residuals"])
    def test_link(self, name):
        with raises(ValueError, "link: expected one of 'identity', 'sigmoid', got 'tanh'"):
            LOSSES[name](S, Y, link="tanh")

    def test_backend(self):
        with pytest.raises(ValueError, match=r"^backend: expected one of"):
            losses.softmax_cross_entropy(S, IDS, backend="numpy")


def test_against_torch():
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    s = torch.tensor(S, requires_grad=True)
    for name, expected in [
        ("softmax_cross_entropy", functional.cross_entropy(s, torch.tensor(IDS))),
        ("binary_cross_entropy", functional.binary_cross_entropy_with_logits(s, torch.tensor(Y))),
        ("mean_squared_error", functional.mse_loss(s, torch.tensor(Y))),
    ]:
        (gradient,) = torch.autograd.grad(expected, s)
        y, keywords = (IDS, {"backend": "reference"}) if name == "softmax_cross_entropy" else (Y, {})
        loss, ds = LOSSES[name](S, y, **keywords)
        assert loss == pytest.approx(expected.item(), rel=1e-13)
        np.testing.assert_allclose(ds, gradient.numpy(), rtol=1e-12)
