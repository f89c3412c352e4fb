"""Arrays in, arrays out: the recurrence with the interface of the compiled kernels.

``threads`` is accepted and has no effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from .. import arrays
from ..arrays import Array, Mask, Tokens, Weights
from . import conversion
from .cells import GATES
from .conversion import to_array, to_states
from .expansion import terms as terms_lists
from .stepper import Packed, packed_for
from .sweep import bptt as bptt_lists
from .unroll import Run
from .unroll import unroll as unroll_lists


class Saved(NamedTuple):
    """What a forward pass keeps for the backward pass."""

    cell: str
    x: Array | Tokens  # (T, B, I) or (T, B), the caller's array
    state: tuple[Array, ...]  # (h,), of an LSTM (h, c): (B, R) and (B, H), copies
    y: Array  # (T, B, R), the array that unroll returned
    weights: Weights  # a copy
    c: Array | None = None  # (T, B, H) of an LSTM
    gates: Mapping[str, Array] = MappingProxyType({})  # (T, B, H) each, by name
    lengths: Tokens | None = None  # (B,), a copy
    reset: Mask | None = None  # (T, B), a copy
    reverse: bool = False
    noise: arrays.Noise | None = None  # a copy
    begin: tuple[Array, ...] | None = None  # before the first step, if not `state`; a copy


def unroll(
    cell: str,
    x: Array | Tokens,
    state: tuple[Array, ...],
    weights: Weights | Packed,
    keep: bool = True,
    threads: int = 1,
    *,
    lengths: Tokens | None = None,
    reset: Mask | None = None,
    reverse: bool = False,
    noise: arrays.Noise | None = None,
    begin: tuple[Array, ...] | None = None,
    y_to: Array | None = None,
    final: tuple[Array, ...] | None = None,
) -> tuple[Array, tuple[Array, ...], Saved | None]:
    """Forward pass of one direction of one layer.

    Parameters
    ----------
    cell : str
        One of ``CELLS``.
    x : ndarray
        (T, B, I) of the weights' dtype, or (T, B) int64 token ids in [0, I), which stand for one-hot rows.
    state : tuple of ndarray
        (h_0,), for an LSTM (h_0, c_0): h_0 (B, R), c_0 (B, H).
    weights : Weights or Packed
        With `keep` only what ``pack`` made with ``backward=True``.
    keep : bool
        Whether to return what :func:`bptt` needs.
    threads : int
        No effect here.
    lengths : ndarray or None
        (B,) int64, each row's number of steps; None for T. Less than 0 is 0, more than T is T, as it may be
        in a piece of a longer sequence.
    reset : ndarray or None
        (T, B) bool, True where a row starts a step from its initial state.
    reverse : bool
        Whether each row goes through its steps from the last to the first.
    noise : Noise or None
        With `keep`, masks wherever a rate is not 0.
    begin : tuple of ndarray or None
        The state before the first step of a piece of a longer sequence, like `state`, which is then what
        resets go back to, at the first step too. None: `state`.
    y_to : ndarray or None
        (T, B, R), where to put y.
    final : tuple of ndarray or None
        No effect here: the state after the last step, where it is known.

    Returns
    -------
    y : ndarray
        (T, B, R), zero past a row's end.
    final_state : tuple of ndarray
        The state after each row's last step, as `state`; for a row without steps a copy of the one that it
        begins with.
    saved : Saved or None
        Holds x and y themselves and copies of the rest.

    Raises
    ------
    ValueError
        For another cell, weights that it does not have or that are packed for something else, zoneout of c
        in a cell that has none, rates of zoneout without masks with `keep`.
    TypeError
        For weights packed for the forward pass only with `keep`.

    Notes
    -----
    Source: docs/equations.md, "Forward", "LSTM", "GRU", "Lengths", "Resets", "Dropout and zoneout".
    """
    if keep and isinstance(weights, Packed) and weights.weights is None:
        raise TypeError(
            "weights: expected Weights for keep=True, got packed ones, which are for the forward pass only"
        )
    if keep and noise is not None:
        for name in ("h", "c"):
            if getattr(noise, f"zoneout_{name}") != 0.0 and getattr(noise, f"kept_{name}") is None:
                raise ValueError(f"noise: expected a mask kept_{name} for keep=True, got a rate alone")
    dtype = state[0].dtype
    lengths = None if lengths is None else np.clip(lengths, 0, len(x))
    run, ends = unroll_lists(
        cell,
        x.tolist(),
        to_states(state),
        packed_for(cell, weights, x.dtype.kind == "i", dtype),
        conversion.to_course(lengths, reset, reverse),
        conversion.to_noise(cell, noise),
        None if begin is None else to_states(begin),
    )
    y, *c = (
        to_array([[state[part] for state in row] for row in run.states], (len(x), *like.shape), dtype)
        for part, like in enumerate(state)
    )
    if y_to is not None:
        y_to[...] = y
        y = y_to
    final_state = conversion.from_states(ends, state)
    if not keep:
        return y, final_state, None
    if isinstance(weights, Packed):
        assert weights.weights is not None, "checked above"
        weights = weights.weights
    H = weights.weight_hh.shape[0] // max(1, len(GATES[cell]))
    saved = Saved(
        cell,
        x,
        tuple(array.copy() for array in state),
        y,
        conversion.copied(weights),
        c[0] if c else None,
        MappingProxyType(conversion.from_gates(cell, run.gates, (*x.shape[:2], H), dtype)),
        lengths,
        None if reset is None else reset.copy(),
        reverse,
        None if noise is None else conversion.copied(noise),
        None if begin is None else tuple(array.copy() for array in begin),
    )
    return y, final_state, saved


def short_call(weights: Packed, x: Any, h_0: Any, c_0: Any = None) -> None:
    """No call is a short one here: use :func:`unroll`."""


def as_run(cell: str, saved: Saved) -> Run:
    """Return a forward pass as lists."""
    return Run(
        saved.x.tolist(),
        to_states(saved.state),
        conversion.sequence_of_states(saved.y, saved.c),
        conversion.sequence_of_gates(saved.gates, saved.y.shape[:2]),
        conversion.to_course(saved.lengths, saved.reset, saved.reverse),
        conversion.to_noise(cell, saved.noise),
        None if saved.begin is None else to_states(saved.begin),
    )


def bptt(
    cell: str,
    saved: Saved,
    dy: Array | None,
    dfinal_state: tuple[Array | None, ...] | None,
    depth: int | None = None,
    threads: int = 1,
    *,
    squares: Array | None = None,
    add_to: Weights | None = None,
    initial_to: tuple[Array, ...] | None = None,
    input_grad: bool = True,
    dx_to: Array | None = None,
) -> tuple[Array | None, tuple[Array, ...], Weights]:
    """Backward pass of one direction of one layer.

    Parameters
    ----------
    cell : str
        One of ``CELLS``.
    saved : Saved
        From :func:`unroll`.
    dy : ndarray or None
        (T, B, R) gradient of the loss with respect to y; None for zeros. Not looked at past a row's end.
    dfinal_state : tuple of ndarray or None, or None
        (dh_n,), for an LSTM (dh_n, dc_n), acting on the state after each row's last step; None for zeros.
    depth : int or None
        None for the whole gradient. K >= 1 keeps of the loss of step i the steps k with i - k < K, and the
        initial state if i < K; steps are counted as they are taken.
    threads : int
        No effect here.
    squares : ndarray or None
        (T, B) of float64, where to put the squared norm of dL/dh_t; nothing is written past a row's end.
    add_to : Weights or None
        Gradients of the steps after these, as an earlier call returned them: this call goes on with their
        sums, in place. In float64 the result has the bits of a single call over all steps.
    initial_to : tuple of ndarray or None
        Where to add what resets send to the initial state, as `state`; None: to what is returned. Not with a
        depth.
    input_grad : bool
        Whether dx is wanted.
    dx_to : ndarray or None
        (T, B, I), where to put it.

    Returns
    -------
    dx : ndarray or None
        (T, B, I), zero past a row's end; None when x was token ids or `input_grad` is False.
    dstate : tuple of ndarray
        Gradients of the state before the first step, as `state` was given.
    dweights : Weights
        Gradients in the parameters' shapes; None where a parameter is None. With `add_to`, that.

    Notes
    -----
    The whole gradient is T backward steps; a truncated one is T min(K, T), since each loss step forgets at
    its own k and so has to be walked back by itself. Sources: docs/equations.md, "Backward";
    docs/gradients.md, "Truncation".
    """
    dfinal = None
    if dfinal_state is not None and any(d is not None for d in dfinal_state):
        given = zip(dfinal_state, saved.state, strict=True)
        dfinal = to_states(tuple(np.zeros_like(like) if d is None else d for d, like in given))
    norms: Any = None if squares is None else squares.tolist()
    resets = None if initial_to is None else to_states(initial_to)
    dx, dstart, dweights = bptt_lists(
        cell,
        as_run(cell, saved),
        conversion.to_lists(cell, saved.weights),
        None if dy is None else dy.tolist(),
        dfinal,
        depth,
        norms,
        None if add_to is None else conversion.to_lists(cell, add_to),
        resets,
    )
    if squares is not None:
        squares[...] = np.reshape(norms, squares.shape)
    # Without any row, lists cannot tell token ids from floats; the dtype can.
    dx_array = None
    if input_grad and np.issubdtype(saved.x.dtype, np.floating):
        nothing = [0.0] * saved.x.shape[2]
        rows = [[nothing if dx_tb is None else dx_tb for dx_tb in dx_t] for dx_t in dx]
        dx_array = to_array(rows, saved.x.shape, saved.y.dtype)
        if dx_to is not None:
            dx_to[...] = dx_array
            dx_array = dx_to
    if initial_to is not None and resets is not None:
        for array, total in zip(initial_to, conversion.from_states(resets, saved.state), strict=True):
            array[...] = total
    dstate = conversion.from_states(dstart, saved.state)
    gradients = conversion.to_weights(dweights, saved.weights)
    if add_to is None:
        return dx_array, dstate, gradients
    for into, gradient in zip(add_to, gradients, strict=True):
        if into is not None:
            into[...] = gradient
    return dx_array, dstate, add_to


def chunk_bounds(T: int, B: int, lengths: Tokens | None = None) -> list[int]:
    """Return the steps at which the sums of :func:`bptt` over time are cut, from T down to 0: all.

    Parameters
    ----------
    T, B : int
        No effect of B here.
    lengths : ndarray or None
        No effect here.

    Returns
    -------
    list of int
    """
    return list(range(T, -1, -1))


def large_empty(shape: tuple[int, ...], dtype: Any) -> Array:
    """Return an array of any numbers."""
    return np.empty(shape, dtype)


def release_memory() -> None:
    """Do nothing: no memory of earlier calls is kept."""


def terms(cell: str, saved: Saved, dy: Array) -> dict[str, Array]:
    """Every term of the double sum over loss step i and injection step k.

    Parameters
    ----------
    cell : str
        One of ``CELLS``.
    saved : Saved
        From :func:`unroll` without lengths, resets and reversal.
    dy : ndarray
        (T, B, R), dy[i] the gradient of the loss of step i with respect to y[i].

    Returns
    -------
    dict
        Of each parameter that there is, under its name in ``Weights``, an array (T, T, ...): entry [i, k] is
        the term (i, k), counted from 0, zero for k > i. They add up to the gradient.

    Raises
    ------
    ValueError
        If there were lengths, resets or a reversal.

    Notes
    -----
    Source: docs/gradients.md, "Expansion".
    """
    for name in ("lengths", "reset"):
        if getattr(saved, name) is not None:
            raise ValueError(f"{name}: expected None for the terms of the double sum, got an array")
    if saved.reverse:
        raise ValueError("reverse: expected False for the terms of the double sum, got True")
    T = len(saved.y)
    weights = conversion.to_lists(cell, saved.weights)
    expanded = terms_lists(cell, as_run(cell, saved), weights, dy.tolist())
    result: dict[str, Array] = {}
    for name, parameter in saved.weights._asdict().items():
        if parameter is None:
            continue
        array = np.zeros((T, T, *parameter.shape), dtype=parameter.dtype)
        for term in expanded:
            gradient = getattr(term.gradients, name)
            array[term.i - 1, term.k - 1] = to_array(gradient, parameter.shape, parameter.dtype)
        result[name] = array
    return result
