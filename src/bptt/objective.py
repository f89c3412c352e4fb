"""A loss with its options: what ``Network`` holds of ``losses``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from bptt import checks
from bptt.arrays import Array, Mask
from bptt.losses import LINKS, LOSSES, REDUCTIONS, sigmoid, softmax
from bptt.ragged import blank
from bptt.targets import check_ignore_index, check_target

#: Options of each loss besides the reduction, and the reduction it has by default.
OPTIONS: dict[str, tuple[str, ...]] = {
    "softmax_cross_entropy": ("ignore_index",),
    "binary_cross_entropy": (),
    "sum_squared_residuals": ("link",),
    "mean_squared_error": (),
    "residual": ("link",),
}
DEFAULT_REDUCTION: dict[str, Literal["mean", "sum"]] = {
    "softmax_cross_entropy": "mean",
    "binary_cross_entropy": "mean",
    "sum_squared_residuals": "sum",
    "mean_squared_error": "mean",
    "residual": "sum",
}


@dataclass(frozen=True)
class Objective:
    """A loss by name, with its options.

    Make one with :func:`objective`, which checks.

    Attributes
    ----------
    loss : str
        A key of ``LOSSES``.
    reduction : {"mean", "sum"}
        Over rows and outputs.
    options : mapping
        ``ignore_index`` for "softmax_cross_entropy"; ``link`` for "sum_squared_residuals" and "residual".
    backend : {"kernels", "reference"}
        Ground floor that computes the softmax.
    """

    loss: str
    reduction: Literal["mean", "sum"]
    options: Mapping[str, Any] = field(default_factory=dict)
    backend: str = "kernels"

    def check(
        self,
        targets: npt.ArrayLike,
        s_shape: tuple[int, ...],
        dtype: npt.DTypeLike,
        mask: Mask | None = None,
    ) -> npt.NDArray[Any]:
        """Check targets against the shape (..., O) of the outputs.

        Parameters
        ----------
        targets : array_like
            What the user gave.  With one output the last axis may be left out, unless targets are class ids.
        s_shape : tuple of int
            (..., O).
        dtype : dtype
            The outputs'.
        mask : ndarray of bool, optional
            (...), where there are steps: elsewhere targets may be anything, and 0 is returned.

        Returns
        -------
        ndarray
            Class ids (...) of int64, or (..., O) of ``dtype``.

        Raises
        ------
        ValueError, TypeError
            As the loss does.
        """
        y = np.asarray(targets)
        if self.loss != "softmax_cross_entropy" and s_shape[-1] == 1 and y.shape == s_shape[:-1]:
            y = y[..., np.newaxis]
        if mask is not None:
            y = blank(y, mask)
        ignore_index = self.options.get("ignore_index")
        checked: npt.NDArray[Any] = check_target(
            self.loss, y, s_shape, dtype, ignore_index=ignore_index, name="targets"
        )
        return checked

    def __call__(
        self,
        s: Array,
        targets: npt.NDArray[Any],
        *,
        reduction: str | None = None,
        threads: int | None = None,
    ) -> tuple[float, Array]:
        """Loss and its gradient with respect to s, for checked targets.

        Parameters
        ----------
        s : ndarray
            (..., O).
        targets : ndarray
            As ``check`` returns them.
        reduction : {"mean", "sum"}, optional
            Another than the objective's own.
        threads : int, optional
            How many threads may share the work, where it is enough to share.

        Returns
        -------
        loss : float
        ds : ndarray
            (..., O).
        """
        keywords = dict(self.options)
        if self.loss == "softmax_cross_entropy":
            keywords |= {"backend": self.backend, "threads": threads}
        return LOSSES[self.loss](s, targets, reduction=reduction or self.reduction, **keywords)

    def count(self, targets: npt.NDArray[Any]) -> int:
        """How many terms the mean runs over, for checked targets."""
        ignore_index = self.options.get("ignore_index")
        return targets.size if ignore_index is None else int(np.count_nonzero(targets != ignore_index))

    @property
    def has_accuracy(self) -> bool:
        """Whether predictions are right or wrong rather than near or far."""
        return self.loss in ("softmax_cross_entropy", "binary_cross_entropy")

    def right(self, s: Array, targets: npt.NDArray[Any]) -> int:
        """How many of the terms are predicted right: the most probable class, or the more probable of two.

        Parameters
        ----------
        s : ndarray
            (..., O).
        targets : ndarray
            As ``check`` returns them.

        Returns
        -------
        int
        """
        if self.loss == "softmax_cross_entropy":
            hits = s.argmax(axis=-1) == targets
            ignore_index = self.options.get("ignore_index")
            return int(np.count_nonzero(hits if ignore_index is None else hits & (targets != ignore_index)))
        return int(np.count_nonzero((s > 0) == (targets > 0.5)))

    def predict(self, s: Array) -> Array:
        """Return yhat = g(s): softmax, sigmoid, or s itself.

        Parameters
        ----------
        s : ndarray
            (..., O).

        Returns
        -------
        ndarray
            (..., O).
        """
        if self.loss == "softmax_cross_entropy":
            return softmax(s)
        if self.loss == "binary_cross_entropy" or self.options.get("link") == "sigmoid":
            return sigmoid(s)
        return s


def objective(loss: str, options: Mapping[str, Any] | None, reduction: str | None, backend: str) -> Objective:
    """Check a loss and its options.

    Parameters
    ----------
    loss : str
        A key of ``LOSSES``.
    options : mapping or None
        Options of that loss.
    reduction : {"mean", "sum"} or None
        None for the loss's own default.
    backend : str
        "kernels" or "reference".

    Returns
    -------
    Objective

    Raises
    ------
    ValueError, TypeError
        For an unknown loss or option, or a value it cannot have.
    """
    checks.choice("loss", loss, LOSSES)
    given = {} if options is None else options
    if not isinstance(given, Mapping):
        raise TypeError(f"loss_options: expected a mapping, got {type(given).__name__}")
    for key, value in given.items():
        if key not in OPTIONS[loss]:
            expected = " or ".join(OPTIONS[loss]) or "no option"
            raise ValueError(f"loss_options: expected {expected} for {loss}, got {key!r}")
        if key == "link":
            checks.choice("link", value, LINKS)
    checked = dict(given)
    if "ignore_index" in checked:
        checked["ignore_index"] = check_ignore_index(checked["ignore_index"])
    chosen: Any = DEFAULT_REDUCTION[loss] if reduction is None else reduction
    checks.choice("reduction", chosen, REDUCTIONS)
    return Objective(loss, chosen, checked, backend)
