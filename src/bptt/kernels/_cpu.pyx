"""What the processor can do."""

cdef extern from "cpu.h":
    int cpu_level()


def level():
    """0: baseline; 1: AVX2 and FMA; 2: AVX-512 F, VL, BW and DQ (CPUID and XGETBV)."""
    return cpu_level()
