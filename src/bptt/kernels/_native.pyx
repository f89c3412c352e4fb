"""Kernels of a build for one processor only (BPTT_NATIVE=1)."""

include "_kernels.pxi"
