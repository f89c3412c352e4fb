"""The LSTM layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bptt import checks
from bptt.arrays import Array
from bptt.frozen import FrozenLSTM
from bptt.layers import Layer
from bptt.structure import GATES


class LSTM(Layer[tuple[npt.ArrayLike | None, npt.ArrayLike | None], tuple[Array, Array]]):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997, with the forget gate of Gers et al., 2000).

    i, f and o are sigmoids, g is a tanh, each of x_t W_ih^T + b_ih + h_{t-1} W_hh^T + b_hh with its own rows
    of the weights;  c_t = f c_{t-1} + i g,  h_t = o tanh(c_t).

    Parameters
    ----------
    input_size : int
        I, the number of features of x; for token input, the number of different tokens.
    hidden_size : int
        H, the number of cells.
    num_layers : int
        L, each but the first fed with y of the one below.
    bias : bool
        Whether there are b_ih and b_hh.
    batch_first : bool
        Whether batched x and y are (B, T, ...) rather than (T, B, ...). States have no time axis and are the
        same either way.
    dropout, bidirectional, recurrent_dropout, layer_norm
        As in `RNN`; `layer_norm` normalises over all 4*H entries of the four gates.
    proj_size : int
        P < H, the size of h_t = (o tanh(c_t)) W_hr^T (Sak, Senior and Beaufays, 2014); 0 for none. R, the
        size of h, is P then, else H.
    peepholes : bool
        Whether i and f also see w_i c_{t-1} and w_f c_{t-1}, and o sees w_o c_t, each cell its own (Gers,
        Schraudolph and Schmidhuber, 2002).
    forget_bias : float or None
        First value of the forget gate's bias: bias_ih is this there and bias_hh 0. 1 lets a new layer
        remember (Jozefowicz, Zaremba and Sutskever, 2015). None draws them as all others.
    zoneout : float, or a pair of them
        As in `RNN`, of both h and c; a pair is (of h, of c). h_t comes of c_t before its zoneout.
    dtype, seed, backend
        As in `RNN`.
    init : {"uniform", "orthogonal"}
        ``"uniform"``: every parameter from U(-1/sqrt(H), 1/sqrt(H)), as PyTorch does. ``"orthogonal"``: the
        same but for every gate's (H, R) block of weight_hh, whose columns are orthonormal.

    Attributes
    ----------
    parameters : dict
        ``weight_ih_l0`` (4*H, I), ``weight_hh_l0`` (4*H, R), ``bias_ih_l0`` (4*H,), ``bias_hh_l0`` (4*H,),
        with a projection ``weight_hr_l0`` (P, H): PyTorch's names and layout, in rows the gates i, f, g, o.
        With `peepholes` also ``weight_ph_l0`` (3*H,), w_i, w_f and w_o; with `layer_norm` the gains
        ``weight_ln_ih_l0`` and ``weight_ln_hh_l0`` (4*H,). See `RNN` for directions and further layers.
    output_size : int
        Size of the last axis of y.

    Raises
    ------
    TypeError, ValueError
        If an option is not one of those above.

    Notes
    -----
    The equations are in docs/equations.md, section "LSTM". States are pairs, h (L*D, B, R) and c (L*D, B, H):
    ``y, (h_n, c_n) = lstm(x, (h_0, c_0))``.

    Examples
    --------
    >>> import numpy as np
    >>> from bptt import LSTM
    >>> lstm = LSTM(3, 4, num_layers=2, seed=0)
    >>> x = np.ones((5, 2, 3), np.float32)  # (T, B, I)
    >>> y, (h_n, c_n), tape = lstm.record(x)
    >>> y.shape, h_n.shape, c_n.shape
    ((5, 2, 4), (2, 2, 4), (2, 2, 4))
    >>> tape.gates[1][0]["f"].shape
    (5, 2, 4)
    >>> tape.backward(np.ones_like(y)).parameters["weight_hh_l1"].shape
    (16, 4)
    """

    _options = (*Layer._common, "proj_size", "peepholes", "forget_bias")
    _frozen = FrozenLSTM
    __slots__ = ("forget_bias", "peepholes", "proj_size")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        peepholes: bool = False,
        forget_bias: float | None = None,
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, float] = 0.0,
        layer_norm: bool = False,
        dtype: npt.DTypeLike = np.float32,
        seed: int | None = None,
        init: str = "uniform",
        backend: str = "kernels",
    ) -> None:
        H = checks.integer("hidden_size", hidden_size)
        self.proj_size = checks.integer("proj_size", proj_size, 0)
        if self.proj_size >= H:
            raise ValueError(f"proj_size: expected less than the hidden_size, {H}, got {self.proj_size}")
        self.peepholes = checks.flag("peepholes", peepholes)
        self.forget_bias = None if forget_bias is None else checks.number("forget_bias", forget_bias)
        if self.forget_bias is not None and not checks.flag("bias", bias):
            raise ValueError(f"forget_bias: expected None with bias=False, got {self.forget_bias}")
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
            forget_bias=self.forget_bias,
        )

    def _cell(self) -> dict[str, Any]:
        own = {"proj_size": self.proj_size, "peepholes": self.peepholes}
        return {"cell": "lstm", "gates": GATES["lstm"], **own}

    @staticmethod
    def _checked_zoneout(zoneout: Any) -> float | tuple[float, float]:
        if not isinstance(zoneout, tuple):
            return checks.rate("zoneout", zoneout)
        if len(zoneout) != 2:
            raise ValueError(f"zoneout: expected a number or a pair of them, of h and c, got {zoneout}")
        return checks.rate("zoneout of h", zoneout[0]), checks.rate("zoneout of c", zoneout[1])
