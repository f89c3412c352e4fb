"""Arrays in, arrays out: the interface of the compiled kernels, over the loops in plain floats.

Conversion between arrays and nested lists happens here and nowhere else. The loops compute in Python floats,
which are float64; results are cast to the dtype of what came in. ``threads`` is accepted and has no effect.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..arrays import Array, Tokens, Weights
from .affine import affine as affine_lists
from .affine import affine_backward as affine_backward_lists
from .expansion import terms as terms_lists
from .losses import softmax_cross_entropy as softmax_cross_entropy_lists
from .unroll import Parameters
from .unroll import bptt as bptt_lists
from .unroll import unroll as unroll_lists


class Saved(NamedTuple):
    """What a forward pass keeps for the backward pass."""

    x: Array | Tokens  # (T, B, I) or (T, B), the caller's array
    state: tuple[Array]  # (h_0,), (B, H), a copy
    y: Array  # (T, B, H), the array that unroll returned
    weights: Weights  # a copy


def _array(nested: Any, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """Nested lists of floats as an array; too large for float32 becomes inf, as in float32 arithmetic."""
    with np.errstate(over="ignore"):
        return np.array(nested, dtype=np.float64).reshape(shape).astype(dtype)


def _lists(weights: Weights) -> Parameters:
    """Weights as nested lists."""
    return Parameters(
        weights.weight_ih.tolist(),
        weights.weight_hh.tolist(),
        None if weights.bias_ih is None else weights.bias_ih.tolist(),
        None if weights.bias_hh is None else weights.bias_hh.tolist(),
    )


def _copy(weights: Weights) -> Weights:
    """Weights that a later edit of the caller's arrays does not reach."""
    return Weights(
        weights.weight_ih.copy(),
        weights.weight_hh.copy(),
        None if weights.bias_ih is None else weights.bias_ih.copy(),
        None if weights.bias_hh is None else weights.bias_hh.copy(),
    )


class Packed(NamedTuple):
    """Weights as nested lists."""

    cell: str
    tokens: bool
    dtype: np.dtype[Any]
    parameters: Parameters


def pack(cell: str, weights: Weights, *, tokens: bool = False) -> Packed:
    """Convert the weights once, for calls of :func:`unroll` with ``keep=False`` or for a :class:`Stepper`.

    Parameters
    ----------
    cell : {"tanh", "relu", "sigmoid", "identity"}
    weights : Weights
    tokens : bool
        For token ids instead of floats.

    Returns
    -------
    Packed
        A snapshot.
    """
    return Packed(cell, tokens, weights.weight_hh.dtype, _lists(weights))


def _packed_for(cell: str, weights: Weights | Packed, tokens: bool, dtype: np.dtype[Any]) -> Parameters:
    if not isinstance(weights, Packed):
        return _lists(weights)
    if (weights.cell, weights.tokens, weights.dtype) != (cell, tokens, dtype):
        raise ValueError("weights: expected ones packed for this cell, dtype and kind of x, got others")
    return weights.parameters


def unroll(
    cell: str,
    x: Array | Tokens,
    state: tuple[Array],
    weights: Weights | Packed,
    *,
    keep: bool = True,
    threads: int = 1,
) -> tuple[Array, tuple[Array], Saved | None]:
    """Forward pass of one direction of one layer.

    Parameters
    ----------
    cell : {"tanh", "relu", "sigmoid", "identity"}
    x : ndarray
        (T, B, I) of the weights' dtype, or (T, B) int64 token ids in [0, I), which stand for one-hot rows.
    state : (ndarray,)
        (h_0,), h_0 (B, H).
    weights : Weights or Packed
        From :func:`pack` only without `keep`.
    keep : bool
        Whether to return what :func:`bptt` needs.
    threads : int
        No effect here.

    Returns
    -------
    y : ndarray
        (T, B, H).
    final_state : (ndarray,)
        (h_n,), h_n (B, H); a copy of h_0 when T is 0.
    saved : Saved or None
        Holds x and y themselves and copies of h_0 and of the weights.

    Raises
    ------
    ValueError
        For another cell, or weights packed for something else.
    TypeError
        For packed weights with `keep`.

    Notes
    -----
    Source: docs/equations.md, "Forward".
    """
    if keep and isinstance(weights, Packed):
        raise TypeError(
            "weights: expected Weights for keep=True, got packed ones, which are for the forward pass only"
        )
    (h_0,) = state
    parameters = _packed_for(cell, weights, x.dtype.kind == "i", h_0.dtype)
    y_lists = unroll_lists(cell, x.tolist(), h_0.tolist(), parameters)
    y = _array(y_lists, (x.shape[0], *h_0.shape), h_0.dtype)
    h_n = (y[-1] if len(y) else h_0).copy()
    if isinstance(weights, Packed) or not keep:
        return y, (h_n,), None
    return y, (h_n,), Saved(x, (h_0.copy(),), y, _copy(weights))


def short_call(weights: Packed, x: Any, h_0: Any) -> None:
    """No call is a short one here: use :func:`unroll`."""


class Stepper:
    """The state of B sequences, carried on one time step at a time.

    The state is kept in floats and not rounded to float32 from step to step, just as in :func:`unroll`.

    Parameters
    ----------
    cell : {"tanh", "relu", "sigmoid", "identity"}
    weights : Weights or Packed
    state : (ndarray,)
        (h_0,), h_0 (B, H); copied.
    tokens : bool
        Whether steps take token ids.
    """

    def __init__(
        self, cell: str, weights: Weights | Packed, state: tuple[Array], *, tokens: bool = False
    ) -> None:
        (h_0,) = state
        self._cell, self._tokens = cell, tokens
        self._parameters = _packed_for(cell, weights, tokens, h_0.dtype)
        self._shape, self._dtype = h_0.shape, h_0.dtype
        x_dtype = np.dtype(np.int64) if tokens else h_0.dtype
        self._x_form = h_0.shape[:1] if tokens else (len(h_0), len(self._parameters.weight_ih[0])), x_dtype
        self._h = h_0.tolist()

    @property
    def state(self) -> tuple[Array]:
        """(h,), h (B, H), a copy."""
        return (_array(self._h, self._shape, self._dtype),)

    @state.setter
    def state(self, state: tuple[Array]) -> None:
        self._h = state[0].tolist()

    def step(self, x: Any, out: Any = None) -> Array | None:
        """One time step: h_t = f(x_t W_ih^T + b_ih + h_{t-1} W_hh^T + b_hh).

        Parameters
        ----------
        x : ndarray
            (B, I), or (B,) int64 token ids in [0, I). `out` is not taken.

        Returns
        -------
        ndarray or None
            (B, H). None if an argument has another form; nothing was done then.
        """
        if out is not None or type(x) is not np.ndarray or (x.shape, x.dtype) != self._x_form:
            return None
        if self._tokens and not ((x >= 0) & (x < len(self._parameters.weight_ih[0]))).all():
            return None
        (self._h,) = unroll_lists(self._cell, [x.tolist()], self._h, self._parameters)
        return _array(self._h, self._shape, self._dtype)


def bptt(
    cell: str,
    saved: Saved,
    dy: Array | None,
    dfinal_state: tuple[Array] | None,
    *,
    depth: int | None = None,
    threads: int = 1,
) -> tuple[Array | None, tuple[Array], Weights]:
    """Backward pass of one direction of one layer.

    Parameters
    ----------
    cell : {"tanh", "relu", "sigmoid", "identity"}
    saved : Saved
        From :func:`unroll`.
    dy : ndarray or None
        (T, B, H) gradient of the loss with respect to y; None for zeros.
    dfinal_state : (ndarray,) or None
        (dh_n,), (B, H), acting on the state of step T; None for zeros.
    depth : int or None
        None for the whole gradient. K >= 1 keeps of the loss of step i the steps k with i - k < K, and h_0 if
        i < K.
    threads : int
        No effect here.

    Returns
    -------
    dx : ndarray or None
        (T, B, I), or None when x was token ids.
    dstate : (ndarray,)
        (dh_0,), (B, H).
    dweights : Weights
        Gradients in the parameters' shapes; None where a bias is None.

    Notes
    -----
    The whole gradient is T backward steps; a truncated one is T min(K, T), since each loss step forgets at
    its own k and so has to be walked back by itself. Source: docs/equations.md, "Backward", "Truncation".
    """
    (h_0,) = saved.state
    dtype = h_0.dtype
    dx, dh_0, dweights = bptt_lists(
        cell,
        saved.x.tolist(),
        h_0.tolist(),
        saved.y.tolist(),
        _lists(saved.weights),
        None if dy is None else dy.tolist(),
        None if dfinal_state is None else dfinal_state[0].tolist(),
        depth,
    )
    return (
        # Without any row, lists cannot tell token ids from floats; the dtype can.
        _array(dx, saved.x.shape, dtype) if np.issubdtype(saved.x.dtype, np.floating) else None,
        (_array(dh_0, h_0.shape, dtype),),
        Weights(
            _array(dweights.weight_ih, saved.weights.weight_ih.shape, dtype),
            _array(dweights.weight_hh, saved.weights.weight_hh.shape, dtype),
            None if dweights.bias_ih is None else _array(dweights.bias_ih, (h_0.shape[1],), dtype),
            None if dweights.bias_hh is None else _array(dweights.bias_hh, (h_0.shape[1],), dtype),
        ),
    )


def affine(x: Array, weight: Array, bias: Array | None, *, threads: int = 1) -> Array:
    """Readout: y = x W^T + b.

    Parameters
    ----------
    x : ndarray
        (N, K).
    weight : ndarray
        (O, K).
    bias : ndarray or None
        (O,).
    threads : int
        No effect here.

    Returns
    -------
    ndarray
        (N, O). Source: docs/equations.md, "Forward".
    """
    y = affine_lists(x.tolist(), weight.tolist(), None if bias is None else bias.tolist())
    return _array(y, (x.shape[0], weight.shape[0]), x.dtype)


def affine_backward(x: Array, weight: Array, dy: Array, *, threads: int = 1) -> tuple[Array, Array, Array]:
    """Gradients of the readout.

    Parameters
    ----------
    x : ndarray
        (N, K), what :func:`affine` was given.
    weight : ndarray
        (O, K).
    dy : ndarray
        (N, O), gradient of the loss with respect to the readout's output.
    threads : int
        No effect here.

    Returns
    -------
    dx, dweight, dbias : ndarray
        (N, K), (O, K), (O,). Source: docs/equations.md, "Backward".
    """
    dx, dweight, dbias = affine_backward_lists(x.tolist(), weight.tolist(), dy.tolist())
    return (
        _array(dx, x.shape, x.dtype),
        _array(dweight, weight.shape, x.dtype),
        _array(dbias, (weight.shape[0],), x.dtype),
    )


def softmax_cross_entropy(
    logits: Array, targets: Tokens, *, ignore_index: int | None = None, threads: int = 1
) -> tuple[float, int, Array]:
    """Sum of -log softmax(logits)[target].

    Parameters
    ----------
    logits : ndarray
        (N, O).
    targets : ndarray
        (N,) int64 class ids in [0, O), or ``ignore_index``.
    ignore_index : int or None
        Rows with this target count for nothing.
    threads : int
        Has no effect.

    Returns
    -------
    loss_sum : float
        In nats.
    count : int
        Rows not ignored.
    dlogits : ndarray
        (N, O), softmax - onehot; zero in ignored rows. Source: docs/equations.md, "Losses".
    """
    loss, count, dlogits = softmax_cross_entropy_lists(logits.tolist(), targets.tolist(), ignore_index)
    return loss, count, _array(dlogits, logits.shape, logits.dtype)


def terms(cell: str, saved: Saved, dy: Array) -> dict[str, Array]:
    """Every term of the double sum over loss step i and injection step k.

    Parameters
    ----------
    cell : {"tanh", "relu", "sigmoid", "identity"}
    saved : Saved
        From :func:`unroll`.
    dy : ndarray
        (T, B, H), dy[i] the gradient of the loss of step i with respect to y[i].

    Returns
    -------
    dict
        "weight_ih" (T, T, H, I), "weight_hh" (T, T, H, H) and, with biases, "bias_ih", "bias_hh" (T, T, H):
        entry [i, k] is the term (i, k), counted from 0, zero for k > i. They add up to the gradient.

    Notes
    -----
    Source: docs/equations.md, "Expansion".
    """
    weights = saved.weights
    (h_0,) = saved.state
    T = len(saved.y)
    expanded = terms_lists(
        cell,
        saved.x.tolist(),
        h_0.tolist(),
        saved.y.tolist(),
        weights.weight_ih.tolist(),
        weights.weight_hh.tolist(),
        dy.tolist(),
    )
    result: dict[str, Array] = {}
    for name, parameter in weights._asdict().items():
        if parameter is None:
            continue
        array = np.zeros((T, T, *parameter.shape), dtype=parameter.dtype)
        for term in expanded:
            gradient = term.bias if name.startswith("bias") else getattr(term, name)
            array[term.i - 1, term.k - 1] = _array(gradient, parameter.shape, parameter.dtype)
        result[name] = array
    return result
