"""Calling a recurrent layer: arguments in any layout, the ground floor, results in that layout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bptt import checks

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from bptt.arrays import Array


class Recurrent:
    """Base of `RNN` and `FrozenRNN`, which differ in where the weights come from."""

    __slots__ = ()

    input_size: int
    hidden_size: int
    nonlinearity: str
    batch_first: bool
    dtype: np.dtype[Any]
    _unroll: Callable[..., Any]

    def _weights(self, tokens: bool) -> Any:
        """Return what ``unroll`` takes as weights for this kind of x."""
        raise NotImplementedError

    def __call__(
        self,
        x: npt.ArrayLike,
        h_0: npt.ArrayLike | None = None,
        *,
        threads: int | None = None,
        check_finite: bool = False,
    ) -> tuple[Array, Array]:
        """Run the layer over a sequence, keeping nothing.

        Parameters
        ----------
        x : array_like
            (T, B, I), or (B, T, I) if `batch_first`, or (T, I) for one unbatched sequence, of the layer's
            dtype. Or token ids of any integer dtype, each standing for a one-hot row: (T, B), (B, T) or
            (T,). T and B may be 0.
        h_0 : array_like, optional
            Initial state (1, B, H), or (1, H) unbatched; zeros if not given.
        threads : int, optional
            How many threads may share the work; default ``BPTT_NUM_THREADS`` or else all usable cores. The
            result doesn't depend on it.
        check_finite : bool
            Whether to look for NaN and infinities afterwards.

        Returns
        -------
        y : ndarray
            The state after every step: (T, B, H), (B, T, H) or (T, H).
        h_n : ndarray
            The last state: (1, B, H) or (1, H).

        Raises
        ------
        TypeError
            If x or h_0 has another dtype; the message says which cast to write.
        ValueError
            If a shape is wrong, or a token id is not in [0, I).
        FloatingPointError
            With `check_finite`, at the first time step that is not finite in x or y.
        """
        y, h_n, _, _ = self._run(x, h_0, False, threads, check_finite)
        return y, h_n

    def _run(
        self, x: Any, h_0: Any, keep: bool, threads: int | None, check_finite: bool
    ) -> tuple[Array, Array, Any, bool]:
        # Arguments that need no conversion are recognised here; anything else goes through `checks`, which
        # converts or raises.
        dtype = self.dtype
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
            given = x
            x, batched = checks.sequence(x, self.input_size, dtype, self.batch_first)
            if keep and x.ndim == 2 and isinstance(given, np.ndarray) and np.may_share_memory(x, given):
                x = x.copy()  # ids changed after they were checked would index outside weight_ih
        B, H = x.shape[1], self.hidden_size
        if h_0 is None:
            state = np.zeros((B, H), dtype)
        else:
            if (
                batched
                and type(h_0) is np.ndarray
                and h_0.shape == (1, B, H)
                and h_0.dtype == dtype
                and h_0.flags.carray
            ):
                state = h_0[0]
            else:
                state = checks.initial_state(h_0, B, H, dtype, batched)
            if keep:
                state = state.copy()

        y, (h_n,), saved = self._unroll(
            self.nonlinearity,
            x,
            (state,),
            self._weights(x.ndim == 2),
            keep=keep,
            threads=checks.resolve_threads(threads),
        )

        if check_finite:
            checks.finite(x, state, y, batched)
        if keep:
            y.flags.writeable = False
        if not batched:
            return y[:, 0], h_n, saved, batched
        return y.swapaxes(0, 1) if self.batch_first else y, h_n[np.newaxis], saved, batched
