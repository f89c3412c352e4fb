"""Kernels of the avx2 variant."""

include "_kernels.pxi"
