"""One line of a comparison: what is run, on which sizes, and the ratio to be reached if there is one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

FORWARD = "forward"
BACKWARD = "forward_backward"
STEP = "single_step"
CASES = (FORWARD, BACKWARD, STEP)
DTYPES = ("float32", "float64")


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


@dataclass(frozen=True)
class Row:
    """One line of a comparison: what is run, and the ratio to be reached if there is one.

    ``ratio`` is the time of ``over`` (the fastest peer unless named) divided by the time of ``ours``;
    ``limit`` is the fraction to reach of the hardware's limit: the read bandwidth for B=1, else the FMA peak;
    for a single step, of `step_allowed` over the time it takes.
    """

    case: str
    shape: Shape
    dtype: str = "float32"
    threads: int = 1
    ratio: float | None = None
    limit: float | None = None
    ours: str = "bptt"
    over: str = "best peer"

    @property
    def group(self) -> str:
        """Return the name under which the implementations of this row are compared."""
        return group_name(self.case, self.shape, self.dtype, self.threads)


def group_name(case: str, shape: Shape, dtype: str, threads: int) -> str:
    """Name a row as pytest-benchmark's group."""
    return f"{case} {shape} {dtype} {threads} thread{'s' * (threads > 1)}"


def flops(case: str, shape: Shape) -> int:
    """Count the products' floating-point operations; activations and sums of biases are left out.

    The backward pass has twice the forward pass's: a product for inputs and states, and one for the weights.
    """
    T, B, I, H = shape
    forward = 2 * T * B * (I + H) * H
    return 3 * forward if case == BACKWARD else forward


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
    """Rows of a short comparison: a long sequence alone and in a batch, small and large, and single steps."""
    layers = [Shape(100, B, H, H) for B in (1, 32) for H in (64, 256)]
    steps = [Shape(1, 1, H, H) for H in (64, 256)]
    return tuple(
        Row(case, shape, threads=threads) for case in CASES for shape in (steps if case == STEP else layers)
    )
