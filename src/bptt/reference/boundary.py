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


def unroll(
    cell: str,
    x: Array | Tokens,
    state: tuple[Array, ...],
    weights: Weights | Packed,
    *,
    keep: bool = True,
    threads: int = 1,
    lengths: Tokens | None = None,
    reset: Mask | None = None,
    reverse: bool = False,
    noise: arrays.Noise | None = None,
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
        From ``pack`` only without `keep`.
    keep : bool
        Whether to return what :func:`bptt` needs.
    threads : int
        No effect here.
    lengths : ndarray or None
        (B,) int64 in [0, T], each row's number of steps; None for T.
    reset : ndarray or None
        (T, B) bool, True where a row starts a step from its initial state.
    reverse : bool
        Whether each row goes through its steps from the last to the first.
    noise : Noise or None
        With `keep`, masks wherever a rate is not 0.

    Returns
    -------
    y : ndarray
        (T, B, R), zero past a row's end.
    final_state : tuple of ndarray
        The state after each row's last step, as `state`; a copy of its initial state for a row without steps.
    saved : Saved or None
        Holds x and y themselves and copies of the rest.

    Raises
    ------
    ValueError
        For another cell, weights that it does not have or that are packed for something else, rates of
        zoneout without masks with `keep`.
    TypeError
        For packed weights with `keep`.

    Notes
    -----
    Source: docs/equations.md, "Forward", "LSTM", "GRU", "Lengths", "Resets", "Dropout and zoneout".
    """
    if keep and isinstance(weights, Packed):
        raise TypeError(
            "weights: expected Weights for keep=True, got packed ones, which are for the forward pass only"
        )
    if keep and noise is not None:
        for name in ("h", "c"):
            if getattr(noise, f"zoneout_{name}") != 0.0 and getattr(noise, f"kept_{name}") is None:
                raise ValueError(f"noise: expected a mask kept_{name} for keep=True, got a rate alone")
    dtype = state[0].dtype
    run, final = unroll_lists(
        cell,
        x.tolist(),
        to_states(state),
        packed_for(cell, weights, x.dtype.kind == "i", dtype),
        conversion.to_course(lengths, reset, reverse),
        conversion.to_noise(cell, noise),
    )
    y, *c = (
        to_array([[state[part] for state in row] for row in run.states], (len(x), *like.shape), dtype)
        for part, like in enumerate(state)
    )
    final_state = conversion.from_states(final, state)
    if isinstance(weights, Packed) or not keep:
        return y, final_state, None
    H = weights.weight_hh.shape[0] // max(1, len(GATES[cell]))
    saved = Saved(
        cell,
        x,
        tuple(array.copy() for array in state),
        y,
        conversion.copied(weights),
        c[0] if c else None,
        MappingProxyType(conversion.from_gates(cell, run.gates, (*x.shape[:2], H), dtype)),
        None if lengths is None else lengths.copy(),
        None if reset is None else reset.copy(),
        reverse,
        None if noise is None else conversion.copied(noise),
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
    )


def bptt(
    cell: str,
    saved: Saved,
    dy: Array | None,
    dfinal_state: tuple[Array | None, ...] | None,
    *,
    depth: int | None = None,
    threads: int = 1,
    squares: Array | None = None,
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

    Returns
    -------
    dx : ndarray or None
        (T, B, I), zero past a row's end; None when x was token ids.
    dstate : tuple of ndarray
        Gradients of the initial state, as `state` was given.
    dweights : Weights
        Gradients in the parameters' shapes; None where a parameter is None.

    Notes
    -----
    The whole gradient is T backward steps; a truncated one is T min(K, T), since each loss step forgets at
    its own k and so has to be walked back by itself. Source: docs/equations.md, "Backward", "Truncation".
    """
    dfinal = None
    if dfinal_state is not None and any(d is not None for d in dfinal_state):
        given = zip(dfinal_state, saved.state, strict=True)
        dfinal = to_states(tuple(np.zeros_like(like) if d is None else d for d, like in given))
    norms: Any = None if squares is None else squares.tolist()
    dx, dinitial, dweights = bptt_lists(
        cell,
        as_run(cell, saved),
        conversion.to_lists(cell, saved.weights),
        None if dy is None else dy.tolist(),
        dfinal,
        depth,
        norms,
    )
    if squares is not None:
        squares[...] = np.reshape(norms, squares.shape)
    # Without any row, lists cannot tell token ids from floats; the dtype can.
    dx_array = None
    if np.issubdtype(saved.x.dtype, np.floating):
        nothing = [0.0] * saved.x.shape[2]
        rows = [[nothing if dx_tb is None else dx_tb for dx_tb in dx_t] for dx_t in dx]
        dx_array = to_array(rows, saved.x.shape, saved.y.dtype)
    return (
        dx_array,
        conversion.from_states(dinitial, saved.state),
        conversion.to_weights(dweights, saved.weights),
    )


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
    Source: docs/equations.md, "Expansion".
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
