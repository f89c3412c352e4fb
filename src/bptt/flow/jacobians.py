"""Jacobians of the state along a recorded pass: docs/gradients.md, "Jacobians"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bptt import checks

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from bptt.arrays import Array, Tokens
    from bptt.flow.sweep import StepBack
    from bptt.stack import Pass

#: States up to this size have their norms from singular values, larger ones by power iteration.
SINGULAR_VALUES_UP_TO = 128
#: Power iteration ends when a step changes the norm by less than this, relatively, or after so many steps.
POWER_TOLERANCE, POWER_STEPS = 1e-7, 500
#: sup f' of the cells whose Jacobian is diag(f') W_hh.
STEEPEST = {"tanh": 1.0, "relu": 1.0, "sigmoid": 0.25, "identity": 1.0}
#: Products are scaled when an entry is beyond 2^-NEAR or 2^NEAR.
NEAR = 24


class JacobianProducts:
    """Products of the state Jacobians of one layer and direction, computed when asked for.

    Made by `bptt.jacobian_products`. The state s is h, for an LSTM h and c side by side; J_t = ds_t/ds_{t-1}
    at the step's own x, and ds_i/ds_k = J_i ... J_{k+1}. Steps count from 1, as this direction makes them:
    s_0 is the initial state, and the first step of a reverse direction is the last of x. Time is the first
    axis of all results, whatever the layout of x; an unbatched pass has no B.

    Attributes
    ----------
    steps : int
        T.
    size : int
        S, the size of the state: R, for an LSTM R + H.
    dtype : dtype
        The layer's, in which products are computed.
    bound : float or None
        b = sup f' · ‖W_hh‖₂, times the largest entry of a mask of recurrent dropout, so that ‖ds_i/ds_k‖₂ <=
        b^(i-k); below 1, gradients are sure to vanish. None where it doesn't hold: for an LSTM or GRU, with
        layer normalisation or zoneout.

    Notes
    -----
    Each step costs a step of a backward pass with S·B rows. Past the end of a row there are no steps; before
    a reset ds_i/ds_k is zero.
    """

    def __init__(self, back: StepBack, recorded: Pass, unit: int, batched: bool) -> None:
        self._back = back
        self._pass = recorded
        self._unit = unit
        self._batched = batched
        T, B, _ = recorded.y.shape
        self.steps = T
        self.size = sum(recorded.structure.state_sizes)
        self.dtype = recorded.y.dtype
        # the last step of each row, (B,)
        self._ends = np.full(B, T) if recorded.lengths is None else recorded.lengths

    @property
    def bound(self) -> float | None:
        """The factor b of the bound b^(i-k) on the norm of ds_i/ds_k; None where there is none."""
        recorded = self._pass
        noise = None if recorded.masks is None else recorded.masks.noise[self._unit]
        kept = noise is not None and noise.kept_h is not None
        if recorded.structure.cell not in STEEPEST or recorded.structure.layer_norm or kept:
            return None
        weight = recorded.saved[self._unit].weights.weight_hh.astype(np.float64)
        largest = 1.0 if noise is None or noise.dropout is None else float(noise.dropout.max(initial=0))
        return STEEPEST[recorded.structure.cell] * float(np.linalg.norm(weight, 2)) * largest

    def jacobian(self, t: int) -> Array:
        """Return J_t.

        Parameters
        ----------
        t : int
            1 to T.

        Returns
        -------
        ndarray
            (B, S, S), [q][p] = ds_t[q]/ds_{t-1}[p].

        Raises
        ------
        ValueError
            For another t, or if a row is shorter.
        """
        return self.product(self._step("t", t, 1), t - 1)

    def product(self, i: int, k: int) -> Array:
        """Return ds_i/ds_k.

        Parameters
        ----------
        i, k : int
            0 <= k <= i <= T.

        Returns
        -------
        ndarray
            (B, S, S), [q][p] = ds_i[q]/ds_k[p]; the identity for i = k.

        Raises
        ------
        ValueError
            For other i and k, or if a row is shorter than i.
        """
        identity = np.broadcast_to(np.eye(self.size, dtype=self.dtype)[:, np.newaxis], self._block(self.size))
        return self._outward(self._apply(identity, i, k).transpose(1, 0, 2), 0)

    def apply(self, v: npt.ArrayLike, i: int, k: int) -> Array:
        """Return v ds_i/ds_k: a gradient of s_i taken back to s_k.

        Parameters
        ----------
        v : array_like
            (N, B, S), N gradients with respect to s_i; of an unbatched pass (N, S).
        i, k : int
            0 <= k <= i <= T.

        Returns
        -------
        ndarray
            (N, B, S) or (N, S).

        Raises
        ------
        TypeError
            If v has another dtype than the layer.
        ValueError
            For another shape of v, other i and k, or if a row is shorter than i.
        """
        B, S = len(self._ends), self.size
        if np.ndim(v) != 2 + self._batched:
            form = "(N, batch, state size)" if self._batched else "(N, state size)"
            raise ValueError(f"v: expected shape {form}, got {np.shape(v)}")
        N = np.shape(v)[0]
        shape = ((N, B, S), "(N, batch, state size)") if self._batched else ((N, S), "(N, state size)")
        given = checks.floats("v", v, shape, self.dtype).reshape(N, B, S)
        return self._outward(self._apply(given, i, k), 1)

    def singular_values(self, i: int | None = None, *, row: int | None = None) -> Array:
        """Return the singular values of ds_i/ds_k for every k.

        Parameters
        ----------
        i : int, optional
            By default each row's last step.
        row : int, optional
            Of the batch; by default all.

        Returns
        -------
        ndarray
            (i + 1, B, S) of float64, without B for one `row`, at k, descending; NaN where k is past a row's
            end.

        Raises
        ------
        ValueError
            For i outside 0 to T, if a row is shorter, for a row that there is not, or numbers that are not
            finite.

        Notes
        -----
        Small ones are lost in the rounding of large ones: one that is 1e-16 (float32: 1e-7) of the largest
        says nothing. `lyapunov` does not suffer from that.
        """
        return self._measured(
            i, row, (self.size,), lambda product, _: np.linalg.svd(product, compute_uv=False)
        )

    def norms(self, i: int | None = None, *, row: int | None = None) -> Array:
        """Return the spectral norms of ds_i/ds_k for every k.

        Parameters
        ----------
        i : int, optional
            By default each row's last step.
        row : int, optional
            Of the batch; by default all.

        Returns
        -------
        ndarray
            (i + 1, B) of float64, without B for one `row`, at k; NaN where k is past a row's end.

        Raises
        ------
        ValueError
            For i outside 0 to T, if a row is shorter, for a row that there is not, or numbers that are not
            finite.

        Notes
        -----
        Up to S = 128 the largest singular value. Beyond, from power iteration, which never gives too much,
        and as a rule less than 1e-4 too little; a step then takes some products of S x S matrices with a
        vector instead of a decomposition.
        """
        if self.size <= SINGULAR_VALUES_UP_TO:
            return self._measured(
                i, row, (), lambda product, _: np.linalg.svd(product, compute_uv=False)[:, 0]
            )
        start = np.random.default_rng(0).standard_normal((len(self._ends), self.size))
        return self._measured(i, row, (), _power_iteration, start)

    def lyapunov(self, count: int | None = None) -> Array:
        """Return finite-time Lyapunov exponents, the rates per step at which s is stretched.

        Parameters
        ----------
        count : int, optional
            How many of the largest; by default all S.

        Returns
        -------
        ndarray
            (B, count) of float64, descending: the logarithms of factors per step. A factor of 0, as after a
            reset, gives -inf; a row without steps, or whose Jacobians are not finite, NaN.

        Raises
        ------
        TypeError, ValueError
            If `count` is not an integer from 1 to S.

        Notes
        -----
        From QR decompositions on the way back through all steps (Benettin et al., 1980): orthonormal
        gradients at the last step, orthonormalised again after every step; the sum of the logarithms of the
        diagonals of R, over T. The sum of all S is log |det ds_T/ds_0| / T exactly.
        """
        S, B = self.size, len(self._ends)
        wanted = S if count is None else checks.integer("count", count)
        if wanted > S:
            raise ValueError(f"count: expected at most the state's size, {S}, got {wanted}")
        start = np.random.default_rng(0).standard_normal((S, wanted))
        frame = np.linalg.qr(start)[0].astype(self.dtype)  # (S, count)
        v = np.broadcast_to(frame.T[:, np.newaxis], self._block(wanted))
        sums = np.zeros((B, wanted))
        for s in reversed(range(self.steps)):
            v = self._before(v, s)
            q, r = np.linalg.qr(v.transpose(1, 2, 0))  # v^T of each row, (B, S, count)
            with np.errstate(divide="ignore"):
                stretched = np.log(np.abs(np.diagonal(r, axis1=1, axis2=2)).astype(np.float64))
            there = self._ends > s
            sums[there] += stretched[there]
            # rows that have not begun keep what they began with
            v = np.where(there[np.newaxis, :, np.newaxis], q.transpose(2, 0, 1), frame.T[:, np.newaxis])
        with np.errstate(invalid="ignore"):
            exponents = sums / np.where(self._ends > 0, self._ends, np.nan)[:, np.newaxis]
        return self._outward(-np.sort(-exponents, axis=1), 0)

    def __repr__(self) -> str:
        return f"JacobianProducts(steps={self.steps}, size={self.size})"

    def _block(self, count: int) -> tuple[int, int, int]:
        return count, len(self._ends), self.size

    def _step(self, name: str, value: int, least: int = 0) -> int:
        """Return a step that every row has."""
        step = checks.integer(name, value, least)
        longest = int(self._ends.min(initial=self.steps))
        if step > longest:
            whose = "the number of steps" if longest == self.steps else "the length of the shortest row"
            raise ValueError(f"{name}: expected at most {whose}, {longest}, got {step}")
        return step

    def _apply(self, v: Array, i: int, k: int) -> Array:
        i, k = self._step("i", i), self._step("k", k)
        if k > i:
            raise ValueError(f"k: expected at most i, {i}, got {k}")
        for s in reversed(range(k, i)):
            v = self._before(v, s)
        return np.ascontiguousarray(v)

    def _before(self, v: Array, s: int) -> Array:
        """Return v J_{s+1}, for N gradients (N, B, S); zero for rows without that step."""
        R = self._pass.structure.state_size
        dc = None if self.size == R else np.ascontiguousarray(v[:, :, R:])
        dh, dc, *_ = self._back(self._pass.saved[self._unit], s, np.ascontiguousarray(v[:, :, :R]), dc)
        before: Array = dh if dc is None else np.concatenate([dh, dc], axis=2)
        return before

    def _products(self, ends: Tokens) -> Iterator[tuple[int, Array, Tokens]]:
        """Yield k, ds_i/ds_k scaled (B, S, S), the exponents of two (B,), from the last end down to 0."""
        S, B = self.size, len(ends)
        identity = np.eye(S, dtype=self.dtype)[:, np.newaxis]
        v = np.zeros(self._block(S), self.dtype)
        exponents = np.zeros(B, np.int64)
        for k in reversed(range(int(ends.max(initial=0)) + 1)):
            if (ends > k).any():
                v = self._before(v, k)
                largest = np.abs(v).max(axis=(0, 2), initial=0)
                shift = np.where(np.isfinite(largest), np.frexp(largest)[1], 0).astype(np.int64)
                shift[np.abs(shift) < NEAR] = 0
                v = v * np.ldexp(v.dtype.type(1), -shift.astype(np.int32))[:, np.newaxis]
                exponents += shift
            starts = ends == k
            if starts.any():
                v = np.where(starts[:, np.newaxis], identity, v)
            yield k, v.transpose(1, 0, 2), exponents

    def _measured(
        self, i: int | None, row: int | None, shape: tuple[int, ...], measure: Any, state: Any = None
    ) -> Array:
        """Return what is measured of ds_i/ds_k, (i + 1, B, ...)."""
        B = len(self._ends)
        if row is not None and checks.integer("row", row, 0) >= B:
            raise ValueError(f"row: expected at most {B - 1}, got {row}")
        last = self.steps if i is None else self._step("i", i)
        ends = np.minimum(self._ends, last)
        result = np.full((int(ends.max()) + 1 if B else last + 1, B, *shape), np.nan)
        for k, product, exponents in self._products(ends):
            rows = (
                np.flatnonzero(ends >= k) if row is None else np.flatnonzero(ends[row : row + 1] >= k) + row
            )
            if not np.isfinite(product[rows]).all():
                raise ValueError(f"the Jacobian at step {k + 1}: expected finite numbers, got others")
            measured = measure(product[rows], None if state is None else (state, rows)).astype(np.float64)
            with np.errstate(over="ignore"):
                powers = exponents[rows].astype(np.int32).reshape(-1, *(1,) * len(shape))
                result[k, rows] = np.ldexp(measured, powers)
        return self._outward(result, 1) if row is None else result[: int(ends[row]) + 1, row]

    def _outward(self, a: Array, batch: int) -> Array:
        """Return an array without its batch axis if the pass has none."""
        return a if self._batched else np.squeeze(a, axis=batch)


def _power_iteration(products: Array, state: tuple[Array, Any]) -> Array:
    """Return the spectral norms of matrices (B, S, S), from vectors of the left, which are improved."""
    starts, rows = state
    u = starts[rows]
    norms = np.zeros(len(u))
    for _ in range(POWER_STEPS):
        u = u / np.maximum(np.linalg.norm(u, axis=1, keepdims=True), np.finfo(np.float64).tiny)
        v = np.einsum("bq,bqp->bp", u, products)
        new = np.linalg.norm(v, axis=1)
        u = np.einsum("bqp,bp->bq", products, v)
        settled = np.abs(new - norms) <= POWER_TOLERANCE * new
        norms = new
        if settled.all():
            break
    # where all is zero the vector is kept: another product may not be
    starts[rows] = np.where(norms[:, np.newaxis] > 0, u, starts[rows])
    return norms
