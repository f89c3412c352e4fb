"""The readout: an affine map from hidden states to outputs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from bptt import checks
from bptt.parameters import Parametrised

if TYPE_CHECKING:
    import numpy.typing as npt

    from bptt.arrays import Array


class Linear(Parametrised):
    """Readout s = h W^T + b.

    Parameters
    ----------
    in_features : int
        H, the size of a row of h.
    out_features : int
        O, the size of a row of s.
    bias : bool
        Whether there is a b.
    dtype : float32 or float64
        Of the parameters and of everything that goes in and comes out.
    seed : int or None
        Of the first values, all from U(-1/sqrt(H), 1/sqrt(H)) as in PyTorch; None takes fresh entropy.
    backend : {"kernels", "reference"}
        Compiled kernels, or the plain-Python reference.

    Attributes
    ----------
    parameters : dict
        ``weight`` (O, H) and ``bias`` (O,): plain arrays. Edit them in place or assign entries: every call
        reads them afresh. Everything else is fixed when the readout is made.

    Raises
    ------
    TypeError, ValueError
        If an option is not one of those above.

    Notes
    -----
    The equations are in docs/equations.md, sections "Forward" and "Backward". Nothing is kept between a
    call and `backward`, so one readout may serve several threads.

    Examples
    --------
    >>> import numpy as np
    >>> from bptt import Linear
    >>> readout = Linear(4, 2, seed=0)
    >>> readout(np.ones((5, 3, 4), np.float32)).shape
    (5, 3, 2)
    """

    _options = ("in_features", "out_features", "bias", "dtype", "seed", "backend")
    __slots__ = (*_options, "_module")

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        dtype: npt.DTypeLike = np.float32,
        seed: int | None = None,
        backend: str = "kernels",
    ) -> None:
        self.in_features = checks.integer("in_features", in_features)
        self.out_features = checks.integer("out_features", out_features)
        self.bias = checks.flag("bias", bias)
        self.dtype = checks.float_dtype(dtype)
        self.seed = checks.seed(seed)
        self.backend = checks.choice("backend", backend, checks.BACKENDS)
        rng = np.random.default_rng(self.seed)
        bound = 1.0 / math.sqrt(self.in_features)
        # Drawn in float64 whatever the dtype, so that a seed gives the same readout in both precisions.
        weight = rng.uniform(-bound, bound, (self.out_features, self.in_features))
        self.parameters = {"weight": weight.astype(self.dtype)}
        if self.bias:
            self.parameters["bias"] = rng.uniform(-bound, bound, self.out_features).astype(self.dtype)
        self._prepare()

    def _prepare(self) -> None:
        """Derive what a call would otherwise work out each time."""
        shapes: dict[str, checks.Shape] = {
            "weight": ((self.out_features, self.in_features), "(out_features, in_features)")
        }
        if self.bias:
            shapes["bias"] = ((self.out_features,), "(out_features,)")
        self._shapes = shapes
        self._module = checks.resolve_backend(self.backend)
        self._seen = None

    def __call__(self, h: npt.ArrayLike, *, threads: int | None = None) -> Array:
        """Return s = h W^T + b.

        Parameters
        ----------
        h : array_like
            (..., H), of the readout's dtype; any number of leading axes, none included.
        threads : int, optional
            How many threads may share the work; default ``BPTT_NUM_THREADS`` or else all usable cores.

        Returns
        -------
        ndarray
            s, (..., O).

        Raises
        ------
        TypeError
            If h has another dtype.
        ValueError
            If the last axis is not H long.
        """
        a = self._rows(h)
        weight, bias = self._weights()
        # s = h W^T + b
        s = self._module.affine(
            a.reshape(-1, self.in_features), weight, bias, threads=checks.resolve_threads(threads)
        )
        return s.reshape(*a.shape[:-1], self.out_features)

    def backward(
        self, h: npt.ArrayLike, ds: npt.ArrayLike, *, threads: int | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """Return the gradients that follow from dL/ds.

        Parameters
        ----------
        h : array_like
            (..., H), what the readout was called with.
        ds : array_like
            dL/ds, (..., O).
        threads : int, optional
            As in a call.

        Returns
        -------
        dh : ndarray
            dL/dh = ds W, (..., H).
        parameters : dict
            ``weight``: the sum over rows of ds^T h, (O, H); ``bias``: the sum of ds, (O,), if there is one.

        Raises
        ------
        TypeError
            If h or ds has another dtype.
        ValueError
            If a shape is wrong.
        """
        a = self._rows(h)
        weight, _ = self._weights()
        expected = (*a.shape[:-1], self.out_features)
        shape = (expected, "(..., out_features) with the leading axes of h")
        d = checks.floats("ds", ds, shape, self.dtype)
        # dh = ds W,  dW = sum ds^T h,  db = sum ds
        dh, dweight, dbias = self._module.affine_backward(
            a.reshape(-1, self.in_features),
            weight,
            d.reshape(-1, self.out_features),
            threads=checks.resolve_threads(threads),
        )
        gradients = {"weight": dweight}
        if self.bias:
            gradients["bias"] = dbias
        return dh.reshape(a.shape), gradients

    def _rows(self, h: Any) -> Array:
        if checks.is_ready(h, self.dtype) and h.ndim > 0 and h.shape[-1] == self.in_features:
            return h  # type: ignore[no-any-return]
        return checks.rows("h", h, self.in_features, "in_features", self.dtype)

    def _weights(self) -> tuple[Array, Array | None]:
        """Return the parameters; checked only if an entry is another array than at the last call."""
        parameters, seen = self.parameters, self._seen
        if (
            seen is not None
            and parameters.get("weight") is seen[0]
            and parameters.get("bias") is seen[1]
            and len(parameters) == len(self._shapes)
        ):
            return seen  # type: ignore[no-any-return]
        arrays = self._read()
        weights = (arrays["weight"], arrays.get("bias"))
        self._seen = weights
        return weights

    def __repr__(self) -> str:
        return self._represent(
            "in_features", "out_features", bias=True, dtype=..., seed=None, backend="kernels"
        )
