"""What a network computes: layer, readout and loss forward, and their gradients back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bptt import checks, ragged, states
from bptt.arrays import Array, Mask
from bptt.gradients import Gradients
from bptt.layers import Layer
from bptt.objective import objective
from bptt.readout import Linear


class NetworkGradients(Gradients):
    """Gradients of a network's loss, and the state to carry on with.

    Attributes
    ----------
    parameters : dict
        dL/dparameter under the names of ``Network.parameters``.
    x, h_0, c_0
        As in `Gradients`.
    h_n : ndarray, for an LSTM a pair of them
        The final state itself: ``h_0`` of the next chunk.
    """

    __slots__ = ("h_n",)

    def __init__(
        self, x: Array | None, h_0: Array, parameters: dict[str, Array], c_0: Array | None, h_n: Any
    ) -> None:
        super().__init__(x, h_0, parameters, c_0)
        self.h_n = h_n


class Seen(NamedTuple):
    """What the readout sees of a pass through the layer."""

    h: Array  # (..., D*R): y, the rows (N, D*R) of y within the lengths, or the last state
    mask: Mask | None  # where in y those rows stand

    @property
    def leading(self) -> tuple[int, ...]:
        """Shape of the outputs without their last axis, rows past an end included."""
        return self.h.shape[:-1] if self.mask is None else self.mask.shape


class Computation:
    """A recurrent layer with a readout and a loss: base of ``Network``, which describes it."""

    def __init__(
        self,
        rnn: Layer[Any, Any],
        readout: Linear,
        *,
        loss: str = "softmax_cross_entropy",
        loss_options: Mapping[str, Any] | None = None,
        many_to_one: bool = False,
        reduction: str | None = None,
    ) -> None:
        if not isinstance(rnn, Layer):
            raise TypeError(f"rnn: expected an RNN, LSTM or GRU, got {type(rnn).__name__}")
        if not isinstance(readout, Linear):
            raise TypeError(f"readout: expected a Linear, got {type(readout).__name__}")
        if readout.in_features != rnn.output_size:
            raise ValueError(
                f"readout: expected in_features {rnn.output_size}, the rnn's output_size, "
                f"got {readout.in_features}"
            )
        if readout.dtype != rnn.dtype:
            raise TypeError(f"readout: expected {rnn.dtype} as the rnn has, got {readout.dtype}")
        self.rnn = rnn
        self.readout = readout
        self.many_to_one = checks.flag("many_to_one", many_to_one)
        self.objective = objective(loss, loss_options, reduction, rnn.backend)

    @property
    def parameters(self) -> dict[str, Array]:
        """Every parameter array itself, under "rnn.<name>" and "readout.<name>".

        Edit them in place.  To put another array in its place, assign it in ``rnn.parameters`` or
        ``readout.parameters``.
        """
        named = {f"rnn.{name}": value for name, value in self.rnn.parameters.items()}
        return named | {f"readout.{name}": value for name, value in self.readout.parameters.items()}

    def __call__(
        self,
        x: npt.ArrayLike,
        h_0: Any = None,
        *,
        lengths: npt.ArrayLike | None = None,
        reset: npt.ArrayLike | None = None,
        threads: int | None = None,
    ) -> tuple[Array, Any]:
        """Run the network, keeping nothing: inference, without dropout, with zoneout's mean.

        Parameters
        ----------
        x : array_like
            (T, B, I), (B, T, I) or (T, I), or token ids without the last axis; as the layer takes it.
        h_0 : array_like, for an LSTM a pair of them, optional
            Initial state as the layer takes it, (L*D, B, R) or (L*D, R); default zeros.
        lengths : array_like of integers, optional
            (B,), the number of steps of each row in any order; one integer for an unbatched sequence.
        reset : array_like of bool, optional
            (T, B), (B, T) or (T,): True where a row begins again from its initial state before this step.
            Not with ``many_to_one`` and a bidirectional layer, whose last states would be of different
            pieces.
        threads : int, optional
            How many threads may share the work; the result doesn't depend on it.

        Returns
        -------
        s : ndarray
            Raw outputs or logits of every step, or of the last one.  Past a row's end they are 0.
        h_n : ndarray, for an LSTM a pair of them
            Final state, in the form of `h_0`.

        Raises
        ------
        ValueError, TypeError
            As the layer does.
        """
        s, seen, h_n = self._forward(x, h_0, lengths, reset, threads)
        return _outward(s, seen), h_n

    def predict(
        self,
        x: npt.ArrayLike,
        h_0: Any = None,
        *,
        lengths: npt.ArrayLike | None = None,
        reset: npt.ArrayLike | None = None,
        threads: int | None = None,
    ) -> Array:
        """Run the network and return probabilities, or the raw output where the loss has none.

        Parameters
        ----------
        x, h_0, lengths, reset, threads
            As in a call.

        Returns
        -------
        ndarray
            yhat (..., O): softmax(s) for "softmax_cross_entropy", sigmoid(s) for "binary_cross_entropy" and
            ``link="sigmoid"``, else s.  Past a row's end it is 0.
        """
        s, seen, _ = self._forward(x, h_0, lengths, reset, threads)
        return _outward(self.objective.predict(s), seen)

    def loss(
        self,
        x: npt.ArrayLike,
        targets: npt.ArrayLike,
        h_0: Any = None,
        *,
        lengths: npt.ArrayLike | None = None,
        reset: npt.ArrayLike | None = None,
        threads: int | None = None,
    ) -> float:
        """Loss of one batch, in one call; in inference, without dropout.

        Parameters
        ----------
        x, h_0, lengths, reset, threads
            As in a call.
        targets : array_like
            See the notes on the class.

        Returns
        -------
        float

        Raises
        ------
        ValueError, TypeError
            For a shape, dtype or value that does not fit.
        """
        s, y, _ = self._terms(x, targets, h_0, lengths, reset, threads)
        return self.objective(s, y, threads=threads)[0]

    def loss_and_gradients(
        self,
        x: npt.ArrayLike,
        targets: npt.ArrayLike,
        h_0: Any = None,
        *,
        lengths: npt.ArrayLike | None = None,
        reset: npt.ArrayLike | None = None,
        depth: int | None = None,
        stride: int | None = None,
        seed: int | None = None,
        threads: int | None = None,
    ) -> tuple[float, NetworkGradients]:
        """Loss of one batch with all its gradients, by back-propagation through time; changes nothing.

        Dropout and zoneout act as in training, so the loss is not that of ``loss`` where there are any.

        Parameters
        ----------
        x, h_0, lengths, reset, threads
            As in a call.
        targets : array_like
            See the notes on the class.
        depth, stride : int, optional
            Truncation, as in ``Tape.backward``: the loss of a step reaches the recurrent parameters through
            that step and the ``depth - 1`` before it only, or with a stride the losses of so many steps all
            reach as far back as the last of them; default all (docs/gradients.md, section "Truncation").
            Not with a bidirectional layer.
        seed : int, optional
            Of the masks of dropout and zoneout; by default fresh entropy.

        Returns
        -------
        loss : float
        gradients : NetworkGradients
            New arrays; they are yours to clip, average or add up.

        Raises
        ------
        ValueError, TypeError
            For a shape, dtype or value that does not fit.
        """
        self._refuse(reset)
        y, h_n, tape = self.rnn.record(x, h_0, lengths=lengths, reset=reset, seed=seed, threads=threads)
        seen = self._seen(y, h_n, lengths)
        loss, dh, dreadout = self._back_to(seen, targets, threads)
        cut: dict[str, Any] = {"depth": depth, "stride": stride, "threads": threads}
        if self.many_to_one:
            gradients = tape.backward(dh_n=states.of_last(dh, h_n, self._directions), **cut)
        else:
            gradients = tape.backward(_outward(dh, seen), **cut)
        return loss, _joined(gradients, dreadout, h_n)

    def _loss_of_the_end(
        self,
        x: npt.NDArray[Any],
        targets: npt.NDArray[Any],
        state: Any,
        *,
        skip: int,
        carry: int,
        lengths: npt.NDArray[Any] | None,
        seed: int,
        threads: int | None,
    ) -> tuple[float, NetworkGradients]:
        """Loss of all but the first `skip` steps, its gradients, and as h_n the state after `carry` steps."""
        rnn = self.rnn
        y, _, tape = rnn.record(x, state, lengths=lengths, seed=seed, threads=threads)
        part = (slice(None), slice(skip, None)) if rnn.batch_first else (slice(skip, None),)
        seen = self._seen(y[part], None, None if lengths is None else np.maximum(lengths - skip, 0))
        loss, dh, dreadout = self._back_to(seen, targets, threads)
        dy = np.zeros_like(y)
        dy[part] = _outward(dh, seen)
        gradients = tape.backward(dy, input_grad=False, threads=threads)
        return loss, _joined(gradients, dreadout, tape._state_after(carry))

    def _back_to(
        self, seen: Seen, targets: npt.ArrayLike, threads: int | None
    ) -> tuple[float, Array, dict[str, Array]]:
        """Return the loss of what the readout sees, its gradient there, and those of the readout."""
        checked = self._checked(targets, seen)
        loss, ds = self.objective(self.readout(seen.h, threads=threads), checked, threads=threads)
        return loss, *self.readout.backward(seen.h, ds, threads=threads)

    def _forward(
        self,
        x: npt.ArrayLike,
        h_0: Any,
        lengths: npt.ArrayLike | None,
        reset: npt.ArrayLike | None,
        threads: int | None,
    ) -> tuple[Array, Seen, Any]:
        """Return outputs of what the readout sees, what that is, and the final state."""
        self._refuse(reset)
        y, h_n = self.rnn(x, h_0, lengths=lengths, reset=reset, threads=threads)
        seen = self._seen(y, h_n, lengths)
        return self.readout(seen.h, threads=threads), seen, h_n

    def _terms(
        self,
        x: npt.ArrayLike,
        targets: npt.ArrayLike,
        h_0: Any,
        lengths: npt.ArrayLike | None,
        reset: npt.ArrayLike | None,
        threads: int | None,
    ) -> tuple[Array, npt.NDArray[Any], Any]:
        """Return outputs and checked targets of what the loss is of, and the final state."""
        s, seen, h_n = self._forward(x, h_0, lengths, reset, threads)
        return s, self._checked(targets, seen), h_n

    @property
    def _directions(self) -> int:
        return 2 if self.rnn.bidirectional else 1

    def _refuse(self, reset: Any) -> None:
        if reset is not None and self.many_to_one and self.rnn.bidirectional:
            raise ValueError(
                "reset: expected None with many_to_one and a bidirectional layer, whose last states would be "
                f"of different pieces, got {type(reset).__name__}"
            )

    def _seen(self, y: Array, h_n: Any, lengths: npt.ArrayLike | None) -> Seen:
        """Return what the readout sees of a pass with these outcomes."""
        if self.many_to_one:
            return Seen(states.last(h_n, self._directions), None)
        if lengths is None:
            return Seen(y, None)
        batch_first = y.ndim == 3 and self.rnn.batch_first
        mask = ragged.within(lengths, y.shape[1 if batch_first else 0], batch_first=batch_first)
        return Seen(y[mask], mask)

    def _checked(self, targets: npt.ArrayLike, seen: Seen) -> npt.NDArray[Any]:
        """Return the targets of the rows that the readout sees."""
        s_shape = (*seen.leading, self.readout.out_features)
        checked = self.objective.check(targets, s_shape, self.rnn.dtype, seen.mask)
        return checked if seen.mask is None else checked[seen.mask]


def _joined(gradients: Gradients, dreadout: Mapping[str, Array], h_n: Any) -> NetworkGradients:
    """Return the gradients of layer and readout as those of a network."""
    parameters = {f"rnn.{name}": value for name, value in gradients.parameters.items()}
    parameters |= {f"readout.{name}": value for name, value in dreadout.items()}
    return NetworkGradients(gradients.x, gradients.h_0, parameters, gradients.c_0, h_n)


def _outward(rows: Array, seen: Seen) -> Array:
    """Return what belongs to each row that the readout sees in the layout of y, 0 past a row's end."""
    return rows if seen.mask is None else ragged.spread(rows, seen.mask)
