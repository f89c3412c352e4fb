"""First values of a recurrent layer's parameters: docs/equations.md, "Initial values"."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from bptt.structure import unit_names

if TYPE_CHECKING:
    import numpy.typing as npt

    from bptt.arrays import Array
    from bptt.structure import Structure


def first_values(
    structure: Structure,
    dtype: np.dtype[Any],
    seed: int | None,
    init: str,
    forget_bias: float | None = None,
) -> dict[str, Array]:
    """Draw the parameters of all layers and directions, in the order of `Structure.parameter_shapes`.

    Parameters
    ----------
    structure : Structure
    dtype : numpy.dtype
        Of the result. Values are drawn in float64 whatever it is, so that a seed gives the same layer in both
        precisions.
    seed : int or None
        None takes fresh entropy.
    init : {"uniform", "orthogonal", "identity"}
        ``"uniform"``: all from U(-1/sqrt(H), 1/sqrt(H)), as PyTorch does. ``"orthogonal"``: the same, but
        every gate's (H, R) block of weight_hh random with orthonormal columns (Saxe, McClelland and Ganguli,
        2014). ``"identity"``, of an Elman cell: weight_hh the identity, biases zero, weight_ih normal with
        standard deviation 0.001 (Le, Jaitly and Hinton, 2015). Gains of layer normalisation are 1.
    forget_bias : float or None
        If given, the forget gate's part of bias_ih is this and that of bias_hh is 0 (Jozefowicz, Zaremba and
        Sutskever, 2015).
    """
    rng = np.random.default_rng(seed)
    G, H, R, P = structure.gates, structure.hidden_size, structure.state_size, structure.proj_size
    bound = 1.0 / math.sqrt(H)
    shapes = structure.parameter_shapes()
    parameters: dict[str, Array] = {}
    for names in unit_names(structure.num_layers, structure.directions):
        I = shapes[names[0]][0][1]
        if init == "identity":
            weight_ih = rng.normal(0.0, 0.001, (G * H, I))
            weight_hh = np.eye(H)
            biases = np.zeros((2, H))
        else:
            weight_ih = rng.uniform(-bound, bound, (G * H, I))
            if init == "orthogonal":
                weight_hh = np.concatenate([_orthonormal(rng, H, R) for _ in range(G)])
            else:
                weight_hh = rng.uniform(-bound, bound, (G * H, R))
            # Drawn also where there is none, so that a seed gives the same weights with and without.
            biases = rng.uniform(-bound, bound, (2, G * H))
        if forget_bias is not None:
            biases[:, H : 2 * H] = [[forget_bias], [0.0]]
        weight_hr = rng.uniform(-bound, bound, (P, H))
        weight_ph = rng.uniform(-bound, bound, 3 * H) if structure.peepholes else None
        gain = np.ones(G * H)
        values = (weight_ih, weight_hh, *biases, weight_hr, weight_ph, gain, gain)
        parameters |= {
            name: np.array(value, dtype) for name, value in zip(names, values, strict=True) if name in shapes
        }
    return parameters


def _orthonormal(rng: np.random.Generator, rows: int, columns: int) -> npt.NDArray[np.float64]:
    """Return a random matrix with orthonormal columns, uniform over all of them.

    The QR decomposition of a normal matrix is, once the signs of R's diagonal are fixed (Mezzadri, 2007).
    """
    q, r = np.linalg.qr(rng.standard_normal((rows, columns)))
    return np.asarray(q * np.where(np.diagonal(r) < 0.0, -1.0, 1.0))
