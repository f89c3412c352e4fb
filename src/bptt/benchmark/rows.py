"""One line of a comparison: what is run, on which sizes, and the ratio to be reached if there is one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bptt.structure import GATES

FORWARD = "forward"
BACKWARD = "forward_backward"
STEP = "single_step"
CASES = (FORWARD, BACKWARD, STEP)
DTYPES = ("float32", "float64")

#: The tanh layer, the LSTM, the GRU (reset after the product).
CELLS = tuple(GATES)


class Shape(NamedTuple):
    """Sizes of one problem: time steps, batch rows, input features, hidden units."""

    T: int
    B: int
    I: int
    H: int

    def __str__(self) -> str:
        return f"{self.T},{self.B},{self.I},{self.H}"

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Read ``T,B,I,H``."""
        try:
            shape = cls(*map(int, text.split(",")))
        except (TypeError, ValueError):
            raise ValueError(f"shape: expected T,B,I,H as four integers, got {text!r}") from None
        if min(shape) < 1:
            raise ValueError(f"shape: expected four positive integers, got {text!r}")
        return shape


class Setup(NamedTuple):
    """What the layer is besides its cell and its sizes: the options it is made with, and its lengths."""

    num_layers: int = 1
    bidirectional: bool = False
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    zoneout: float = 0.0
    layer_norm: bool = False
    ragged: bool = False  # lengths uniform in 1..T
    without: str | None = None  # name of the setup that lacks this one's option only, to see what that costs
    cases: tuple[str, ...] = (FORWARD, BACKWARD)

    @property
    def directions(self) -> int:
        """Return 2 if bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    @property
    def keywords(self) -> dict[str, Any]:
        """Return the options that the layer is to be made with, in its names."""
        others = ("ragged", "without", "cases")
        defaults = self._field_defaults
        return {
            name: value
            for name, value in self._asdict().items()
            if name not in others and value != defaults[name]
        }

    @property
    def random(self) -> bool:
        """Tell whether the training pass draws masks."""
        return bool(self.dropout or self.recurrent_dropout or self.zoneout)


_TRAINING = (BACKWARD,)

SETUPS = {
    "plain": Setup(cases=CASES),
    "stack": Setup(num_layers=2),
    "ragged": Setup(num_layers=2, bidirectional=True, ragged=True),
    "dropout": Setup(num_layers=2, dropout=0.5, without="stack", cases=_TRAINING),
    "recurrent_dropout": Setup(recurrent_dropout=0.5, without="plain", cases=_TRAINING),
    "zoneout": Setup(zoneout=0.1, without="plain", cases=_TRAINING),
    "layer_norm": Setup(layer_norm=True, without="plain", cases=_TRAINING),
}
OPTIONS = tuple(name for name, setup in SETUPS.items() if setup.without)


@dataclass(frozen=True)
class Task:
    """What is computed: names out of CASES, DTYPES, CELLS and SETUPS, and the sizes."""

    case: str
    shape: Shape
    dtype: str = "float32"
    cell: str = "rnn"
    setup: str = "plain"

    def __str__(self) -> str:
        return f"{self.layer} {self.case} {self.shape} {self.dtype}"

    @property
    def layer(self) -> str:
        """Return the cell, and the setup if it isn't plain."""
        return self.cell if self.setup == "plain" else f"{self.cell} {self.setup}"

    @property
    def options(self) -> Setup:
        """Return the setup itself."""
        return SETUPS[self.setup]

    @property
    def gates(self) -> int:
        """Return the number of gates."""
        return GATES[self.cell]

    @property
    def lengths(self) -> npt.NDArray[np.int64] | None:
        """Return the number of steps of each batch row, always the same ones; None if all have T."""
        if not self.options.ragged:
            return None
        return np.random.default_rng(0).integers(1, self.shape.T + 1, self.shape.B)

    @property
    def flops(self) -> int:
        """Count the products' floating-point operations; activations and sums of biases are left out.

        The backward pass has twice the forward pass's: a product for inputs and states, one for the weights.
        """
        T, B, I, H = self.shape
        lengths, D = self.lengths, self.options.directions
        steps = T * B if lengths is None else int(lengths.sum())
        widths = [I] + [D * H] * (self.options.num_layers - 1)
        forward = sum(2 * steps * D * self.gates * H * (width + H) for width in widths)
        return 3 * forward if self.case == BACKWARD else forward

    @property
    def suffixes(self) -> list[str]:
        """Return how the names of every unit's parameters end; a unit is one direction of one layer."""
        ends = ("", "_reverse")[: self.options.directions]
        return [f"_l{layer}{end}" for layer in range(self.options.num_layers) for end in ends]

    @property
    def recurrent_bytes(self) -> int:
        """Return the size of weight_hh of one layer and direction."""
        return self.gates * self.shape.H**2 * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Row:
    """One line of a comparison: what is run, and the ratio to be reached if there is one.

    ``ratio`` is the time of ``over`` (the fastest peer unless named) divided by the time of ``ours``;
    ``limit`` is the fraction to reach of the hardware's limit: the read bandwidth for B=1, else the FMA peak;
    for a single step, of `step_allowed` over the time it takes.
    """

    task: Task
    threads: int = 1
    ratio: float | None = None
    limit: float | None = None
    ours: str = "bptt"
    over: str = "best peer"

    @property
    def group(self) -> str:
        """Return the name under which the implementations of this row are compared."""
        return group_name(self.task, self.threads)


def group_name(task: Task, threads: int) -> str:
    """Name a row as pytest-benchmark's group."""
    return f"{task} {threads} thread{'s' * (threads > 1)}"


def step_allowed(shape: Shape, kernel_step: float) -> float:
    """Return the seconds that a single step may take, of which ``kernel_step`` go by inside the kernel."""
    return 1.5e-6 if shape.H <= 32 else 1.5e-6 + 1.15 * kernel_step


def parse_choices(name: str, text: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
    """Read a comma-separated list of words out of ``allowed``.

    Raises
    ------
    ValueError
        If one of them is not allowed.
    """
    words = tuple(text.split(","))
    unknown = [word for word in words if word not in allowed]
    if unknown:
        raise ValueError(f"{name}: expected words out of {', '.join(allowed)}, got {', '.join(unknown)}")
    return words


def minute(threads: int) -> tuple[Row, ...]:
    """Rows of a short comparison: every cell over a sequence, small alone and large in a batch; a step."""
    layers = (Shape(100, 1, 64, 64), Shape(100, 32, 256, 256))
    steps = (Shape(1, 1, 64, 64),)
    return tuple(
        Row(Task(case, shape, cell=cell), threads)
        for cell in CELLS
        for case in CASES
        for shape in (steps if case == STEP else layers)
    )
