"""A recurrent layer, a readout and a loss: gradients by hand, or fit, evaluate, predict and sample."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bptt import checks
from bptt.arrays import Tokens
from bptt.batches import evaluation_batches
from bptt.chunks import check_truncation
from bptt.computation import Computation, NetworkGradients
from bptt.evaluation import evaluate
from bptt.fitting import fit
from bptt.history import Epoch, History, Step, Steps
from bptt.sampling import continuation

__all__ = ["Epoch", "History", "Network", "NetworkGradients", "Step"]


class Network(Computation):
    """A recurrent layer with a readout and a loss.

    Parameters
    ----------
    rnn : RNN, LSTM or GRU
        The recurrent layer or stack of layers.
    readout : Linear
        From the layer's ``output_size``, D*R, to O; of the same dtype.
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
    shape; where O is 1, its axis may be left out.  Integer x are token ids.  L, D and R are the layer's
    numbers of layers and directions and the size of its h.

    With ``many_to_one`` the readout sees the last state of the last layer, ``h_n[-1]``.  In two directions
    that is both side by side, (B, 2*R), each after all steps: the reverse one's stands at the first step.
    That is not the last row of y, whose reverse half has seen one step only.

    With ``lengths`` no loss is taken past a row's end, targets may be anything there, and a mean runs over
    the steps that there are; ``many_to_one`` takes each row's own last step (of a row of length 0 the initial
    state).  With ``reset`` and ``many_to_one`` the steps after a row's last reset count.

    Source: docs/equations.md, sections "Forward", "Losses" and "Backward".

    Examples
    --------
    >>> import numpy as np
    >>> from bptt import LSTM, Linear, Network
    >>> network = Network(LSTM(5, 8, seed=0), Linear(8, 5, seed=1))
    >>> x = np.arange(6) % 5  # (T,) token ids
    >>> network.fit(x[:-1], x[1:], epochs=2, seed=0)["epoch"]
    [1, 2]
    >>> network.predict(x).shape
    (6, 5)
    """

    def fit(
        self,
        x: npt.ArrayLike | Iterable[Sequence[Any]],
        targets: npt.ArrayLike | None = None,
        *,
        lengths: npt.ArrayLike | None = None,
        reset: npt.ArrayLike | None = None,
        epochs: int = 1,
        optimizer: Steps | None = None,
        batch_size: int | None = 32,
        truncation: int | None = None,
        stride: int | None = None,
        depth: int | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        validation_data: Any = None,
        callbacks: Sequence[Callable[[Epoch], object]] = (),
        early_stopping: int | None = None,
        shuffle: bool = True,
        seed: int | np.random.Generator | None = None,
        progress: bool | None = None,
        threads: int | None = None,
    ) -> History:
        """Train the network in place.

        Parameters
        ----------
        x : array_like or iterable
            Sequences with a batch axis (or one without), in the layer's layout; or, without ``targets``, an
            iterable of batches (x, targets), (x, targets, lengths) or (x, targets, lengths, reset).  For
            several epochs it must be one that can be gone through several times, such as a list, not a
            generator.
        targets : array_like, optional
            See the notes on the class.
        lengths, reset : array_like, optional
            Of x, as in a call.  Every sequence begins at the zero state, and so does a row that is reset,
            whatever has been carried to the chunk it is in.
        epochs : int
            Passes over the data, at least 0.
        optimizer : SGD, Adam or AdamW, optional
            Default ``Adam()``.  Pass one of your own to keep its moments over several calls.
        batch_size : int or None
            Sequences a batch; None for all.  An iterable brings its own batches.
        truncation : int, optional
            Cut each batch into chunks of so many time steps, with one optimiser step for each.  The state is
            carried from a chunk to the next within the batch; gradients stop at it.  With ``many_to_one``
            the earlier chunks only run forward, and the loss goes back over each row's last so many steps.
            Not with a bidirectional layer.
        stride : int, optional
            With ``truncation``: one optimiser step every so many time steps, from their loss, which goes back
            over the last ``truncation`` time steps (Williams and Peng, 1990); those before them are run again
            from the state that was there then.  At most ``truncation``, its default.  Not with ``reset``;
            makes no difference with ``many_to_one``.  With ``depth`` alone as in ``loss_and_gradients``.
        depth : int, optional
            Truncate the gradient of every loss step to so many time steps, as in ``loss_and_gradients``.
        clip_norm : float, optional
            Clip the norm of all gradients together, ``clip_grad_norm``; after ``clip_value``.
        clip_value : float, optional
            Clip every gradient entry, ``clip_grad_value``.
        validation_data : tuple or iterable, optional
            (x, targets), also with lengths and reset, evaluated after every epoch; or a list, say, of such
            batches.
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
        seed : int or numpy.random.Generator, optional
            Of the shuffling, and of the masks of dropout and zoneout, which are drawn anew for every chunk.
            The same seed, data and network give the same bits.  A generator is drawn from: with one generator
            and one optimiser, several calls give the bits of one over all their epochs.
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
            (x, targets, lengths, reset),
            epochs=epochs,
            optimizer=optimizer,
            batch_size=batch_size,
            truncation=truncation,
            stride=stride,
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
        x: npt.ArrayLike | Iterable[Sequence[Any]],
        targets: npt.ArrayLike | None = None,
        *,
        lengths: npt.ArrayLike | None = None,
        reset: npt.ArrayLike | None = None,
        batch_size: int | None = 256,
        truncation: int | None = None,
        threads: int | None = None,
    ) -> dict[str, float]:
        """Loss and accuracy over a whole data set.

        Parameters
        ----------
        x, targets, lengths, reset
            As in ``fit``.
        batch_size : int or None
            Sequences computed at a time; None for all.  It bounds memory and changes nothing else.
        truncation : int, optional
            Time steps computed at a time, carrying the state.  It bounds memory and changes nothing else.
            Not with a bidirectional layer.
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
        steps = check_truncation(self, truncation)
        data = evaluation_batches(self, (x, targets, lengths, reset), rows)
        return evaluate(self, data, steps, threads)

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
            For a network that does not predict its own tokens or has a bidirectional layer, an empty prompt,
            a token out of range, a temperature below 0 or not finite, or if the logits are not finite.
        TypeError
            For a prompt that is not of integers, or an argument of another type.
        """
        loss, outputs, vocabulary = self.objective.loss, self.readout.out_features, self.rnn.input_size
        if loss != "softmax_cross_entropy" or outputs != vocabulary:
            raise ValueError(
                f"sample: expected softmax_cross_entropy and as many outputs as tokens, {vocabulary}, "
                f"got {loss} and {outputs}"
            )
        if self.rnn.bidirectional:
            raise ValueError(
                "sample: expected a layer of one direction, got bidirectional=True, "
                "which needs the whole sequence"
            )
        tokens = np.asarray(prompt)
        if tokens.ndim != 1 or tokens.size == 0:
            raise ValueError(f"prompt: expected shape (P,) with P >= 1, got {tokens.shape}")
        if tokens.dtype.kind not in "iu":
            raise TypeError(f"prompt: expected integer token ids, got {tokens.dtype}")
        return np.fromiter(continuation(self, tokens, length, temperature, seed), np.int64, length)

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
        ValueError, TypeError
            For parameters that a call would refuse.
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
