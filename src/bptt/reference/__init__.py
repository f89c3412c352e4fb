"""The equations in plain Python floats and loops, with the interface of the compiled kernels.

Slow, and meant to be read: ``elman``, ``lstm`` and ``gru`` are one time step of one batch row, forward and
backward; ``unroll`` and ``sweep`` are the loops over time and rows, written once for all of them. These work
on nested lists and import nothing but the standard library and each other; ``boundary``, ``back``,
``stepper`` and ``readout`` take arrays, which ``conversion`` makes into lists.
"""

from .back import step_back
from .boundary import Saved, bptt, chunk_bounds, large_empty, release_memory, short_call, terms, unroll
from .cells import CELLS
from .readout import affine, affine_backward, softmax_cross_entropy
from .stepper import Packed, Stepper, pack, remember

__all__ = [
    "CELLS",
    "Packed",
    "Saved",
    "Stepper",
    "affine",
    "affine_backward",
    "bptt",
    "chunk_bounds",
    "large_empty",
    "pack",
    "release_memory",
    "remember",
    "short_call",
    "softmax_cross_entropy",
    "step_back",
    "terms",
    "unroll",
]
