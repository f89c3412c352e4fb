# All of one CPU variant: included by _baseline.pyx, _avx2.pyx, _avx512.pyx and _native.pyx, which differ in compiler
# flags only.

cimport cython
from libc.math cimport INFINITY, fabs, frexp, ldexp, log
from libc.stddef cimport ptrdiff_t

from functools import partial
from time import perf_counter

from numpy import arange, asarray, concatenate, flatnonzero, ndarray, zeros
from numpy import empty as numpy_empty
from numpy import dtype as as_dtype
from numpy import tile as tile_rows

from bptt.arrays import Weights
from bptt.kernels._activations cimport lanes, splat, get, exp_row, f32_load, f32_splat, f32_store
from bptt.kernels._cells cimport GRU, GRU_BEFORE, IDENTITY, LSTM, RELU, SIGMOID, TANH, cell_backward, cell_forward
from bptt.kernels._gates cimport (
    GRU_ALL, GRU_RESET, GRU_UPDATE, gru_backward, gru_forward, lstm_backward, lstm_forward, reset_backward,
)
from bptt.kernels._norm cimport across, normalise, normalise_backward, square_sum
from bptt.kernels._pool import submit
from bptt.kernels._tile cimport *

cdef object empty = numpy_empty

include "_job.pxi"
include "_amx.pxi"
include "_fixed.pxi"
include "_panels.pxi"
include "_remembered.pxi"
include "_course.pxi"
include "_step.pxi"
include "_unroll.pxi"
include "_forward.pxi"
include "_stream.pxi"
include "_back_job.pxi"
include "_back.pxi"
include "_depth.pxi"
include "_outer.pxi"
include "_bptt.pxi"
include "_propagate.pxi"
include "_walk.pxi"
include "_affine.pxi"
include "_losses.pxi"
include "_counts.pxi"
include "_measure.pxi"

__all__ = [
    "CELLS", "CELL_CODES", "Panels", "Remembered", "Saved", "Stepper", "affine", "affine_backward", "bptt",
    "chunk_bounds", "count_outside", "elementwise", "fma_peak", "large_empty", "pack_weights", "read_bandwidth",
    "release_memory", "remember", "short_call", "softmax_cross_entropy", "step_back", "step_seconds", "unroll",
    "use_amx", "walk",
]
