"""Array types that the whole package shares, and the parameters of one direction of one layer."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

#: A float32 or float64 array; which of the two is a matter of the layer that holds it.
Array = npt.NDArray[np.floating[Any]]
#: Token ids.
Tokens = npt.NDArray[np.int64]


class Weights(NamedTuple):
    """Parameters of one direction of one layer, in PyTorch's layout: row = to, column = from.

    All arrays are C-contiguous and of one floating dtype. G is the number of gates (1 for an Elman cell).
    """

    weight_ih: Array  # (G*H, I)
    weight_hh: Array  # (G*H, H)
    bias_ih: Array | None  # (G*H,)
    bias_hh: Array | None  # (G*H,)
