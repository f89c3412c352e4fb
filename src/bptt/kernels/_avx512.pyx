"""Kernels of the avx512 variant."""

include "_kernels.pxi"
