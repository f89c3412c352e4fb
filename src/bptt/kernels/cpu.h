/* Processor features, as the operating system lets programs use them. */
#ifndef BPTT_CPU_H
#define BPTT_CPU_H

#if defined(BPTT_NATIVE)
#define CPU_NATIVE 1
#else
#define CPU_NATIVE 0
#endif

#if !defined(BPTT_SCALAR) && (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
#include <cpuid.h>
#include <stdint.h>

static uint64_t cpu_xcr0(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return ((uint64_t)high << 32) | low;
}

#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>

/* Linux gives a process the AMX registers when it asks for them; it may not where signal stacks are too small. */
static int cpu_ask_for_amx(void)
{
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}
#else
static int cpu_ask_for_amx(void) { return 0; }
#endif

enum { CPU_VBMI = 1 << 1, CPU_VNNI = 1 << 11 };                                                 /* ecx */
enum { CPU_AMX = 1 << 24 | 1 << 25 /* tiles, int8: edx */, CPU_XCR0_TILES = 3 << 17 };

/* 0 baseline, 1 AVX2 + FMA, 2 AVX-512 F/VL/BW/DQ, 3 those, VBMI and VNNI and AMX with int8: every feature
 * that the variant uses, and the registers saved by the operating system (XCR0). */
static int cpu_level(void)
{
    unsigned a, b, c, d, b7;
    uint64_t saved;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_AVX) || !(c & bit_FMA))
        return 0;
    saved = cpu_xcr0();
    if ((saved & 0x6) != 0x6 || !__get_cpuid_count(7, 0, &a, &b7, &c, &d) || !(b7 & bit_AVX2))
        return 0;
    if ((saved & 0xe6) != 0xe6 || !(b7 & bit_AVX512F) || !(b7 & bit_AVX512VL) || !(b7 & bit_AVX512BW) ||
        !(b7 & bit_AVX512DQ))
        return 1;
    if ((saved & CPU_XCR0_TILES) != CPU_XCR0_TILES || !(c & CPU_VBMI) || !(c & CPU_VNNI) || (d & CPU_AMX) != CPU_AMX ||
        !cpu_ask_for_amx())
        return 2;
    return 3;
}
#else
static int cpu_level(void) { return 0; }
#endif
#endif
