"""Calling a recurrent layer: arguments in any layout, the stack of layers, results in that layout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from bptt import checks, noise, stack
from bptt.parameters import Fixed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from bptt.arrays import Array
    from bptt.noise import Masks, Rates
    from bptt.structure import Structure

#: Options beside the sizes, in the order in which they are shown, and what they are if not given; ``...`` for
#: those that are always shown.
DEFAULTS: dict[str, Any] = {
    "num_layers": 1,
    "nonlinearity": ...,
    "bias": True,
    "batch_first": False,
    "dropout": 0.0,
    "bidirectional": False,
    "proj_size": 0,
    "peepholes": False,
    "forget_bias": None,
    "reset_after": True,
    "recurrent_dropout": 0.0,
    "zoneout": 0.0,
    "layer_norm": False,
    "dtype": ...,
    "seed": None,
    "init": "uniform",
    "backend": "kernels",
}

#: Slots of a subclass beside its options.
DERIVED = ("_alone", "_few", "_mean", "_pack", "_rates", "_short_call", "_sizes", "_structure", "_unroll")

#: Multiplications up to which the kernels' `short_call` takes a call.
SHORT = 10_000_000

#: What a caller gives as a state, and what comes back as one: h, or for an LSTM (h, c).
Given = TypeVar("Given")
Held = TypeVar("Held")


class Recurrent(Fixed, Generic[Given, Held]):
    """Base of layers and of their frozen copies, which differ in where the weights come from."""

    __slots__ = ()

    input_size: int
    hidden_size: int
    num_layers: int
    bidirectional: bool
    batch_first: bool
    # See `DERIVED`.
    _structure: Structure
    _unroll: Callable[..., Any]
    _short_call: Callable[..., Any]
    _pack: Callable[..., Any]
    _few: int  # time steps times batch rows up to which `_short_call` may take a call
    _rates: Rates
    _mean: Masks | None  # what acts in inference
    _sizes: tuple[tuple[int, int], ...]  # (L*D, R), for an LSTM (L*D, H) too
    _alone: bool  # one layer in one direction, without dropout and zoneout

    def _derive(self, structure: Structure, rates: Rates) -> None:
        """Note what a call would otherwise work out each time."""
        units = structure.num_layers * structure.directions
        self._structure, self._rates = structure, rates
        self._mean = noise.mean(structure, rates)
        self._sizes = tuple((units, size) for size in structure.state_sizes)
        self._alone = units == 1 and not any(rates)
        self._few = 0

    def _weights(self, tokens: bool) -> Sequence[Any]:
        """Return what ``unroll`` takes as weights of every layer and direction, for this kind of x."""
        raise NotImplementedError

    @property
    def output_size(self) -> int:
        """Size of the last axis of y: H, or P with a projection; twice that if bidirectional."""
        return self._structure.output_size

    def __call__(
        self,
        x: npt.ArrayLike,
        h_0: Given | None = None,
        *,
        lengths: npt.ArrayLike | None = None,
        reset: npt.ArrayLike | None = None,
        threads: int | None = None,
        check_finite: bool = False,
    ) -> tuple[Array, Held]:
        """Run the layer over a sequence, keeping nothing: inference, without dropout, with zoneout's mean.

        In what follows L is num_layers, D the number of directions, R the size of h: H, or P with a
        projection.

        Parameters
        ----------
        x : array_like
            (T, B, I), or (B, T, I) if `batch_first`, or (T, I) for one unbatched sequence, of the layer's
            dtype. Or token ids of any integer dtype, each standing for a one-hot row: (T, B), (B, T) or
            (T,). T and B may be 0.
        h_0 : array_like, for an LSTM a pair of them
            Initial state (L*D, B, R), or (L*D, R) unbatched, the directions of the first layer first; zeros
            if not given. For an LSTM (h_0, c_0) with c_0 (L*D, B, H) or (L*D, H); either may be None.
        lengths : array_like of integers, optional
            (B,), the number of steps of each row, in any order, each in [0, T]; for an unbatched sequence one
            integer. Past its end a row's y is zero and x is not looked at (token ids must be in range there
            too); its last state is the one after its own last step, the initial one for length 0.
        reset : array_like of bool, optional
            (T, B), (B, T) or (T,): True where a row begins again from its initial state before this step, as
            if its sequence were cut there. In the other direction too the cut is before this step.
        threads : int, optional
            How many threads may share the work; default ``BPTT_NUM_THREADS`` or else all usable cores. The
            result doesn't depend on it.
        check_finite : bool
            Whether to look for NaN and infinities afterwards.

        Returns
        -------
        y : ndarray
            h after every step: (T, B, D*R), (B, T, D*R) or (T, D*R), of the last layer.
        h_n : ndarray, for an LSTM a pair of them
            The last state of every layer and direction, in the form of `h_0`.

        Raises
        ------
        TypeError
            If x or h_0 has another dtype, in which case the message says which cast to write; if h_0 is not a
            pair for an LSTM, or is one for another layer; if `lengths` are not integers or `reset` not bool.
        ValueError
            If a shape is wrong, a token id is not in [0, I), or a length not in [0, T].
        FloatingPointError
            With `check_finite`, at the first time step that is not finite in x or y.
        """
        if (
            type(x) is np.ndarray
            and x.ndim == 3
            and 0 < x.shape[0] * x.shape[1] <= self._few
            and lengths is None
            and reset is None
            and not check_finite
        ):
            # the same numbers; a call of a few steps takes two thirds of the time, one of 25 us 94% of it
            checks.resolve_threads(threads)
            packed = self._pack(self._structure.cell, self._weights(False)[0])
            result = self._short(packed, x, h_0)
            if result is not None:
                return result  # type: ignore[no-any-return]
        y, h_n, _, _ = self._run(x, h_0, lengths, reset, False, None, threads, check_finite)
        return y, h_n

    def _short(self, packed: Any, x: Any, h_0: Any) -> Any:
        """Return what a call of one layer alone comes to, if the kernels take it as it is, else None."""
        if not self._structure.has_c:
            return self._short_call(packed, x, h_0)
        result: Any = None
        if h_0 is None:
            result = self._short_call(packed, x, None, None)
        elif type(h_0) is tuple and len(h_0) == 2:
            result = self._short_call(packed, x, *h_0)
        return None if result is None else (result[0], result[1:])

    def _run(
        self,
        x: Any,
        h_0: Any,
        lengths: Any,
        reset: Any,
        keep: bool,
        seed: int | None,
        threads: int | None,
        check_finite: bool,
    ) -> tuple[Array, Any, stack.Pass | None, bool]:
        # Arguments that need no conversion are recognised here; anything else goes through `checks`, which
        # converts or raises.
        dtype, structure = self.dtype, self._structure
        if (
            type(x) is np.ndarray
            and x.ndim == 3
            and x.dtype == dtype
            and x.shape[2] == self.input_size
            and not self.batch_first
            and x.flags.carray
        ):
            batched = True
        else:
            x, batched = checks.sequence(x, self.input_size, dtype, self.batch_first)
            if keep and x.ndim == 2:
                # Ids changed after they were checked would index outside weight_ih. Whose they are can't be
                # told: a tensor or a buffer shares its memory, too.
                x = x.copy()
        weights = self._weights(x.ndim == 2)
        initial = self._initial(h_0, x.shape[1], batched, keep)
        threads = checks.resolve_threads(threads)
        recorded = None

        if self._alone and lengths is None and reset is None and not check_finite:
            # One layer in one direction and nothing else: what the loop of `stack` comes to, 2 us sooner.
            state = (initial[0][0],) if len(initial) == 1 else (initial[0][0], initial[1][0])
            y, final, saved = self._unroll(structure.cell, x, state, weights[0], keep, threads)
            if keep:
                y.setflags(False)  # writeable: no keyword, and no object of flags, 0.2 us sooner
                recorded = stack.Pass(structure, y, (saved,), initial, None, None, None)
            final = stack.of_alone(final)
        else:
            T, B = x.shape[:2]
            if lengths is not None:
                lengths = checks.lengths(lengths, T, B, batched)
            if reset is not None:
                reset = checks.reset(reset, T, B, batched, self.batch_first)
            masks = noise.draw(structure, self._rates, T, B, dtype, seed) if keep else self._mean
            outputs: list[Array] | None = [] if check_finite else None
            told_lengths, told_reset = stack.course(lengths, reset, T)
            y, final, saved = stack.forward(
                self._unroll,
                structure,
                weights,
                x,
                initial,
                lengths=told_lengths,
                reset=told_reset,
                masks=masks,
                keep=keep,
                threads=threads,
                outputs=outputs,
            )
            if outputs is not None:
                directions = structure.directions
                checks.finite(x, initial, outputs, lengths, directions=directions, batched=batched)
            if keep:
                y.flags.writeable = False
                recorded = stack.Pass(structure, y, saved, initial, lengths, reset, masks)

        if not batched:
            y, final = y[:, 0], tuple([part[:, 0] for part in final])
        elif self.batch_first:
            y = y.swapaxes(0, 1)
        return y, final if len(final) == 2 else final[0], recorded, batched

    def _initial(self, given: Any, batch: int, batched: bool, keep: bool) -> tuple[Array, ...]:
        """Return the initial state of all layers and directions, (L*D, B, ...); a copy if it is kept."""
        dtype, sizes = self.dtype, self._sizes
        if len(sizes) == 1:
            shape = (sizes[0][0], batch, sizes[0][1])
            if given is None:
                return (np.zeros(shape, dtype),)
            if (
                batched
                and type(given) is np.ndarray
                and given.shape == shape
                and given.dtype == dtype
                and given.flags.carray
            ):
                return (given.copy() if keep else given,)
        else:
            (units, size), (_, c_size) = sizes
            shape, c_shape = (units, batch, size), (units, batch, c_size)
            if given is None:
                return np.zeros(shape, dtype), np.zeros(c_shape, dtype)
            if batched and type(given) is tuple and len(given) == 2:
                h, c = given
                ready = checks.is_ready(h, dtype) and checks.is_ready(c, dtype)
                if ready and h.shape == shape and c.shape == c_shape:
                    return (h.copy(), c.copy()) if keep else given
        expected = self._structure.state_shapes(batch, batched)
        checked = checks.state_parts(("h_0", "c_0"), given, expected, dtype)
        state = []
        for part, (units, size) in zip(checked, sizes, strict=True):
            if part is None:
                state.append(np.zeros((units, batch, size), dtype))
            else:
                whole = part.reshape(units, batch, size)
                state.append(whole.copy() if keep else whole)
        return tuple(state)

    def __repr__(self) -> str:
        defaults = {name: default for name, default in DEFAULTS.items() if name in self._options}
        return self._represent("input_size", "hidden_size", **defaults)
