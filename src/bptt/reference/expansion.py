"""The chain rule written out: the double sum over loss step i and injection step k, term by term.

Give every time step k a copy of the parameters of its own. The term (i, k) is the gradient of the loss of
step i with respect to copy k; the gradient of the shared parameters is the sum over all i and all k <= i.
Nothing here shares work between loss steps, which makes it slow (T (T + 1) / 2 backward steps) and an
independent check of :func:`bptt.reference.bptt`. Source: docs/equations.md, "Expansion" and "Truncation".
"""

from __future__ import annotations

from typing import NamedTuple

from .affine import Matrix, Row, ascending_sum, dot, product, transpose
from .cells import Input, through
from .unroll import Inputs, Sequence


class Term(NamedTuple):
    """One term of the double sum, for each parameter."""

    i: int  # loss step, from 1
    k: int  # injection step, from 1
    weight_ih: Matrix  # (H, I)
    weight_hh: Matrix  # (H, H)
    bias: Row  # (H,), of either bias


def gammas(cell: str, y: Sequence, weight_hh: Matrix, dy_i: Matrix, i: int) -> list[Matrix]:
    """Gamma(i, k), the gradient of the loss of step i with respect to the pre-activation of step k.

    Parameters
    ----------
    cell : {"tanh", "relu", "sigmoid", "identity"}
    y : Sequence
        (T, B, H) states.
    weight_hh : Matrix
        (H, H).
    dy_i : Matrix
        (B, H) gradient of the loss of step i with respect to h_i, earlier states held fixed.
    i : int
        Loss step, from 1.

    Returns
    -------
    list of Matrix
        Gamma(i, i), Gamma(i, i - 1), .. Gamma(i, 1): (B, H) each, k descending as the brackets are written.
    """
    columns = transpose(weight_hh)
    chain: list[Matrix] = []
    # Gamma(i,i) = dL_i/dh_i * f'(z_i),  Gamma(i,k) = (Gamma(i,k+1) W_hh) * f'(z_k)
    outer = dy_i
    for k in range(i, 0, -1):
        gamma = [
            [through(cell, d, h) for d, h in zip(d_b, h_b, strict=True)]
            for d_b, h_b in zip(outer, y[k - 1], strict=True)
        ]
        chain.append(gamma)
        outer = [product(columns, gamma_b) for gamma_b in gamma]
    return chain


def _input_sum(x_k: list[Input], gamma_j: Row, m: int) -> float:
    """Sum over b of gamma_j[b] x_k[b][m]; a token id stands for its one-hot row, whose zeros are left out."""
    return ascending_sum(
        gamma_bj * (1.0 if isinstance(x_b, int) else x_b[m])
        for gamma_bj, x_b in zip(gamma_j, x_k, strict=True)
        if not isinstance(x_b, int) or x_b == m
    )


def term(x_k: list[Input], h_previous: Matrix, gamma: Matrix, sizes: tuple[int, int], i: int, k: int) -> Term:
    """Return the term (i, k): Gamma(i, k) times the immediate partial derivatives of z_k.

    Parameters
    ----------
    x_k : list of Input
        (B, I) floats or (B,) token ids: input of step k.
    h_previous : Matrix
        (B, H) state h_{k-1}.
    gamma : Matrix
        (B, H) Gamma(i, k).
    sizes : (int, int)
        (I, H).
    i, k : int
        Loss step and injection step, from 1.

    Returns
    -------
    Term
    """
    I, H = sizes
    by_unit = [[gamma_b[j] for gamma_b in gamma] for j in range(H)]  # [j][b]
    state_by_unit = [[h_b[p] for h_b in h_previous] for p in range(H)]  # [p][b]
    return Term(
        i,
        k,
        # term_W_ih(i,k)[j][m] = sum over b of Gamma(i,k)[b][j] x_k[b][m]
        [[_input_sum(x_k, gamma_j, m) for m in range(I)] for gamma_j in by_unit],
        # term_W_hh(i,k)[j][p] = sum over b of Gamma(i,k)[b][j] h_{k-1}[b][p]
        [[dot(gamma_j, h_p) for h_p in state_by_unit] for gamma_j in by_unit],
        # term_b(i,k)[j] = sum over b of Gamma(i,k)[b][j]
        [ascending_sum(gamma_j) for gamma_j in by_unit],
    )


def terms(
    cell: str, x: Inputs, h_0: Matrix, y: Sequence, weight_ih: Matrix, weight_hh: Matrix, dy: Sequence
) -> list[Term]:
    """All terms, i ascending and k descending from i.

    Parameters
    ----------
    cell : {"tanh", "relu", "sigmoid", "identity"}
    x : Inputs
        (T, B, I) floats or (T, B) token ids.
    h_0 : Matrix
        (B, H).
    y : Sequence
        (T, B, H) states.
    weight_ih, weight_hh : Matrix
        (H, I) and (H, H).
    dy : Sequence
        (T, B, H), dy[i - 1] the gradient of the loss of step i with respect to h_i; zero without such a loss.

    Returns
    -------
    list of Term
        T (T + 1) / 2 of them.
    """
    sizes = len(weight_ih[0]), len(weight_hh)
    states = [h_0, *y]  # states[t] is h_t
    result = []
    for i in range(1, len(y) + 1):
        for distance, gamma in enumerate(gammas(cell, y, weight_hh, dy[i - 1], i)):
            k = i - distance
            result.append(term(x[k - 1], states[k - 1], gamma, sizes, i, k))
    return result


def total(
    all_terms: list[Term], sizes: tuple[int, int], depth: int | None = None
) -> tuple[Matrix, Matrix, Row]:
    """Sum of the terms, or of those with i - k < depth.

    Parameters
    ----------
    all_terms : list of Term
    sizes : (int, int)
        (I, H).
    depth : int or None
        None for all, K >= 1 to truncate.

    Returns
    -------
    weight_ih, weight_hh : Matrix
        (H, I) and (H, H).
    bias : Row
        (H,).
    """
    I, H = sizes
    # dL/dtheta |_K = sum over i, sum over k with 0 <= i - k < K, of term(i,k)
    kept = [t for t in all_terms if depth is None or t.i - t.k < depth]
    return (
        [[ascending_sum(t.weight_ih[j][m] for t in kept) for m in range(I)] for j in range(H)],
        [[ascending_sum(t.weight_hh[j][p] for t in kept) for p in range(H)] for j in range(H)],
        [ascending_sum(t.bias[j] for t in kept) for j in range(H)],
    )
