"""Every check of an argument's type, shape, dtype and range, and the message when it fails.

A check returns the argument in the one form the ground floor takes (C-contiguous, aligned, native byte
order) or raises: TypeError for types and dtypes, ValueError for shapes and values, one sentence "name:
expected ..., got ...".
"""

from __future__ import annotations

from bptt.checks.arrays import (
    Shape,
    as_array,
    check_float,
    check_shape,
    float_array,
    floats,
    is_ready,
    named_arrays,
    normalise,
    output,
    rows,
)
from bptt.checks.finiteness import finite
from bptt.checks.options import (
    BACKENDS,
    INITS,
    NONLINEARITIES,
    choice,
    default_threads,
    flag,
    float_dtype,
    integer,
    not_negative,
    number,
    rate,
    resolve_backend,
    resolve_threads,
    seed,
    usable_cores,
)
from bptt.checks.sequences import frame, lengths, reset, rows_to_reset, sequence
from bptt.checks.states import state_parts

__all__ = [
    "BACKENDS",
    "INITS",
    "NONLINEARITIES",
    "Shape",
    "as_array",
    "check_float",
    "check_shape",
    "choice",
    "default_threads",
    "finite",
    "flag",
    "float_array",
    "float_dtype",
    "floats",
    "frame",
    "integer",
    "is_ready",
    "lengths",
    "named_arrays",
    "normalise",
    "not_negative",
    "number",
    "output",
    "rate",
    "reset",
    "resolve_backend",
    "resolve_threads",
    "rows",
    "rows_to_reset",
    "seed",
    "sequence",
    "state_parts",
    "usable_cores",
]
