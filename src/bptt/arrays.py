"""Array types that the whole package shares; the parameters and the noise of one direction of one layer."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

#: A float32 or float64 array; which of the two is a matter of the layer that holds it.
Array = npt.NDArray[np.floating[Any]]
#: Token ids.
Tokens = npt.NDArray[np.int64]


#: True and False, or 1 and 0.
Mask = npt.NDArray[np.bool_]


class Weights(NamedTuple):
    """Parameters of one direction of one layer, in PyTorch's layout: row = to, column = from.

    All arrays are C-contiguous and of one floating dtype. G is the number of gates: 1 for an Elman cell,
    4 for an LSTM (i, f, g, o), 3 for a GRU (r, z, n). R is the size of the state h: H, or P with a
    projection.
    """

    weight_ih: Array  # (G*H, I)
    weight_hh: Array  # (G*H, R)
    bias_ih: Array | None  # (G*H,)
    bias_hh: Array | None  # (G*H,)
    weight_hr: Array | None = None  # (P, H), the projection of an LSTM
    weight_ph: Array | None = None  # (3*H,), the peepholes of an LSTM, of i, f and o
    weight_ln_ih: Array | None = None  # (G*H,), gain of the normalised W_ih x; both gains or neither
    weight_ln_hh: Array | None = None  # (G*H,), gain of the normalised W_hh h


class Noise(NamedTuple):
    """Recurrent dropout and zoneout of one direction of one layer."""

    dropout: Array | None = None  # (B, R), what W_hh sees h_{t-1} multiplied by: 0 or 1 / (1 - p)
    zoneout_h: float = 0.0  # the share of h that stays as it was
    zoneout_c: float = 0.0
    kept_h: Mask | None = None  # (T, B, R), where h_t is h_{t-1}; None: h_t is the mean over all such masks
    kept_c: Mask | None = None  # (T, B, H)
