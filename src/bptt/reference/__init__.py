"""The equations in plain Python floats and loops, with the interface of the compiled kernels.

``cells``, ``affine``, ``unroll``, ``losses`` and ``expansion`` work on nested lists and import nothing but
the standard library and each other; ``boundary`` converts arrays. Slow, and meant to be read.
"""

from .boundary import (
    Packed,
    Saved,
    Stepper,
    affine,
    affine_backward,
    bptt,
    pack,
    short_call,
    softmax_cross_entropy,
    terms,
    unroll,
)
from .cells import CELLS

__all__ = [
    "CELLS",
    "Packed",
    "Saved",
    "Stepper",
    "affine",
    "affine_backward",
    "bptt",
    "pack",
    "short_call",
    "softmax_cross_entropy",
    "terms",
    "unroll",
]
