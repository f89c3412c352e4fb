"""The norms of the gradients of all states, and what they mean."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from bptt.flow import saturation
from bptt.flow.reach import Reach, profiles_of_losses, profiles_of_squares, reach_of
from bptt.flow.verdict import Findings, verdict

if TYPE_CHECKING:
    from bptt.arrays import Array, Mask
    from bptt.flow.saturation import NonFinite
    from bptt.flow.sweep import StepBack
    from bptt.gradients import Gradients
    from bptt.stack import Pass


class GradientFlow:
    """How the gradient of a loss flows back through a recorded pass; printed, a verdict in words.

    Made by `bptt.gradient_flow`. Lists are indexed [layer][direction]; time is the first axis. Attributes
    after `norms` are worked out when first asked for. Until then x and dy must stay as they are; the flow
    keeps the tape.

    Attributes
    ----------
    gradients : Gradients
        What `Tape.backward` gives.
    row_norms : tuple of tuple of ndarray
        (T, B) of float64, (T,) unbatched: norms of dL/dh_t of every row, of what dy and later steps send
        there; zero past a row's end.
    norms : tuple of tuple of ndarray
        (T,) of float64: the same of all rows together.
    saturation : tuple of tuple of dict
        By the gate's name (an Elman layer's own output is "h"), (T,) of float64: the share of its entries
        within 1% of a bound, of the range's width; empty for ReLU and identity. NaN where no row has the
        step.
    dead : tuple of tuple of ndarray or None
        (H,) of bool: ReLUs that are 0 at every step of every row, of a pass that has steps; None for other
        cells.
    first_nonfinite : NonFinite or None
        Where NaN or an infinity was met first: (what, layer, direction, step).
    reach : tuple of tuple of Reach
        How the gradient of one loss changes with the steps it has gone back: (profile, factor, steps). With
        dy, medians over up to 8 of its loss steps, which are followed by themselves; that takes the time of
        about as many backward passes. With dh_n alone, from the norms.
    """

    def __init__(
        self,
        gradients: Gradients,
        squares: list[Array],
        back: StepBack,
        recorded: Pass,
        dy: Array | None,
        batched: bool,
    ) -> None:
        self.gradients = gradients
        self._squares = squares
        self._back = back
        self._pass = recorded
        self._dy = dy
        self._batched = batched

    @cached_property
    def row_norms(self) -> tuple[tuple[Array, ...], ...]:
        """Norms of dL/dh_t of every row, (T, B)."""
        return self._pass.structure.by_layer(
            np.sqrt(square if self._batched else square[:, 0]) for square in self._squares
        )

    @cached_property
    def norms(self) -> tuple[tuple[Array, ...], ...]:
        """Norms of dL/dh_t of all rows together, (T,)."""
        return self._pass.structure.by_layer(np.sqrt(square.sum(axis=1)) for square in self._squares)

    @cached_property
    def saturation(self) -> tuple[tuple[dict[str, Array], ...], ...]:
        """Shares of entries within 1% of a bound, (T,) for every gate."""
        return self._pass.structure.by_layer(saturation.saturation(self._pass, unit) for unit in self._units)

    @cached_property
    def dead(self) -> tuple[tuple[Mask | None, ...], ...]:
        """Which ReLUs are 0 at every step of every row, (H,)."""
        return self._pass.structure.by_layer(saturation.dead(self._pass, unit) for unit in self._units)

    @cached_property
    def first_nonfinite(self) -> NonFinite | None:
        """Where NaN or an infinity was met first."""
        return saturation.first_nonfinite(self._pass, self._squares)

    @cached_property
    def reach(self) -> tuple[tuple[Reach, ...], ...]:
        """How far one loss reaches back."""
        if self._dy is None:
            profiles = profiles_of_squares(self._pass, self._squares)
        else:
            profiles = profiles_of_losses(self._back, self._pass, self._dy)
        return self._pass.structure.by_layer(map(reach_of, profiles))

    def __str__(self) -> str:
        T, lengths = len(self._pass.y), self._pass.lengths
        # the loss of a final state stands at each row's own last step
        at_own_ends = lengths is not None and bool((lengths < T).any())
        return verdict(
            Findings(
                structure=self._pass.structure,
                steps=T,
                reach=self.reach,
                saturation=self.saturation,
                dead=self.dead,
                first_nonfinite=self.first_nonfinite,
                many=at_own_ends or (self._dy is not None and bool(self._dy[:-1].any())),
            )
        )

    def __repr__(self) -> str:
        T, B = self._squares[0].shape
        L, D = self._pass.structure.num_layers, self._pass.structure.directions
        return f"GradientFlow(T={T}, B={B}, L={L}, D={D})"

    @property
    def _units(self) -> range:
        return range(len(self._squares))
