"""A recurrent core, a readout and a loss: gradients by hand, or fit, evaluate, predict and sample."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bptt import checks
from bptt.arrays import Array, Tokens
from bptt.batches import evaluation_batches
from bptt.clipping import number
from bptt.fitting import evaluate, fit
from bptt.history import Epoch, History, Step, Steps
from bptt.layers import RNN
from bptt.objective import objective
from bptt.readout import Linear
from bptt.sampling import continuation

__all__ = ["Epoch", "History", "Network", "NetworkGradients", "Step"]


class NetworkGradients:
    """Gradients of a network's loss, and the state to carry on with.

    Attributes
    ----------
    parameters : dict
        dL/dparameter under the names of ``Network.parameters``.
    x : ndarray or None
        dL/dx in the layout of x; None if x was token ids.
    h_0 : ndarray
        dL/dh_0, (1, B, H), or (1, H) unbatched.
    h_n : ndarray
        The final state itself, (1, B, H) or (1, H): ``h_0`` of the next chunk.
    """

    __slots__ = ("h_0", "h_n", "parameters", "x")

    def __init__(self, parameters: dict[str, Array], x: Array | None, h_0: Array, h_n: Array) -> None:
        self.parameters = parameters
        self.x = x
        self.h_0 = h_0
        self.h_n = h_n

    def __repr__(self) -> str:
        x = None if self.x is None else self.x.shape
        parameters = ", ".join(f"{name}: {value.shape}" for name, value in self.parameters.items())
        return f"NetworkGradients(x={x}, h_0={self.h_0.shape}, parameters={{{parameters}}})"


class Network:
    """A recurrent layer with a readout and a loss.

    Parameters
    ----------
    rnn : RNN
        The recurrent core.
    readout : Linear
        H to O; of the same dtype.
    loss : str
        "softmax_cross_entropy", "binary_cross_entropy", "mean_squared_error", "sum_squared_residuals" or
        "residual"; see ``bptt.losses``.
    loss_options : mapping, optional
        ``ignore_index`` for "softmax_cross_entropy"; ``link`` for the two residuals.
    many_to_one : bool
        The loss stands at the last step only, and targets have no time axis.
    reduction : {"mean", "sum"}, optional
        Over all loss terms of a call; default: the loss's own, "sum" for the two residuals, else "mean".

    Attributes
    ----------
    objective : Objective
        The loss with its options.

    Raises
    ------
    ValueError
        For sizes that do not fit together, an unknown loss or option.
    TypeError
        For an argument of another type, or two dtypes.

    Notes
    -----
    Shapes: s (T, B, O), (B, T, O) with a ``batch_first`` layer, (T, O) unbatched; with ``many_to_one`` (B, O)
    or (O,).  Targets are class ids of that shape without O for "softmax_cross_entropy", else numbers of that
    shape; where O is 1, its axis may be left out.  Integer x are token ids.

    Source: docs/equations.md, sections "Forward", "Losses" and "Backward".
    """

    def __init__(
        self,
        rnn: RNN,
        readout: Linear,
        *,
        loss: str = "softmax_cross_entropy",
        loss_options: Mapping[str, Any] | None = None,
        many_to_one: bool = False,
        reduction: str | None = None,
    ) -> None:
        if not isinstance(rnn, RNN):
            raise TypeError(f"rnn: expected an RNN, got {type(rnn).__name__}")
        if not isinstance(readout, Linear):
            raise TypeError(f"readout: expected a Linear, got {type(readout).__name__}")
        if readout.in_features != rnn.hidden_size:
            raise ValueError(
                f"readout: expected in_features {rnn.hidden_size}, the hidden_size, got {readout.in_features}"
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
        self, x: npt.ArrayLike, h_0: npt.ArrayLike | None = None, *, threads: int | None = None
    ) -> tuple[Array, Array]:
        """Run the network, keeping nothing.

        Parameters
        ----------
        x : array_like
            (T, B, I), (B, T, I) or (T, I), or token ids without the last axis; as the layer takes it.
        h_0 : array_like, optional
            Initial state, (1, B, H) or (1, H); default zeros.
        threads : int, optional
            How many threads may share the work; the result doesn't depend on it.

        Returns
        -------
        s : ndarray
            Raw outputs or logits of every step, or of the last one.
        h_n : ndarray
            Final state, (1, B, H) or (1, H).

        Raises
        ------
        ValueError, TypeError
            As the layer does.
        """
        y, h_n = self.rnn(x, h_0, threads=threads)
        return self.readout(h_n[0] if self.many_to_one else y, threads=threads), h_n

    def predict(
        self, x: npt.ArrayLike, h_0: npt.ArrayLike | None = None, *, threads: int | None = None
    ) -> Array:
        """Run the network and return probabilities, or the raw output where the loss has none.

        Parameters
        ----------
        x, h_0, threads
            As in a call.

        Returns
        -------
        ndarray
            yhat (..., O): softmax(s) for "softmax_cross_entropy", sigmoid(s) for "binary_cross_entropy" and
            ``link="sigmoid"``, else s.
        """
        return self.objective.predict(self(x, h_0, threads=threads)[0])

    def loss(
        self,
        x: npt.ArrayLike,
        targets: npt.ArrayLike,
        h_0: npt.ArrayLike | None = None,
        *,
        threads: int | None = None,
    ) -> float:
        """Loss of one batch, in one call.

        Parameters
        ----------
        x, h_0, threads
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
        s, _ = self(x, h_0, threads=threads)
        return self.objective(s, self.objective.check(targets, s.shape, s.dtype), threads=threads)[0]

    def loss_and_gradients(
        self,
        x: npt.ArrayLike,
        targets: npt.ArrayLike,
        h_0: npt.ArrayLike | None = None,
        *,
        depth: int | None = None,
        threads: int | None = None,
    ) -> tuple[float, NetworkGradients]:
        """Loss of one batch with all its gradients, by back-propagation through time; changes nothing.

        Parameters
        ----------
        x, h_0, threads
            As in a call.
        targets : array_like
            See the notes on the class.
        depth : int, optional
            Truncation: the loss of a step reaches the recurrent parameters through that step and the
            ``depth - 1`` before it only; default all (docs/equations.md, section "Truncation").

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
        y, h_n, tape = self.rnn.record(x, h_0, threads=threads)
        h = h_n[0] if self.many_to_one else y
        s = self.readout(h, threads=threads)
        loss, ds = self.objective(s, self.objective.check(targets, s.shape, s.dtype), threads=threads)
        dh, dreadout = self.readout.backward(h, ds, threads=threads)
        if self.many_to_one:
            gradients = tape.backward(dh_n=dh[np.newaxis], depth=depth, threads=threads)
        else:
            gradients = tape.backward(dh, depth=depth, threads=threads)
        parameters = {f"rnn.{name}": value for name, value in gradients.parameters.items()}
        parameters |= {f"readout.{name}": value for name, value in dreadout.items()}
        return loss, NetworkGradients(parameters, gradients.x, gradients.h_0, h_n)

    def fit(
        self,
        x: npt.ArrayLike | Iterable[tuple[npt.ArrayLike, npt.ArrayLike]],
        targets: npt.ArrayLike | None = None,
        *,
        epochs: int = 1,
        optimizer: Steps | None = None,
        batch_size: int | None = 32,
        truncation: int | None = None,
        depth: int | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        validation_data: Any = None,
        callbacks: Sequence[Callable[[Epoch], object]] = (),
        early_stopping: int | None = None,
        shuffle: bool = True,
        seed: int | None = None,
        progress: bool | None = None,
        threads: int | None = None,
    ) -> History:
        """Train the network in place.

        Parameters
        ----------
        x : array_like or iterable
            Sequences with a batch axis (or one without), in the layer's layout; or, without ``targets``, an
            iterable of batches (x, targets).  For several epochs it must be one that can be gone through
            several times, such as a list, not a generator.
        targets : array_like, optional
            See the notes on the class.
        epochs : int
            Passes over the data, at least 0.
        optimizer : SGD, Adam or AdamW, optional
            Default ``Adam()``.  Pass one of your own to keep its moments over several calls.
        batch_size : int or None
            Sequences a batch; None for all.  An iterable brings its own batches.
        truncation : int, optional
            Cut each batch into chunks of so many time steps, with one optimiser step for each.  The hidden
            state is carried from a chunk to the next within the batch; gradients stop at it.  With
            ``many_to_one`` the earlier chunks only run forward, and the loss goes back over the last one.
        depth : int, optional
            Truncate the gradient of every loss step to so many time steps, as in ``loss_and_gradients``.
        clip_norm : float, optional
            Clip the norm of all gradients together, ``clip_grad_norm``; after ``clip_value``.
        clip_value : float, optional
            Clip every gradient entry, ``clip_grad_value``.
        validation_data : tuple or iterable, optional
            (x, targets), evaluated after every epoch; or a list, say, of such batches.
        callbacks : sequence of callable
            Each is called with an ``Epoch`` after every epoch.  One that has a method ``on_step`` gets a
            ``Step`` after every optimiser step too.  Either may return True to stop training there; other
            results mean nothing.
        early_stopping : int, optional
            Patience: stop after so many epochs in a row without a lower validation loss.  At the end of
            training, however it ends short of an exception, the parameters of the best epoch are put back
            (not the optimiser's moments).
        shuffle : bool
            Draw the order of the sequences anew every epoch.  An iterable brings its own order.
        seed : int, optional
            Of the shuffling.  The same seed, data and network give the same bits.
        progress : bool, optional
            Show a progress bar on standard error; default: if that is a terminal and tqdm is installed.
        threads : int, optional
            How many threads may share the work; the result doesn't depend on it.

        Returns
        -------
        History
            Lists "epoch", "loss", "seconds" and, with validation data, "validation_loss" and
            "validation_accuracy".

        Raises
        ------
        ValueError, TypeError
            For an argument that does not fit; arrays are checked before the first step.
        ImportError
            For ``progress=True`` without tqdm.

        Notes
        -----
        An exception, KeyboardInterrupt included, leaves parameters and optimiser as they were before the step
        it fell into.  A chunk without loss terms (all ignored) makes no step.
        """
        return fit(
            self,
            x,
            targets,
            epochs=epochs,
            optimizer=optimizer,
            batch_size=batch_size,
            truncation=truncation,
            depth=depth,
            clip_norm=clip_norm,
            clip_value=clip_value,
            validation_data=validation_data,
            callbacks=callbacks,
            early_stopping=early_stopping,
            shuffle=shuffle,
            seed=seed,
            progress=progress,
            threads=threads,
        )

    def evaluate(
        self,
        x: npt.ArrayLike | Iterable[tuple[npt.ArrayLike, npt.ArrayLike]],
        targets: npt.ArrayLike | None = None,
        *,
        batch_size: int | None = 256,
        truncation: int | None = None,
        threads: int | None = None,
    ) -> dict[str, float]:
        """Loss and accuracy over a whole data set.

        Parameters
        ----------
        x, targets
            As in ``fit``.
        batch_size : int or None
            Sequences computed at a time; None for all.  It bounds memory and changes nothing else.
        truncation : int, optional
            Time steps computed at a time, carrying the state.  It bounds memory and changes nothing else.
        threads : int, optional
            How many threads may share the work; the result doesn't depend on it.

        Returns
        -------
        dict
            "loss": what ``loss`` gives for all data at once.  For the two cross-entropies also "accuracy":
            the fraction of loss terms whose most probable class is the target.  A mean over nothing is NaN.

        Raises
        ------
        ValueError, TypeError
            For an argument that does not fit.
        """
        rows = None if batch_size is None else checks.integer("batch_size", batch_size)
        steps = None if truncation is None else checks.integer("truncation", truncation)
        return evaluate(self, evaluation_batches(self, x, targets, rows), steps, threads)

    def sample(
        self, prompt: npt.ArrayLike, length: int, *, temperature: float = 1.0, seed: int | None = None
    ) -> Tokens:
        """Continue a sequence of tokens, each drawn from the network's prediction after the ones before it.

        Parameters
        ----------
        prompt : array_like of int
            (P,) token ids, P >= 1.
        length : int
            Tokens to draw, at least 0.
        temperature : float
            The logits are divided by it: below 1 for likelier, above 1 for more surprising tokens.  0 takes
            the likeliest token every time (the first of several equal ones) and draws nothing.
        seed : int, optional
            Of the drawing.  The same seed gives the same tokens.

        Returns
        -------
        ndarray of int64
            (length,) new tokens, without the prompt.

        Raises
        ------
        ValueError
            For a network that does not predict its own tokens, an empty prompt, a token out of range, a
            temperature below 0 or not finite, or if the logits are not finite.
        TypeError
            For a prompt that is not of integers, or an argument of another type.
        """
        loss, outputs, vocabulary = self.objective.loss, self.readout.out_features, self.rnn.input_size
        if loss != "softmax_cross_entropy" or outputs != vocabulary:
            raise ValueError(
                f"sample: expected softmax_cross_entropy and as many outputs as tokens, {vocabulary}, "
                f"got {loss} and {outputs}"
            )
        tokens = np.asarray(prompt)
        if tokens.ndim != 1 or tokens.size == 0:
            raise ValueError(f"prompt: expected shape (P,) with P >= 1, got {tokens.shape}")
        if tokens.dtype.kind not in "iu":
            raise TypeError(f"prompt: expected integer token ids, got {tokens.dtype}")
        steps = checks.integer("length", length, 0)
        temperature = number("temperature", temperature)
        rng = np.random.default_rng(checks.seed(seed))
        return np.fromiter(continuation(self, tokens, steps, temperature, rng), np.int64, steps)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network to a safetensors file; see ``bptt.files.save_model``.

        Parameters
        ----------
        path : str or path
            An existing file is replaced at once when the new one is whole, or not at all.

        Raises
        ------
        OSError
            If the file cannot be written.
        ImportError
            Without the safetensors package (``pip install 'bptt[cli]'``).
        """
        from bptt.files import save_model  # files.py builds networks, so it imports this module

        save_model(path, self)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, backend: str = "kernels") -> Network:
        """Read a network from a file that ``save`` wrote; see ``bptt.files.load_model``.

        Parameters
        ----------
        path : str or path
            The file.
        backend : {"kernels", "reference"}
            What shall compute it.

        Returns
        -------
        Network

        Raises
        ------
        ModelFileError
            If it is not such a file, or a damaged one.
        OSError
            If it cannot be read.
        ImportError
            Without the safetensors package (``pip install 'bptt[cli]'``).
        """
        from bptt.files import load_model

        return load_model(path, backend=backend).network

    def __repr__(self) -> str:
        parts = [repr(self.rnn), repr(self.readout), f"loss={self.objective.loss!r}"]
        if self.objective.options:
            parts.append(f"loss_options={dict(self.objective.options)!r}")
        if self.many_to_one:
            parts.append("many_to_one=True")
        parts.append(f"reduction={self.objective.reduction!r}")
        return f"Network({', '.join(parts)})"
