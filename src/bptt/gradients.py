"""The gradients of a recorded pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bptt.arrays import Array


class Gradients:
    """Gradients of a loss, as `Tape.backward` gives them.

    Attributes
    ----------
    x : ndarray or None
        dL/dx in the layout of x; None if x was token ids.
    h_0 : ndarray
        dL/dh_0 (L*D, B, R), or (L*D, R) unbatched.
    c_0 : ndarray or None
        dL/dc_0 (L*D, B, H) or (L*D, H) of an LSTM; None of another layer.
    parameters : dict
        dL/dparameter under the names of the layer's parameters, summed over time and batch.
    """

    __slots__ = ("c_0", "h_0", "parameters", "x")

    def __init__(
        self, x: Array | None, h_0: Array, parameters: dict[str, Array], c_0: Array | None = None
    ) -> None:
        self.x = x
        self.h_0 = h_0
        self.c_0 = c_0
        self.parameters = parameters

    def __repr__(self) -> str:
        x = None if self.x is None else self.x.shape
        c_0 = "" if self.c_0 is None else f"c_0={self.c_0.shape}, "
        parameters = ", ".join(f"{name}: {value.shape}" for name, value in self.parameters.items())
        return f"{type(self).__name__}(x={x}, h_0={self.h_0.shape}, {c_0}parameters={{{parameters}}})"
