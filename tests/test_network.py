"""Network: loss and gradients against golden values and differences; layouts; predictions; samples."""

from __future__ import annotations

import copy
import math

import golden_cases
import numpy as np
import pytest
from errors import raises

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
    values = dict(zip(rnn.parameters, case.weights, strict=True))
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


def small(
    backend, *, loss="softmax_cross_entropy", outputs=3, batch_first=False, dtype=np.float64, **options
):
    rnn = RNN(2, 4, batch_first=batch_first, dtype=dtype, seed=1, backend=backend)
    return Network(rnn, Linear(4, outputs, dtype=dtype, seed=2, backend=backend), loss=loss, **options)


def problem(network, T=5, B=3, seed=0):
    """Input and targets, time-major."""
    rng = np.random.default_rng(seed)
    outputs = network.readout.out_features
    x = rng.normal(size=(T, B, 2)).astype(network.rnn.dtype)
    leading = (B,) if network.many_to_one else (T, B)
    if network.objective.loss == "softmax_cross_entropy":
        return x, rng.integers(outputs, size=leading)
    return x, rng.integers(2, size=(*leading, outputs)).astype(network.rnn.dtype)


EACH_LOSS = [
    ("softmax_cross_entropy", {}),
    ("softmax_cross_entropy", {"ignore_index": 1}),
    ("binary_cross_entropy", {}),
    ("mean_squared_error", {}),
    ("sum_squared_residuals", {"link": "sigmoid"}),
    ("residual", {"link": "sigmoid"}),
]


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


class TestEvaluate:
    @pytest.mark.parametrize(("loss", "options"), EACH_LOSS)
    @pytest.mark.parametrize("many_to_one", [False, True])
    @pytest.mark.parametrize("reduction", ["mean", "sum"])
    def test_is_the_loss_of_everything(self, loss, options, many_to_one, reduction, backend):
        network = small(
            backend, loss=loss, loss_options=options, many_to_one=many_to_one, reduction=reduction
        )
        x, targets = problem(network, T=5, B=7)
        expected = network.loss(x, targets)
        for keywords in ({}, {"batch_size": 2}, {"batch_size": None, "truncation": 2}, {"truncation": 99}):
            result = network.evaluate(x, targets, **keywords)
            assert result["loss"] == pytest.approx(expected, rel=1e-13)
            assert ("accuracy" in result) == loss.endswith("cross_entropy")

    def test_accuracy_of_classes(self, backend):
        network = small(backend)
        x, _ = problem(network)
        best = network.predict(x).argmax(axis=-1)
        wrong = best.copy()
        wrong[0, 0] = (wrong[0, 0] + 1) % 3
        assert network.evaluate(x, best)["accuracy"] == 1.0
        assert network.evaluate(x, wrong)["accuracy"] == 14 / 15

    def test_ignored_rows_are_neither_right_nor_wrong(self, backend):
        network = small(backend, loss_options={"ignore_index": 2})
        network.parameters["readout.weight"][:] *= 20
        x, _ = problem(network)
        targets = network.predict(x).argmax(axis=-1)  # rows that predict class 2 are ignored
        counted = np.count_nonzero(targets != 2)
        assert 1 < counted < targets.size
        t, b = np.argwhere(targets != 2)[0]
        targets[t, b] = 1 - targets[t, b]
        assert network.evaluate(x, targets)["accuracy"] == (counted - 1) / counted

    def test_accuracy_of_two_sided_outputs(self, backend):
        network = small(backend, loss="binary_cross_entropy")
        x, _ = problem(network)
        targets = (network.predict(x) > 0.5).astype(float)
        targets[0, 0, 0] = 1 - targets[0, 0, 0]
        assert network.evaluate(x, targets)["accuracy"] == 44 / 45

    def test_batches_from_an_iterable(self, backend):
        network = small(backend)
        x, targets = problem(network, B=6)
        parts = ((x[:, part], targets[:, part]) for part in (slice(0, 1), slice(1, 6)))
        assert network.evaluate(parts)["loss"] == pytest.approx(network.loss(x, targets), rel=1e-14)

    def test_nothing(self, backend):
        result = small(backend).evaluate(np.zeros((4, 0, 2)), np.zeros((4, 0), int))
        assert math.isnan(result["loss"])
        assert math.isnan(result["accuracy"])
        summed = small(backend, loss="residual").evaluate(np.zeros((4, 0, 2)), np.zeros((4, 0, 3)))
        assert summed == {"loss": 0.0}

    def test_errors(self, backend):
        network = small(backend)
        x, targets = problem(network)
        with raises(ValueError, "targets: expected an array with an array x, got None"):
            network.evaluate(x)
        with raises(ValueError, "batch_size: expected an integer of at least 1, got 0"):
            network.evaluate(x, targets, batch_size=0)
        with raises(ValueError, "truncation: expected an integer of at least 1, got 0"):
            network.evaluate(x, targets, truncation=0)


def language(backend, dtype=np.float64, seed=3):
    """Return a network over five tokens."""
    rnn = RNN(5, 6, dtype=dtype, seed=seed, backend=backend)
    readout = Linear(6, 5, dtype=dtype, seed=seed, backend=backend)
    for parameters in (rnn.parameters, readout.parameters):
        for value in parameters.values():
            value *= 4  # predictions far from uniform
    return Network(rnn, readout)


class TestSample:
    def test_greedy_is_the_likeliest_token_each_time(self, backend):
        network = language(backend)
        prompt = [1, 4, 2]
        tokens = list(prompt)
        for _ in range(8):
            s, _ = network(np.array(tokens))
            tokens.append(int(s[-1].argmax()))
        sampled = network.sample(prompt, 8, temperature=0)
        assert sampled.dtype == np.int64
        assert sampled.tolist() == tokens[3:]
        assert len(set(tokens[3:])) > 1

    def test_seed(self, backend):
        network = language(backend)
        first, again, other = (network.sample([0], 40, seed=seed) for seed in (1, 1, 2))
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)

    @pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
    def test_frequencies(self, temperature, backend):
        network = language(backend)
        for value in network.rnn.parameters.values():
            value[:] = 0  # every prediction is softmax(bias)
        bias = np.array([0.0, 1.0, -1.0, 2.0, 0.5])
        network.parameters["readout.bias"][:] = bias
        weights = [math.exp(b / temperature) for b in bias.tolist()]
        n = 1500
        counts = np.bincount(network.sample([0], n, temperature=temperature, seed=7), minlength=5)
        for count, weight in zip(counts, weights, strict=True):
            p = weight / sum(weights)
            assert abs(count - n * p) < 4.5 * math.sqrt(n * p * (1 - p))

    def test_the_smallest_temperature_is_greedy(self, backend):
        network = language(backend)
        greedy = network.sample([2], 10, temperature=0)
        np.testing.assert_array_equal(network.sample([2], 10, temperature=1e-310, seed=0), greedy)

    def test_a_huge_temperature_is_uniform_noise(self, backend):
        assert set(language(backend).sample([2], 100, temperature=1e300, seed=0)) == set(range(5))

    def test_many_to_one_and_batch_first_make_no_difference(self, backend):
        network = language(backend)
        other = Network(network.rnn, network.readout, many_to_one=True)
        np.testing.assert_array_equal(other.sample([1, 2], 9, seed=0), network.sample([1, 2], 9, seed=0))
        turned = RNN(5, 6, dtype=np.float64, batch_first=True, backend=backend)
        turned.load_state_dict(network.rnn.parameters)
        third = Network(turned, network.readout)
        np.testing.assert_array_equal(third.sample([1, 2], 9, seed=0), network.sample([1, 2], 9, seed=0))

    def test_nothing(self, backend):
        assert language(backend).sample([0], 0).shape == (0,)

    @pytest.mark.parametrize(
        ("keywords", "error", "message"),
        [
            ({"prompt": []}, ValueError, "prompt: expected shape (P,) with P >= 1, got (0,)"),
            ({"prompt": [[1]]}, ValueError, "prompt: expected shape (P,) with P >= 1, got (1, 1)"),
            ({"prompt": [0.5]}, TypeError, "prompt: expected integer token ids, got float64"),
            ({"length": -1}, ValueError, "length: expected an integer of at least 0, got -1"),
            ({"length": 1.5}, TypeError, "length: expected an integer of at least 0, got 1.5"),
            (
                {"temperature": -0.1},
                ValueError,
                "temperature: expected a finite number of at least 0, got -0.1",
            ),
            (
                {"temperature": math.nan},
                ValueError,
                "temperature: expected a finite number of at least 0, got nan",
            ),
            (
                {"temperature": math.inf},
                ValueError,
                "temperature: expected a finite number of at least 0, got inf",
            ),
            ({"seed": -1}, ValueError, "seed: expected an integer of at least 0, got -1"),
        ],
    )
    def test_errors(self, keywords, error, message):
        with raises(error, message):
            language("reference").sample(**({"prompt": [0], "length": 1} | keywords))

    def test_token_range(self):
        with pytest.raises(ValueError, match=r"^x: expected token ids in \[0, 5\)"):
            language("reference").sample([5], 1)

    def test_not_a_token_network(self):
        message = "sample: expected softmax_cross_entropy and as many outputs as tokens, 2, got {} and {}"
        with raises(ValueError, message.format("softmax_cross_entropy", 3)):
            small("reference").sample([0], 1)
        with raises(ValueError, message.format("mean_squared_error", 2)):
            small("reference", loss="mean_squared_error", outputs=2).sample([0], 1)

    def test_not_finite(self, backend):
        network = language(backend)
        network.parameters["readout.bias"][0] = np.nan
        with raises(ValueError, "sample: expected finite logits, got NaN or infinity from the network"):
            network.sample([0], 1)


class TestErrors:
    @pytest.mark.parametrize(
        ("keywords", "error", "message"),
        [
            ({"loss": "hinge"}, ValueError, "loss: expected one of 'softmax_cross_entropy', "),
            ({"reduction": "max"}, ValueError, "reduction: expected one of 'mean', 'sum', got 'max'"),
            ({"many_to_one": 1}, TypeError, "many_to_one: expected True or False, got 1"),
            ({"loss_options": [1]}, TypeError, "loss_options: expected a mapping, got list"),
            (
                {"loss_options": {"link": "sigmoid"}},
                ValueError,
                "loss_options: expected ignore_index for softmax_cross_entropy, got 'link'",
            ),
            (
                {"loss": "mean_squared_error", "loss_options": {"link": "sigmoid"}},
                ValueError,
                "loss_options: expected no option for mean_squared_error, got 'link'",
            ),
            (
                {"loss": "residual", "loss_options": {"link": "tanh"}},
                ValueError,
                "link: expected one of 'identity', 'sigmoid', got 'tanh'",
            ),
            (
                {"loss_options": {"ignore_index": 0.5}},
                TypeError,
                f"ignore_index: expected an integer of at least {-(2**63)}, got 0.5",
            ),
        ],
    )
    def test_options(self, keywords, error, message):
        rnn, readout = RNN(2, 4, backend="reference"), Linear(4, 3, backend="reference")
        with pytest.raises(error) as raised:
            Network(rnn, readout, **keywords)
        assert str(raised.value).startswith(message)

    def test_parts(self):
        rnn, readout = RNN(2, 4, backend="reference"), Linear(4, 3, backend="reference")
        with raises(TypeError, "rnn: expected an RNN, got Linear"):
            Network(readout, rnn)
        with raises(TypeError, "readout: expected a Linear, got RNN"):
            Network(rnn, rnn)
        with raises(ValueError, "readout: expected in_features 4, the hidden_size, got 5"):
            Network(rnn, Linear(5, 3, backend="reference"))
        with raises(TypeError, "readout: expected float32 as the rnn has, got float64"):
            Network(rnn, Linear(4, 3, dtype=np.float64, backend="reference"))

    @pytest.mark.parametrize("method", ["loss", "loss_and_gradients"])
    def test_targets(self, method, backend):
        call = getattr(small(backend), method)
        x, targets = problem(small(backend))
        with raises(ValueError, "targets: expected shape (5, 3), one class id a row, got (3, 5)"):
            call(x, targets.T)
        with raises(ValueError, "targets: expected class ids in [0, 3), got 3"):
            call(x, np.full_like(targets, 3))
        with raises(TypeError, "targets: expected integer class ids, got float64"):
            call(x, targets.astype(float))

    def test_depth(self, backend):
        network = small(backend)
        with raises(ValueError, "depth: expected an integer of at least 1, got 0"):
            network.loss_and_gradients(*problem(network), depth=0)


def test_repr(backend):
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
