"""What a recurrent layer's options come to: its cell, its sizes, the names and shapes of its parameters."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from bptt.arrays import Weights

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bptt.arrays import Array
    from bptt.checks import Shape

Entry = TypeVar("Entry")

#: Numbers of gates, by the names of cells in model files and benchmarks: "rnn" is an Elman layer.
GATES = {"rnn": 1, "lstm": 4, "gru": 3}


class Structure(NamedTuple):
    """Cell and sizes of a stack of L layers in D directions.

    Its L*D units, one for each layer and direction, are counted as PyTorch counts them: the directions of the
    first layer, those of the second, and so on.
    """

    cell: str  # the ground floor's name
    gates: int  # G
    input_size: int  # I
    hidden_size: int  # H
    num_layers: int = 1  # L
    directions: int = 1  # D
    proj_size: int = 0  # P, 0 without a projection
    bias: bool = True
    peepholes: bool = False
    layer_norm: bool = False

    @property
    def state_size(self) -> int:
        """R, the size of h."""
        return self.proj_size or self.hidden_size

    @property
    def output_size(self) -> int:
        """D*R, the size of y."""
        return self.directions * self.state_size

    @property
    def has_c(self) -> bool:
        """Whether the state is a pair (h, c)."""
        return self.cell == "lstm"

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """(R,), for an LSTM (R, H)."""
        return (self.state_size, self.hidden_size) if self.has_c else (self.state_size,)

    def state_shapes(self, batch: int, batched: bool) -> tuple[Shape, ...]:
        """Return the shapes of h and, for an LSTM, of c as the user sees them."""
        units = "num_layers" if self.directions == 1 else "num_layers * directions"
        count = self.num_layers * self.directions
        labels = ("proj_size" if self.proj_size else "hidden_size", "hidden_size")
        return tuple(
            ((count, batch, size), f"({units}, batch, {label})")
            if batched
            else ((count, size), f"({units}, {label})")
            for size, label in zip(self.state_sizes, labels, strict=False)
        )

    def output_shape(self, steps: int, batch: int, batched: bool, batch_first: bool) -> Shape:
        """Return the shape of y as the user sees it."""
        size, label = self.output_size, self._output_label()
        if not batched:
            return (steps, size), f"(time, {label})"
        if batch_first:
            return (batch, steps, size), f"(batch, time, {label})"
        return (steps, batch, size), f"(time, batch, {label})"

    def frame_shape(self, batch: int, batched: bool) -> Shape:
        """Return the shape of one time step of y."""
        size, label = self.output_size, self._output_label()
        return ((batch, size), f"(batch, {label})") if batched else ((size,), f"({label},)")

    def _output_label(self) -> str:
        label = "proj_size" if self.proj_size else "hidden_size"
        return label if self.directions == 1 else f"2 * {label}"

    def by_layer(self, units: Iterable[Entry]) -> tuple[tuple[Entry, ...], ...]:
        """Arrange what there is of every unit: the directions of a layer together."""
        flat, D = tuple(units), self.directions
        return tuple(flat[first : first + D] for first in range(0, len(flat), D))

    def parameter_shapes(self) -> dict[str, Shape]:
        """Return the shape of every parameter, in the order of PyTorch's named_parameters.

        Parameters that PyTorch doesn't have come last within their layer and direction.
        """
        G, H, R, P = self.gates, self.hidden_size, self.state_size, self.proj_size
        gates = "hidden_size" if G == 1 else f"{G} * hidden_size"
        recurrent = "proj_size" if P else "hidden_size"
        shapes: dict[str, Shape] = {}
        for unit, names in enumerate(unit_names(self.num_layers, self.directions)):
            lowest = unit < self.directions
            I, below = (self.input_size, "input_size") if lowest else (self.output_size, self._output_label())
            own: list[Shape | None] = [
                ((G * H, I), f"({gates}, {below})"),
                ((G * H, R), f"({gates}, {recurrent})"),
                ((G * H,), f"({gates},)") if self.bias else None,
                ((G * H,), f"({gates},)") if self.bias else None,
                ((P, H), "(proj_size, hidden_size)") if P else None,
                ((3 * H,), "(3 * hidden_size,)") if self.peepholes else None,
                ((G * H,), f"({gates},)") if self.layer_norm else None,
                ((G * H,), f"({gates},)") if self.layer_norm else None,
            ]
            shapes |= {name: shape for name, shape in zip(names, own, strict=True) if shape is not None}
        return shapes


@functools.lru_cache(maxsize=64)  # asked in every call of a tape
def unit_names(num_layers: int, directions: int) -> tuple[tuple[str, ...], ...]:
    """Return for every unit what the fields of its `Weights` are called, used or not."""
    return tuple(
        tuple(
            f"{field}_l{unit // directions}{'_reverse' if unit % directions else ''}"
            for field in Weights._fields
        )
        for unit in range(num_layers * directions)
    )


def named(structure: Structure, weights: Iterable[Weights]) -> dict[str, Array]:
    """Return the parameters, or their gradients, of all units under their names."""
    found = {}
    # As long as each other, each unit and all of them; `strict` would cost a third of it all.
    for names, unit in zip(unit_names(structure.num_layers, structure.directions), weights):  # noqa: B905
        for name, value in zip(names, unit):  # noqa: B905
            if value is not None:
                found[name] = value
    return found


def unnamed(structure: Structure, parameters: Mapping[str, Array]) -> tuple[Weights, ...]:
    """Return the parameters of every unit, from arrays under their names."""
    get = parameters.get
    names_of_units = unit_names(structure.num_layers, structure.directions)
    return tuple(Weights(*map(get, names)) for names in names_of_units)  # type: ignore[arg-type]
