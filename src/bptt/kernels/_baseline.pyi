# The modules of the other variants offer the same.

from typing import Any, Literal, Self, final, overload

from typing_extensions import disjoint_base

from bptt.arrays import Array, Mask, Noise, Tokens, Weights
from bptt.interface import State

__all__ = [
    "CELLS",
    "CELL_CODES",
    "Panels",
    "Remembered",
    "Saved",
    "Stepper",
    "affine",
    "affine_backward",
    "bptt",
    "chunk_bounds",
    "count_outside",
    "elementwise",
    "fma_peak",
    "large_empty",
    "pack_weights",
    "read_bandwidth",
    "release_memory",
    "remember",
    "short_call",
    "softmax_cross_entropy",
    "step_back",
    "step_seconds",
    "unroll",
    "use_amx",
    "walk",
]

CELLS: tuple[str, ...]
CELL_CODES: dict[str, int]

@final
class Panels: ...

@final
class Remembered:
    @property
    def held(self) -> int: ...
    @property
    def weights(self) -> Weights: ...

@disjoint_base
class Saved:
    @property
    def x(self) -> Array | Tokens: ...
    @property
    def state(self) -> State: ...
    @property
    def y(self) -> Array: ...
    @property
    def c(self) -> Array | None: ...
    @property
    def gates(self) -> dict[str, Array]: ...
    @property
    def weights(self) -> Weights: ...

@disjoint_base
class Stepper:
    state: State
    def __new__(
        cls,
        cell: str,
        weights: Weights | Remembered | Panels,
        state: State,
        *,
        tokens: bool = False,
        noise: Noise | None = None,
    ) -> Self: ...
    def step(self, x: Any, out: Any = None) -> Array | None: ...

def remember(weights: Weights) -> Remembered: ...
def pack_weights(
    cell: str, weights: Weights | Remembered, *, tokens: bool = False, backward: bool = False
) -> Panels: ...
@overload
def unroll(
    cell: str,
    x: Array | Tokens,
    state: State,
    weights: Weights | Remembered | Panels,
    keep: Literal[True] = True,
    threads: int = 1,
    *,
    lengths: Tokens | None = None,
    reset: Mask | None = None,
    reverse: bool = False,
    noise: Noise | None = None,
    begin: State | None = None,
    y_to: Array | None = None,
    final: State | None = None,
) -> tuple[Array, State, Saved]: ...
@overload
def unroll(
    cell: str,
    x: Array | Tokens,
    state: State,
    weights: Weights | Remembered | Panels,
    keep: Literal[False],
    threads: int = 1,
    *,
    lengths: Tokens | None = None,
    reset: Mask | None = None,
    reverse: bool = False,
    noise: Noise | None = None,
    begin: State | None = None,
    y_to: Array | None = None,
    final: State | None = None,
) -> tuple[Array, State, None]: ...
@overload
def unroll(
    cell: str,
    x: Array | Tokens,
    state: State,
    weights: Weights | Remembered | Panels,
    keep: bool = True,
    threads: int = 1,
    *,
    lengths: Tokens | None = None,
    reset: Mask | None = None,
    reverse: bool = False,
    noise: Noise | None = None,
    begin: State | None = None,
    y_to: Array | None = None,
    final: State | None = None,
) -> tuple[Array, State, Saved | None]: ...
def short_call(weights: Panels, x: Any, h_0: Any, c_0: Any = None) -> tuple[Array, ...] | None: ...
def bptt(
    cell: str,
    saved: Saved,
    dy: Array | None,
    dfinal_state: tuple[Array | None, ...] | None,
    depth: int | None = None,
    threads: int = 1,
    *,
    squares: Array | None = None,
    add_to: Weights | None = None,
    initial_to: State | None = None,
    input_grad: bool = True,
    dx_to: Array | None = None,
) -> tuple[Array | None, State, Weights]: ...
def chunk_bounds(T: int, B: int, lengths: Tokens | None = None) -> list[int]: ...
def step_back(
    saved: Saved, s: int, dh: Array, dc: Array | None = None, *, together: bool = False
) -> tuple[Array, Array | None, Array, Array, Array, Array]: ...
def count_outside(v: Array, low: float, high: float) -> Array: ...
def large_empty(shape: tuple[int, ...], dtype: Any) -> Array: ...
def release_memory() -> None: ...
def walk(
    saved: Saved,
    losses: Array,
    steps: Tokens,
    each: int,
    factors: Array,
    spans: Tokens,
    totals: Array,
    exponents: Tokens,
    *,
    threads: int = 1,
) -> None: ...
def affine(x: Array, weight: Array, bias: Array | None, *, threads: int = 1) -> Array: ...
def affine_backward(
    x: Array, weight: Array, dy: Array, *, threads: int = 1
) -> tuple[Array, Array, Array]: ...
def softmax_cross_entropy(
    logits: Array, targets: Tokens, *, ignore_index: int | None = None, threads: int = 1
) -> tuple[float, int, Array]: ...
def fma_peak(dtype: Any, *, rounds: int = 2000, repeats: int = 15) -> float: ...
def use_amx(
    use: bool,
    *,
    numbers: int = ...,
    rows: int = ...,
    forward_numbers: int = ...,
    input_numbers: int = ...,
    back_numbers: int = ...,
    terms: int = ...,
) -> None: ...
def read_bandwidth(size: int, *, repeats: int = 15) -> float: ...
def step_seconds(stepper: Stepper, x: Any, *, rounds: int = 1000, repeats: int = 7) -> float: ...
def elementwise(function: str, v: Array) -> Array: ...
