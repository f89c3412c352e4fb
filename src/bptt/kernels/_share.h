/* How threads share out the items of one call: atomic counts, a wait, a clock. */
#ifndef BPTT_SHARE_H
#define BPTT_SHARE_H

#include <stdint.h>
#include <time.h>

#if defined(_MSC_VER) && !defined(__clang__)
#include <windows.h>
typedef volatile LONG64 share_count;
static __inline int64_t share_add(share_count *c) { return InterlockedExchangeAdd64(c, 1); }
static __inline int64_t share_read(share_count *c) { return InterlockedExchangeAdd64(c, 0); }
static __inline void share_set(share_count *c, int64_t value) { InterlockedExchange64(c, value); }
/* returns the value before */
static __inline int64_t share_swap(share_count *c, int64_t value) { return InterlockedExchange64(c, value); }
static __inline double share_clock(void) { return (double)GetTickCount64() * 1e-3; }
static __inline void share_wait(int spins) { if (spins > 64) SwitchToThread(); else YieldProcessor(); }
#else
#include <sched.h>
typedef int64_t share_count;
/* returns the value before */
static inline int64_t share_add(share_count *c) { return __atomic_fetch_add(c, 1, __ATOMIC_ACQ_REL); }
static inline int64_t share_read(share_count *c) { return __atomic_load_n(c, __ATOMIC_ACQUIRE); }
static inline void share_set(share_count *c, int64_t value) { __atomic_store_n(c, value, __ATOMIC_RELEASE); }
static inline int64_t share_swap(share_count *c, int64_t value) { return __atomic_exchange_n(c, value, __ATOMIC_ACQUIRE); }
/* seconds */
static inline double share_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}
/* spin a little, then let another thread have the core */
static inline void share_wait(int spins)
{
    if (spins > 200)
        sched_yield();
#if defined(__x86_64__) || defined(__i386__)
    else
        __builtin_ia32_pause();
#elif defined(__aarch64__)
    else
        __asm__ volatile("yield");
#endif
}
#endif
#endif
