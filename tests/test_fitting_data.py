"""What Network.fit takes: iterables of batches; and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from errors import raises
from networks import QUIET, assert_same, data_set, small

from bptt import SGD

FORMS = "(x, targets), (x, targets, lengths) or (x, targets, lengths, reset)"


class TestIterables:
    def test_a_list_of_batches(self, backend):
        network, other = small(backend), small(backend)
        x, targets = data_set(network)
        source = [(x[:, :2], targets[:, :2]), [x[:, 2:], targets[:, 2:]]]
        history = network.fit(source, epochs=2, optimizer=SGD(0.5), validation_data=source)
        expected = other.fit(
            x, targets, epochs=2, batch_size=2, optimizer=SGD(0.5), validation_data=(x, targets), **QUIET
        )
        assert_same(network, other)
        assert history["loss"] == expected["loss"]
        np.testing.assert_allclose(history["validation_loss"], expected["validation_loss"], rtol=1e-14)

    def test_a_generator_for_one_epoch(self, backend):
        network, other = small(backend), small(backend)
        x, targets = data_set(network)
        network.fit(((x, targets) for _ in range(3)), optimizer=SGD(0.5))
        other.fit([(x, targets)], epochs=3, optimizer=SGD(0.5))
        assert_same(network, other)

    def test_a_generator_for_two_epochs(self, backend):
        network = small(backend)
        x, targets = data_set(network)
        message = (
            "x: expected an iterable that can be gone through 2 times, such as a list of batches, got an "
            "iterator (generator), which is used up after one epoch"
        )
        with raises(ValueError, message):
            network.fit(((x, targets) for _ in range(3)), epochs=2)
        assert_same(network, small(backend))

    def test_nothing(self, backend):
        with raises(ValueError, "x: expected at least one batch, got none in epoch 1"):
            small(backend).fit([])

    @pytest.mark.parametrize(
        ("bad", "got"), [(3, "int"), ((1,), "tuple of 1"), ([1, 2, 3, 4, 5], "list of 5"), ("xy", "str")]
    )
    def test_not_a_batch(self, bad, got, backend):
        message = f"x: expected batches {FORMS}, got {got} as batch 0"
        with raises(TypeError, message):
            small(backend).fit([bad])

    def test_a_bad_batch(self, backend):
        network = small(backend)
        x, targets = data_set(network)
        with raises(ValueError, "targets: expected shape (5, 4), one class id a row, got (0,)"):
            network.fit([(x, targets[0, :0])])


class TestErrors:
    @pytest.mark.parametrize(
        ("keywords", "error", "message"),
        [
            ({"epochs": -1}, ValueError, "epochs: expected an integer of at least 0, got -1"),
            ({"batch_size": 0}, ValueError, "batch_size: expected an integer of at least 1, got 0"),
            ({"truncation": 0}, ValueError, "truncation: expected an integer of at least 1, got 0"),
            ({"depth": 0}, ValueError, "depth: expected an integer of at least 1, got 0"),
            ({"clip_norm": -1}, ValueError, "clip_norm: expected a number of at least 0, got -1"),
            ({"clip_value": "1"}, TypeError, "clip_value: expected a number, got str"),
            ({"early_stopping": 0}, ValueError, "early_stopping: expected an integer of at least 1, got 0"),
            ({"early_stopping": 2}, ValueError, "early_stopping: expected validation_data with it, got none"),
            ({"shuffle": 1}, TypeError, "shuffle: expected True or False, got 1"),
            ({"seed": -1}, ValueError, "seed: expected an integer of at least 0, got -1"),
            ({"progress": 1}, TypeError, "progress: expected True or False, got 1"),
            ({"threads": 0}, ValueError, "threads: expected an integer of at least 1, got 0"),
            (
                {"optimizer": "adam"},
                TypeError,
                "optimizer: expected an object of SGD, Adam or AdamW, got str",
            ),
            (
                {"callbacks": print},
                TypeError,
                "callbacks: expected a sequence of callables, got something else",
            ),
            (
                {"callbacks": [1]},
                TypeError,
                "callbacks: expected a sequence of callables, got something else",
            ),
            (
                {"callbacks": None},
                TypeError,
                "callbacks: expected a sequence of callables, got something else",
            ),
            (
                {"optimizer": SGD},
                TypeError,
                "optimizer: expected an object of SGD, Adam or AdamW, got the class SGD",
            ),
            (
                {"validation_data": (1,)},
                ValueError,
                f"validation_data: expected {FORMS}, got a tuple of 1",
            ),
            (
                {"validation_data": np.zeros((5, 4, 2))},
                TypeError,
                "validation_data: expected (x, targets), or a list of such batches, got ndarray",
            ),
            (
                {"validation_data": iter([])},
                TypeError,
                "validation_data: expected (x, targets), or a list of such batches, got list_iterator",
            ),
        ],
    )
    def test_options(self, keywords, error, message, backend):
        network = small(backend)
        with raises(error, message):
            network.fit(*data_set(network), **keywords)
        assert_same(network, small(backend))

    def test_data_are_checked_before_the_first_step(self, backend):
        network = small(backend)
        x, targets = data_set(network)
        late = targets.copy()
        late[-1, -1] = 3
        tokens = np.zeros((5, 4), int)
        tokens[-1, -1] = 2
        with raises(ValueError, "targets: expected class ids in [0, 3), got 3"):
            network.fit(x, late, batch_size=1, truncation=1)
        with pytest.raises(ValueError, match=r"^x: expected token ids in \[0, 2\).* got 2 at time step 4"):
            network.fit(tokens, targets, batch_size=1, truncation=1)
        with raises(ValueError, "targets: expected shape (5, 4), one class id a row, got (5, 3)"):
            network.fit(x, targets[:, :3])
        with raises(ValueError, "targets: expected shape (6, 4), one class id a row, got (5, 4)"):
            network.fit(x, targets, validation_data=(np.zeros((6, 4, 2)), targets))
        assert_same(network, small(backend))

    def test_x(self, backend):
        network = small(backend)
        x, targets = data_set(network)
        with raises(ValueError, "targets: expected an array with an array x, got None"):
            network.fit(x)
        with raises(ValueError, "x: expected at least one sequence, got shape (5, 0, 2)"):
            network.fit(x[:, :0], targets[:, :0])
        # the last one: token ids that are not integers
        for bad in (x[0, 0], x[np.newaxis], x[..., :1], targets.astype(float)):
            with pytest.raises(ValueError, match=r"^x: expected shape"):
                network.fit(bad, targets)
        with raises(ValueError, "x: expected an array, got a list of unequal rows"):
            network.fit([[0, 1], [0]], targets)
        with pytest.raises(TypeError, match=r"^x: expected float64 \(the layer's dtype\), got float32"):
            network.fit(x.astype(np.float32), targets)
