"""The GRU layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bptt import checks
from bptt.arrays import Array
from bptt.frozen import FrozenGRU
from bptt.layers import Layer
from bptt.structure import GATES


class GRU(Layer[npt.ArrayLike, Array]):
    """Gated recurrent unit (Cho et al., 2014), h_t = (1 - z) n + z h_{t-1}.

    r and z are sigmoids of x_t W_ih^T + b_ih + h_{t-1} W_hh^T + b_hh with their own rows of the weights;
    n = tanh(x_t W_in^T + b_in + r (h_{t-1} W_hn^T + b_hn)).

    Parameters
    ----------
    input_size : int
        I, the number of features of x; for token input, the number of different tokens.
    hidden_size : int
        H, the number of hidden units.
    num_layers : int
        L, each but the first fed with y of the one below.
    bias : bool
        Whether there are b_ih and b_hh.
    batch_first : bool
        Whether batched x and y are (B, T, ...) rather than (T, B, ...). States are (L*D, B, H) either way.
    reset_after : bool
        Whether r acts after the product with W_hn, as above and in PyTorch; False: before it,
        n = tanh(x_t W_in^T + b_in + (r h_{t-1}) W_hn^T + b_hn), as in the paper, in ONNX with
        linear_before_reset = 0 and in older Keras models.
    dropout, bidirectional, recurrent_dropout, zoneout, dtype, seed, backend
        As in `RNN`.
    layer_norm : bool
        As in `RNN`, over all 3*H entries of the gates; not with ``reset_after=False``, where the recurrent
        product is not one.
    init : {"uniform", "orthogonal"}
        ``"uniform"``: every parameter from U(-1/sqrt(H), 1/sqrt(H)), as PyTorch does. ``"orthogonal"``: the
        same but for every gate's (H, H) block of weight_hh, a random orthogonal matrix.

    Attributes
    ----------
    parameters : dict
        ``weight_ih_l0`` (3*H, I), ``weight_hh_l0`` (3*H, H), ``bias_ih_l0`` (3*H,), ``bias_hh_l0`` (3*H,):
        PyTorch's names and layout, in rows the gates r, z, n. With `layer_norm` also the gains
        ``weight_ln_ih_l0`` and ``weight_ln_hh_l0`` (3*H,). See `RNN` for directions and further layers.
    output_size : int
        Size of the last axis of y.

    Raises
    ------
    TypeError, ValueError
        If an option is not one of those above.

    Notes
    -----
    The equations are in docs/equations.md, section "GRU".

    Examples
    --------
    >>> import numpy as np
    >>> from bptt import GRU
    >>> gru = GRU(3, 4, bidirectional=True, seed=0)
    >>> x = np.ones((5, 2, 3), np.float32)  # (T, B, I)
    >>> y, h_n, tape = gru.record(x, lengths=[5, 2])
    >>> y.shape, h_n.shape
    ((5, 2, 8), (2, 2, 4))
    >>> tape.backward(np.ones_like(y)).parameters["weight_hh_l0_reverse"].shape
    (12, 4)
    """

    _options = (*Layer._common, "reset_after")
    _frozen = FrozenGRU
    __slots__ = ("reset_after",)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        reset_after: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
        recurrent_dropout: float = 0.0,
        zoneout: float = 0.0,
        layer_norm: bool = False,
        dtype: npt.DTypeLike = np.float32,
        seed: int | None = None,
        init: str = "uniform",
        backend: str = "kernels",
    ) -> None:
        self.reset_after = checks.flag("reset_after", reset_after)
        if not self.reset_after and checks.flag("layer_norm", layer_norm):
            raise ValueError("layer_norm: expected False with reset_after=False, got True")
        super().__init__(
            input_size,
            hidden_size,
            num_layers=num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            recurrent_dropout=recurrent_dropout,
            zoneout=zoneout,
            layer_norm=layer_norm,
            dtype=dtype,
            seed=seed,
            init=init,
            backend=backend,
        )

    def _cell(self) -> dict[str, Any]:
        return {"cell": "gru" if self.reset_after else "gru_reset_before", "gates": GATES["gru"]}
