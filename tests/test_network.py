"""Network: loss and gradients against golden values and differences; layouts; predictions; samples."""

from __future__ import annotations

import copy

import golden_cases
import numpy as np
import pytest
from errors import raises
from networks import EACH_LOSS, problem, small

from bptt import RNN, SGD, Linear, Network, losses

LOSS = {
    "residual": "residual",
    "ssr": "sum_squared_residuals",
    "bce": "binary_cross_entropy",
    "cross_entropy": "softmax_cross_entropy",
}
#: Names of the files' parameters in a network; the second bias stays zero there.
NAMES = {
    "W_xh": "rnn.weight_ih_l0",
    "W_hh": "rnn.weight_hh_l0",
    "b_h": "rnn.bias_ih_l0",
    "W_hy": "readout.weight",
    "b_y": "readout.bias",
}
#: Everything but the case whose readout shares its weight with the recurrence.
GOLDEN = [name for name in golden_cases.CASES if name != "seed000_tied_readout"]


def golden_network(case, backend):
    hidden, inputs = case.weights.weight_ih.shape
    rnn = RNN(inputs, hidden, nonlinearity=case.cell, dtype=np.float64, backend=backend)
    readout = Linear(hidden, len(case.W_hy), dtype=np.float64, backend=backend)
    loss = LOSS[case.loss]
    options = {"link": case.readout} if loss in ("residual", "sum_squared_residuals") else {}
    network = Network(
        rnn, readout, loss=loss, loss_options=options, many_to_one=case.many_to_one, reduction="sum"
    )
    values = dict(zip(rnn.parameters, (w for w in case.weights if w is not None), strict=True))
    rnn.load_state_dict(values)
    readout.load_state_dict({"weight": case.W_hy, "bias": case.b_y})
    targets = case.targets.argmax(axis=-1) if loss == "softmax_cross_entropy" else case.targets
    return network, (case.x, targets, case.h_0[np.newaxis])


def close(actual, expected):
    assert actual.shape == np.shape(expected)
    scale = max(1.0, np.abs(expected).max(initial=0.0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-13 * scale)


@pytest.mark.parametrize("name", GOLDEN)
class TestGolden:
    def test_loss_and_gradients(self, name, backend):
        case = golden_cases.load(name)
        network, (x, targets, h_0) = golden_network(case, backend)
        loss, gradients = network.loss_and_gradients(x, targets, h_0)
        grads = case.expected["grads"]
        close(np.array(loss), case.expected["loss"])
        assert network.loss(x, targets, h_0) == loss
        for key, parameter in NAMES.items():
            close(gradients.parameters[parameter], grads[key])
        close(gradients.parameters["rnn.bias_hh_l0"], grads["b_h"])
        close(gradients.x, grads["x"])
        close(gradients.h_0[0], grads["h0"])
        close(gradients.h_n[0], case.expected["h"][-1])

    def test_prediction(self, name, backend):
        case = golden_cases.load(name)
        network, (x, _, h_0) = golden_network(case, backend)
        yhat = case.expected["yhat"]
        close(network.predict(x, h_0), yhat[-1] if case.many_to_one and np.ndim(yhat) == 3 else yhat)

    def test_truncation(self, name, backend):
        case = golden_cases.load(name)
        network, (x, targets, h_0) = golden_network(case, backend)
        for depth, expected in case.expected["truncated"].items():
            _, gradients = network.loss_and_gradients(x, targets, h_0, depth=int(depth))
            for key in ("W_xh", "W_hh", "b_h"):
                close(gradients.parameters[NAMES[key]], expected[key])
            close(gradients.parameters["readout.weight"], case.expected["grads"]["W_hy"])

    def test_one_update(self, name, backend):
        case = golden_cases.load(name)
        if "sgd" not in case.expected or "weights_after" not in case.expected["sgd"]:
            pytest.skip("the file has no update")
        sgd = case.expected["sgd"]
        network, (x, targets, h_0) = golden_network(case, backend)
        _, gradients = network.loss_and_gradients(x, targets, h_0)
        trained = {NAMES[key]: gradients.parameters[NAMES[key]] for key in case.trainable}
        SGD(case.learning_rate).step(network.parameters, trained)
        for key, parameter in NAMES.items():
            close(network.parameters[parameter], sgd["weights_after"][key])
        close(np.array(network.loss(x, targets, h_0)), sgd["loss_after"])


@pytest.mark.parametrize(("loss", "options"), EACH_LOSS)
@pytest.mark.parametrize("many_to_one", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradients_are_difference_quotients(loss, options, many_to_one, reduction, backend):
    network = small(backend, loss=loss, loss_options=options, many_to_one=many_to_one, reduction=reduction)
    x, targets = problem(network)
    h_0 = np.random.default_rng(5).normal(size=(1, 3, 4))
    before = copy.deepcopy(network.parameters)
    _, gradients = network.loss_and_gradients(x, targets, h_0)
    for name, value in before.items():
        np.testing.assert_array_equal(network.parameters[name], value)
    step = 1e-6
    arrays = network.parameters | {"x": x, "h_0": h_0}
    derivatives = gradients.parameters | {"x": gradients.x, "h_0": gradients.h_0}
    assert derivatives.keys() == arrays.keys()
    for name, array in arrays.items():
        assert derivatives[name].shape == array.shape
        index = tuple(n // 2 for n in array.shape)
        value, losses_around = array[index], []
        for sign in (1, -1):
            array[index] = value + sign * step
            losses_around.append(network.loss(x, targets, h_0))
        array[index] = value
        expected = (losses_around[0] - losses_around[1]) / (2 * step)
        assert derivatives[name][index] == pytest.approx(expected, rel=1e-6, abs=1e-8)


class TestLayouts:
    @pytest.mark.parametrize("many_to_one", [False, True])
    def test_batch_first(self, backend, many_to_one):
        plain = small(backend, many_to_one=many_to_one)
        swapped = small(backend, many_to_one=many_to_one, batch_first=True)
        x, targets = problem(plain)
        loss, gradients = plain.loss_and_gradients(x, targets)
        turned = targets if many_to_one else targets.T
        loss_b, gradients_b = swapped.loss_and_gradients(x.swapaxes(0, 1), turned)
        # another order of summation over (t, b)
        assert loss_b == pytest.approx(loss, rel=1e-14)
        np.testing.assert_allclose(gradients_b.x.swapaxes(0, 1), gradients.x, rtol=1e-13)
        for name, value in gradients.parameters.items():
            np.testing.assert_allclose(gradients_b.parameters[name], value, rtol=1e-12, atol=1e-15)
        s, h_n = plain(x)
        s_b, h_n_b = swapped(x.swapaxes(0, 1))
        np.testing.assert_array_equal(s_b if many_to_one else s_b.swapaxes(0, 1), s)
        np.testing.assert_array_equal(h_n_b, h_n)

    @pytest.mark.parametrize("many_to_one", [False, True])
    def test_unbatched(self, backend, many_to_one):
        network = small(backend, many_to_one=many_to_one)
        x, targets = problem(network, B=1)
        loss, gradients = network.loss_and_gradients(x, targets)
        alone, gradients_alone = network.loss_and_gradients(x[:, 0], targets[..., 0])
        assert alone == loss
        assert gradients_alone.h_0.shape == gradients_alone.h_n.shape == (1, 4)
        np.testing.assert_array_equal(gradients_alone.x, gradients.x[:, 0])
        for name, value in gradients.parameters.items():
            np.testing.assert_array_equal(gradients_alone.parameters[name], value)
        assert network(x[:, 0])[0].shape == ((3,) if many_to_one else (5, 3))

    def test_tokens_are_one_hot_rows(self, backend):
        network = small(backend)
        tokens = np.array([[0, 1], [1, 1], [1, 0]])
        targets = np.array([[0, 2], [1, 0], [2, 2]])
        loss, gradients = network.loss_and_gradients(tokens, targets)
        dense, dense_gradients = network.loss_and_gradients(np.eye(2)[tokens], targets)
        assert loss == pytest.approx(dense, rel=1e-14)
        assert gradients.x is None
        for name, value in dense_gradients.parameters.items():
            np.testing.assert_allclose(gradients.parameters[name], value, rtol=1e-12, atol=1e-15)

    def test_one_output_needs_no_axis(self, backend):
        network = small(backend, loss="binary_cross_entropy", outputs=1, many_to_one=True)
        x, targets = problem(network)
        assert network.loss(x, targets[:, 0]) == network.loss(x, targets)
        with raises(ValueError, "targets: expected shape (3, 1), the outputs', got (1, 3)"):
            network.loss(x, targets.T)

    def test_no_steps_and_no_rows(self, backend):
        network = small(backend, many_to_one=True)
        h_0 = np.ones((1, 3, 4))
        loss, gradients = network.loss_and_gradients(np.zeros((0, 3, 2)), [0, 1, 2], h_0)
        s = network.readout(h_0[0])
        assert loss == losses.softmax_cross_entropy(s, [0, 1, 2], backend=backend)[0]
        np.testing.assert_array_equal(gradients.h_n, h_0)
        assert np.isnan(network.loss(np.zeros((4, 0, 2)), np.zeros(0, int)))

    def test_float32(self, backend):
        network = small(backend, dtype=np.float32, loss="mean_squared_error")
        x, targets = problem(network)
        _, gradients = network.loss_and_gradients(x, targets)
        assert {value.dtype for value in gradients.parameters.values()} == {np.dtype(np.float32)}
        assert network.predict(x).dtype == np.float32


def test_parameters_are_the_arrays_themselves(backend):
    network = small(backend)
    assert list(network.parameters) == [
        *(f"rnn.{name}" for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")),
        *("readout.weight", "readout.bias"),
    ]
    assert network.parameters["rnn.weight_hh_l0"] is network.rnn.parameters["weight_hh_l0"]
    x, targets = problem(network)
    before = network.loss(x, targets)
    network.parameters["readout.bias"][0] += 1
    assert network.loss(x, targets) != before


def test_gradients_are_writeable_and_apart(backend):
    network = small(backend)
    _, gradients = network.loss_and_gradients(*problem(network))
    values = list(gradients.parameters.values())
    for n, value in enumerate(values):
        assert value.flags.writeable
        assert not any(np.shares_memory(value, other) for other in values[:n])


def test_carried_state_gives_the_same_outputs(backend):
    network = small(backend)
    x, _ = problem(network)
    whole, h_n = network(x)
    first, h = network(x[:2])
    rest, h = network(x[2:], h)
    np.testing.assert_array_equal(np.concatenate([first, rest]), whole)
    np.testing.assert_array_equal(h, h_n)


@pytest.mark.parametrize(
    ("loss", "options", "expected"),
    [
        ("softmax_cross_entropy", {}, losses.softmax),
        ("binary_cross_entropy", {}, losses.sigmoid),
        ("residual", {"link": "sigmoid"}, losses.sigmoid),
        ("residual", {}, np.asarray),
        ("mean_squared_error", {}, np.asarray),
    ],
)
def test_predictions(loss, options, expected, backend):
    network = small(backend, loss=loss, loss_options=options)
    x, _ = problem(network)
    np.testing.assert_array_equal(network.predict(x), expected(network(x)[0]))


@pytest.mark.parametrize(
    ("loss", "reduction"),
    [
        ("softmax_cross_entropy", "mean"),
        ("binary_cross_entropy", "mean"),
        ("mean_squared_error", "mean"),
        ("sum_squared_residuals", "sum"),
        ("residual", "sum"),
    ],
)
def test_default_reduction(loss, reduction, backend):
    default, given = small(backend, loss=loss), small(backend, loss=loss, reduction=reduction)
    assert default.objective.reduction == reduction
    assert default.loss(*problem(default)) == given.loss(*problem(default))


def test_repr():
    network = small("reference", loss="residual", loss_options={"link": "sigmoid"}, many_to_one=True)
    text = repr(network)
    assert text.startswith("Network(RNN(2, 4, ")
    assert text.endswith(
        "loss='residual', loss_options={'link': 'sigmoid'}, many_to_one=True, reduction='sum')"
    )
    _, gradients = network.loss_and_gradients(*problem(network))
    assert repr(gradients).startswith(
        "NetworkGradients(x=(5, 3, 2), h_0=(1, 3, 4), parameters={rnn.weight_ih_l0:"
    )


def test_repr_of_the_defaults():
    assert repr(small("reference")).endswith("), loss='softmax_cross_entropy', reduction='mean')")


def test_copies_are_independent(backend):
    network = small(backend)
    x, targets = problem(network)
    twin = copy.deepcopy(network)
    loss = network.loss(x, targets)
    twin.parameters["readout.bias"][:] = 9
    assert network.loss(x, targets) == loss != twin.loss(x, targets)
