"""Kernels of the baseline variant."""

include "_kernels.pxi"
