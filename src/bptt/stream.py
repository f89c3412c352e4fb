"""A recurrent layer one time step at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bptt import checks

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from bptt.arrays import Array
    from bptt.frozen import FrozenRNN
    from bptt.interface import Stepper


class Stream:
    """One recurrent layer over sequences that come step by step: microphones, sensors, characters.

    What `RNN.stream` and `FrozenRNN.stream` make. It carries the state (1, B, H) and takes constant time and
    memory a step, however long the sequence. Cut as they may be, the results are the bits of one call of the
    layer over the whole sequence. It works from a snapshot of the parameters, packed at the first step.

    Parameters
    ----------
    rnn : FrozenRNN
        The snapshot; shared, not copied.
    batch_size : int
        B, the number of sequences side by side.
    h_0 : array_like, optional
        Initial state (1, B, H), for one sequence also (1, H); zeros if not given.

    Raises
    ------
    TypeError
        If `batch_size` is not an integer, or h_0 of another dtype.
    ValueError
        If `batch_size` is below 1, or h_0 of another shape.

    Notes
    -----
    A stream belongs to one thread at a time: its state is what it is for. A step that begins while another
    thread's is under way is a RuntimeError where it is noticed. Streams of one `FrozenRNN` in several threads
    don't disturb each other.

    `copy.copy` makes a second stream that goes on from the same state with the same packed weights; streams
    can also be pickled.

    Examples
    --------
    >>> import numpy as np
    >>> from bptt import RNN
    >>> rnn = RNN(3, 4, seed=0)
    >>> x = np.ones((5, 3), np.float32)  # (T, I)
    >>> stream = rnn.stream()
    >>> y = np.stack([stream.step(frame) for frame in x])
    >>> np.array_equal(y, rnn(x)[0])
    True
    """

    __slots__ = ("__weakref__", "_advance", "_batch_size", "_h", "_rnn", "_stepper", "_tokens")

    def __init__(self, rnn: FrozenRNN, batch_size: int = 1, h_0: npt.ArrayLike | None = None) -> None:
        self._rnn = rnn
        self._batch_size = checks.integer("batch_size", batch_size)
        # Made at the first step, whose frame shows which weights it takes: those for tokens or the others.
        self._stepper: Stepper | None = None
        self._tokens = False
        self._advance: Callable[[Any, Any], Array | None] = _nothing_yet
        self.reset(h_0)

    def step(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        """Take one time step.

        Parameters
        ----------
        x : array_like
            (B, I) of the layer's dtype, or token ids (B,) of any integer dtype. For one sequence also (I,),
            or one id. Every step may be of either kind, as every call of the layer may.
        out : ndarray, optional
            Where to put the result: writeable, C-contiguous and of the layer's dtype. It may be x.

        Returns
        -------
        ndarray
            The state after the step, (B, H); (H,) if x had no batch axis. A new array, or `out`.

        Raises
        ------
        TypeError
            If x or `out` has another dtype.
        ValueError
            If a shape is wrong, a token id is not in [0, I), or `out` can't be written to. The state is as it
            was before.
        """
        y = self._advance(x, out)
        return self._converted(x, out) if y is None else y

    def _converted(self, x: Any, out: Any) -> Array:
        """Do a step with arguments that the ground floor did not take as they are, or raise."""
        rnn = self._rnn
        frame, batched = checks.frame(x, self._batch_size, rnn.input_size, rnn.dtype)
        if out is not None:
            H = rnn.hidden_size
            whole = (self._batch_size, H), "(batch, hidden_size)"
            checks.output("out", out, whole if batched else ((H,), "(hidden_size,)"), rnn.dtype)
        tokens = frame.ndim == 1
        if self._stepper is None or tokens != self._tokens:
            self._start(tokens)
        y = self._advance(frame, None)
        assert y is not None, "a checked frame was not taken"
        if not batched:
            y = y[0]
        if out is None:
            return y
        out[...] = y
        return out  # type: ignore[no-any-return]

    def _start(self, tokens: bool) -> None:
        """Go on from the state with frames of this kind."""
        rnn = self._rnn
        state = (self._h,) if self._stepper is None else self._stepper.state
        module = checks.resolve_backend(rnn.backend)
        self._stepper = module.Stepper(rnn.nonlinearity, rnn._weights(tokens), state, tokens=tokens)
        self._advance, self._tokens = self._stepper.step, tokens

    @property
    def state(self) -> Array:
        """The state (1, B, H): a copy. Another may be assigned; for one sequence also (1, H)."""
        (h,) = (self._h.copy(),) if self._stepper is None else self._stepper.state
        return h[np.newaxis]

    @state.setter
    def state(self, h: npt.ArrayLike) -> None:
        self._put("state", h)

    def reset(self, h_0: npt.ArrayLike | None = None) -> None:
        """Begin anew.

        Parameters
        ----------
        h_0 : array_like, optional
            Initial state (1, B, H), for one sequence also (1, H); zeros if not given.

        Raises
        ------
        TypeError, ValueError
            If h_0 has another dtype or shape.
        """
        shape = (1, self._batch_size, self._rnn.hidden_size)
        self._put("h_0", np.zeros(shape, self._rnn.dtype) if h_0 is None else h_0)

    def _put(self, name: str, value: Any) -> None:
        rnn, B = self._rnn, self._batch_size
        batched = B > 1 or np.ndim(value) != 2
        shape = checks.state_shape(B, rnn.hidden_size, batched)
        h = checks.floats(name, value, shape, rnn.dtype).reshape(B, rnn.hidden_size)
        if self._stepper is None:
            self._h = h.copy()
        else:
            self._stepper.state = (h,)

    @property
    def rnn(self) -> FrozenRNN:
        """The snapshot of the layer."""
        return self._rnn

    @property
    def batch_size(self) -> int:
        """B, the number of sequences side by side."""
        return self._batch_size

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._rnn, self._batch_size, self.state)

    def __repr__(self) -> str:
        return f"Stream({self._rnn!r}, batch_size={self._batch_size})"


def _nothing_yet(x: Any, out: Any) -> Array | None:
    """Stand for the step of a stepper that is not made yet."""
    return None
