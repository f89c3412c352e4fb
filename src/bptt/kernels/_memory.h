/* Blocks of memory, of which the large ones are kept for the next call.
 *
 * A training step takes and frees tens of megabytes.  Fresh ones cost a page fault for every 4 KiB, and zeros that
 * nobody reads: a third of the time of an LSTM's forward and backward pass of 100 steps, 32 rows, 256 units.
 */
#ifndef BPTT_MEMORY_H
#define BPTT_MEMORY_H

#include <stdlib.h>

#include "_share.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

enum {
#if defined(BPTT_SANITIZE)
    MEMORY_LARGE = 0x7fffffff, /* none: a sanitizer can't see into blocks that are kept */
#else
    /* Bytes from which a block is worth keeping: what malloc gives back to the system at once, or at the next free,
     * costs a GRU of 256 units 850 page faults for 100 steps of one row forward and backward, a quarter of the time. */
    MEMORY_LARGE = 1 << 18,
#endif
    MEMORY_SLOTS = 32
};
#define MEMORY_PAGE ((size_t)2 << 20)
/* Bytes that are kept at most: what an LSTM of 1024 units takes for 50 steps of 64 rows and back, of which page faults
 * are a twentieth of the time.  When other sizes are wanted, no more of them stay than the second number. */
#define MEMORY_KEPT ((size_t)256 << 20)
#define MEMORY_BESIDE ((size_t)64 << 20)

static struct { void *block; size_t size; } memory_slots[MEMORY_SLOTS]; /* oldest first */
static int memory_used;
static size_t memory_total;
static share_count memory_lock;

static void memory_enter(void)
{
    int spins = 0;
    while (share_swap(&memory_lock, 1))
        share_wait(++spins);
}
static void memory_leave(void) { share_set(&memory_lock, 0); }

/* In the child of a fork nobody else holds the lock; the blocks may have been half moved, and are let go. */
static void memory_after_fork(void)
{
    memory_used = 0;
    memory_total = 0;
    memory_leave();
}

static void *memory_remove(int k)
{
    void *block = memory_slots[k].block;
    memory_total -= memory_slots[k].size;
    for (--memory_used; k < memory_used; ++k)
        memory_slots[k] = memory_slots[k + 1];
    return block;
}

/* Packed weights of 16 MiB, read at every time step, are 4,096 pages: more than the processor has translations for.
 * Pages of 2 MiB, where the system gives them when asked. */
static void *memory_fresh(size_t size)
{
#if defined(MADV_HUGEPAGE)
    void *block = NULL;
    if (size >= 2 * MEMORY_PAGE) {
        if (posix_memalign(&block, MEMORY_PAGE, size))
            return NULL;
        madvise(block, size / MEMORY_PAGE * MEMORY_PAGE, MADV_HUGEPAGE);
        return block;
    }
#endif
    return malloc(size);
}

/* At least *size bytes, NULL if there are none; *size becomes the block's size. */
static void *memory_take(size_t *size)
{
    void *block = NULL, *gone[MEMORY_SLOTS];
    int best = -1, count = 0;
    if (*size < MEMORY_LARGE)
        return malloc(*size);
    memory_enter();
    for (int k = 0; k < memory_used; ++k)
        if (memory_slots[k].size >= *size && memory_slots[k].size <= *size + *size / 4
            && (best < 0 || memory_slots[k].size < memory_slots[best].size))
            best = k;
    if (best >= 0) {
        *size = memory_slots[best].size;
        block = memory_remove(best);
    } else
        while (memory_total > MEMORY_BESIDE)
            gone[count++] = memory_remove(0);
    memory_leave();
    while (count)
        free(gone[--count]);
    return block ? block : memory_fresh(*size);
}

/* Free what is kept. */
static void memory_release(void)
{
    void *gone[MEMORY_SLOTS];
    int count = 0;
    memory_enter();
    while (memory_used)
        gone[count++] = memory_remove(0);
    memory_leave();
    while (count)
        free(gone[--count]);
}

static void memory_give(void *block, size_t size)
{
    void *gone[MEMORY_SLOTS];
    int count = 0;
    if (!block || size < MEMORY_LARGE || size > MEMORY_KEPT) {
        free(block);
        return;
    }
    memory_enter();
    while (memory_used == MEMORY_SLOTS || memory_total + size > MEMORY_KEPT)
        gone[count++] = memory_remove(0);
    memory_slots[memory_used].block = block;
    memory_slots[memory_used++].size = size;
    memory_total += size;
    memory_leave();
    while (count)
        free(gone[--count]);
}
#endif
