"""A recurrent layer one time step at a time."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Generic

import numpy as np

from bptt import checks
from bptt.recurrent import Given, Held

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from bptt.arrays import Array, Mask
    from bptt.frozen import Frozen
    from bptt.interface import State, Stepper

    #: From x and out to h, or None if they are not in a form taken.
    Step = Callable[[Any, Any], Array | None]


class Stream(Generic[Given, Held]):
    """One recurrent layer over sequences that come step by step: microphones, sensors, characters.

    What the ``stream`` of a layer and of its frozen copy make. It carries the state and takes constant time
    and memory a step, however long the sequence. Cut as they may be, the results are the bits of one call of
    the layer over the whole sequence. It works from a snapshot of the parameters, packed at the first step.

    Parameters
    ----------
    rnn : FrozenRNN, FrozenLSTM or FrozenGRU
        The snapshot; shared, not copied.
    batch_size : int
        B, the number of sequences side by side.
    h_0 : array_like, for an LSTM a pair of them, optional
        Initial state (L, B, R), for one sequence also (L, R); for an LSTM (h_0, c_0), either of which may be
        None. Zeros if not given. L is num_layers, R the size of h.

    Raises
    ------
    TypeError
        If `batch_size` is not an integer, or h_0 of another dtype.
    ValueError
        If `batch_size` is below 1, or h_0 of another shape; if the layer is bidirectional.

    Notes
    -----
    A stream belongs to one thread at a time: its state is what it is for. A step that begins while another
    thread's is under way is a RuntimeError where it is noticed. Streams of one frozen layer in several
    threads don't disturb each other.

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

    __slots__ = (
        "__weakref__",
        "_advance",
        "_batch_size",
        "_initial",
        "_rnn",
        "_state",
        "_steppers",
        "_tokens",
    )

    def __init__(self, rnn: Frozen[Given, Held], batch_size: int = 1, h_0: Given | None = None) -> None:
        if rnn.bidirectional:
            raise ValueError(
                "stream: expected a layer of one direction, got bidirectional=True, "
                "which needs the whole sequence"
            )
        self._rnn = rnn
        self._batch_size = checks.integer("batch_size", batch_size)
        # One a layer, made at the first step, whose frame shows which weights the first one takes: those for
        # tokens or the others.
        self._steppers: list[Stepper] = []
        self._tokens = False
        self._advance: Step = _nothing_yet
        self.reset(h_0)

    def step(self, x: npt.ArrayLike, out: Array | None = None, reset: npt.ArrayLike | None = None) -> Array:
        """Take one time step.

        Parameters
        ----------
        x : array_like
            (B, I) of the layer's dtype, or token ids (B,) of any integer dtype. For one sequence also (I,),
            or one id. Every step may be of either kind, as every call of the layer may.
        out : ndarray, optional
            Where to put the result: writeable, C-contiguous and of the layer's dtype. It may be x.
        reset : bool or array_like of bool (B,), optional
            Which rows begin again before this step, from the state that the stream was made with or `reset`
            to.

        Returns
        -------
        ndarray
            h of the last layer after the step, (B, R); (R,) if x had no batch axis. A new array, or `out`.

        Raises
        ------
        TypeError
            If x, `out` or `reset` has another dtype.
        ValueError
            If a shape is wrong, a token id is not in [0, I), or `out` can't be written to. The state is as it
            was before.
        RuntimeError
            If a step of another thread is found under way.
        """
        if reset is None:
            y = self._advance(x, out)
            if y is not None:
                return y
        return self._converted(x, out, reset)

    def _converted(self, x: Any, out: Any, reset: Any) -> Array:
        """Do a step with arguments that the ground floor did not take as they are, or raise."""
        rnn, B = self._rnn, self._batch_size
        frame, batched = checks.frame(x, B, rnn.input_size, rnn.dtype)
        if out is not None:
            checks.output("out", out, rnn._structure.frame_shape(B, batched), rnn.dtype)
        rows = None if reset is None else checks.rows_to_reset(reset, B)
        tokens = frame.ndim == 1
        if not self._steppers or tokens != self._tokens:
            self._start(tokens)
        if rows is not None and rows.any():
            self._restart(rows)
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
        module, weights = checks.resolve_backend(rnn.backend), rnn._weights(tokens)
        options = {} if rnn._mean is None else {"noise": rnn._mean.noise[0]}

        def stepper(layer: int, state: State, ids: bool) -> Stepper:
            return module.Stepper(rnn._structure.cell, weights[layer], state, tokens=ids, **options)

        if self._steppers:
            first, *others = self._steppers
            self._steppers = [stepper(0, first.state, tokens), *others]
        else:
            states = enumerate(zip(*self._state, strict=True))
            self._steppers = [stepper(layer, state, tokens and layer == 0) for layer, state in states]
        climb = [stepper.step for stepper in self._steppers]
        self._advance = climb[0] if len(climb) == 1 else partial(_climb, climb[0], climb[1:])
        self._tokens = tokens

    def _restart(self, rows: Mask) -> None:
        """Set the state of these rows to the initial one."""
        for layer, stepper in enumerate(self._steppers):
            state = tuple([part[layer] for part in self._initial])
            if not rows.all():
                kept = stepper.state
                for part, initial in zip(kept, state, strict=True):
                    part[rows] = initial[rows]
                state = kept
            stepper.state = state

    def _parts(self) -> tuple[Array, ...]:
        """Return copies of h and, for an LSTM, c of all layers."""
        if not self._steppers:
            return tuple([part.copy() for part in self._state])
        states = [stepper.state for stepper in self._steppers]
        return tuple([np.stack(parts) for parts in zip(*states, strict=True)])

    @property
    def state(self) -> Held:
        """The state (L, B, R), for an LSTM (h, c): a copy. Another may be assigned, in any form of `h_0`."""
        return _held(self._parts())  # type: ignore[no-any-return]

    @state.setter
    def state(self, h: Given) -> None:
        names = ("state of h", "state of c") if self._rnn._structure.has_c else ("state",)
        self._put(self._checked(names, h))

    def reset(self, h_0: Given | None = None) -> None:
        """Begin anew.

        Parameters
        ----------
        h_0 : array_like, for an LSTM a pair of them, optional
            Initial state as for a new stream; zeros if not given. `step` with ``reset`` goes back to it too.

        Raises
        ------
        TypeError, ValueError
            If h_0 has another dtype or shape.
        """
        self._initial = self._checked(("h_0", "c_0"), h_0)
        self._put(self._initial)

    def _checked(self, names: Sequence[str], value: Any) -> tuple[Array, ...]:
        """Return a state (L, B, ...) that a user gave, as copies; zeros where it is None."""
        rnn, B = self._rnn, self._batch_size
        pair = isinstance(value, (tuple, list)) and rnn._structure.has_c
        named = zip(names, value, strict=False) if pair else [(names[0], value)]
        given = (checks.as_array(name, part) for name, part in named if part is not None)
        first = next(given, None)
        batched = B > 1 or first is None or first.ndim != 2
        parts: tuple[Array | None, ...] = (None, None)
        if value is not None:
            parts = checks.state_parts(names, value, rnn._structure.state_shapes(B, batched), rnn.dtype)
        shapes = [(rnn.num_layers, B, size) for size in rnn._structure.state_sizes]
        return tuple(
            np.zeros(shape, rnn.dtype) if part is None else part.reshape(shape).copy()
            for part, shape in zip(parts, shapes, strict=False)
        )

    def _put(self, parts: tuple[Array, ...]) -> None:
        self._state = parts
        for stepper, state in zip(self._steppers, zip(*parts, strict=True), strict=False):
            stepper.state = state

    @property
    def rnn(self) -> Frozen[Given, Held]:
        """The snapshot of the layer."""
        return self._rnn

    @property
    def batch_size(self) -> int:
        """B, the number of sequences side by side."""
        return self._batch_size

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._rnn, self._batch_size, _held(self._initial)), self._parts()

    def __setstate__(self, parts: tuple[Array, ...]) -> None:
        self._put(parts)

    def __repr__(self) -> str:
        return f"Stream({self._rnn!r}, batch_size={self._batch_size})"


def _held(parts: tuple[Array, ...]) -> Any:
    """Return a state as a user sees it: one array, or a pair of them."""
    return parts if len(parts) == 2 else parts[0]


def _nothing_yet(x: Any, out: Any) -> Array | None:
    """Stand for the step of a stepper that is not made yet."""
    return None


def _climb(first: Step, others: Sequence[Step], x: Any, out: Any) -> Array | None:
    """Do one step of several layers; None, and nothing done, if the arguments are not in a form taken."""
    # Where `out` doesn't fit would be seen by the last layer, when the others have gone on already.
    h = None if out is not None else first(x, None)
    if h is None:
        return None
    batched = h.ndim == 2
    if not batched:
        h = h[np.newaxis]
    for step in others:
        h = step(h, None)
        assert h is not None, "the state of a layer was not taken by the next"
    return h if batched else h[0]
