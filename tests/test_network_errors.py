"""What Network refuses, and how."""

from __future__ import annotations

import numpy as np
import pytest
from errors import raises
from networks import problem, small

from bptt import GRU, LSTM, RNN, Linear, Network


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
        with raises(TypeError, "rnn: expected an RNN, LSTM or GRU, got Linear"):
            Network(readout, rnn)
        with raises(TypeError, "readout: expected a Linear, got RNN"):
            Network(rnn, rnn)
        with raises(ValueError, "readout: expected in_features 4, the rnn's output_size, got 5"):
            Network(rnn, Linear(5, 3, backend="reference"))
        both = GRU(2, 4, bidirectional=True, backend="reference")
        with raises(ValueError, "readout: expected in_features 8, the rnn's output_size, got 4"):
            Network(both, readout)
        projected = LSTM(2, 4, proj_size=3, backend="reference")
        with raises(ValueError, "readout: expected in_features 3, the rnn's output_size, got 4"):
            Network(projected, readout)
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
