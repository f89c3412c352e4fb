"""Arrays in, arrays out: readout and softmax cross entropy with the interface of the compiled kernels.

``threads`` is accepted and has no effect.
"""

from __future__ import annotations

from ..arrays import Array, Tokens
from .affine import affine as affine_lists
from .affine import affine_backward as affine_backward_lists
from .conversion import to_array
from .losses import softmax_cross_entropy as softmax_cross_entropy_lists


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
    return to_array(y, (x.shape[0], weight.shape[0]), x.dtype)


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
        to_array(dx, x.shape, x.dtype),
        to_array(dweight, weight.shape, x.dtype),
        to_array(dbias, (weight.shape[0],), x.dtype),
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
    return loss, count, to_array(dlogits, logits.shape, logits.dtype)
