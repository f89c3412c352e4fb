"""What the processor can do."""

cdef extern from "cpu.h":
    int cpu_level()
    const bint CPU_NATIVE


def level():
    """0: baseline; 1: AVX2 and FMA; 2: AVX-512 F, VL, BW and DQ; 3: AMX too (CPUID and XGETBV)."""
    return cpu_level()


def native():
    """Whether there is one variant only, compiled for the processor it was built on (BPTT_NATIVE=1)."""
    return CPU_NATIVE
