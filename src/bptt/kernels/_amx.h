/* Weight gradients on the AMX unit of some processors, from the operands of _split.h.
 *
 * Eight products of digits make one of 24 bits, in four sums: of those that weigh 2^32, 2^24, 2^16 and 2^8 units.  Six
 * would do where most numbers are a fifth of the largest, or more; those of gates are not.
 */
#ifndef BPTT_AMX_H
#define BPTT_AMX_H

#include "_split.h"

#define AMX_SUMS 4
#define AMX_BLOCK (AMX_ROWS * AMX_ROWS)

#if AMX_BUILT
#define AMX_LOAD(T, p, stride)                                                                         \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #T ::"r"(p), "r"((ptrdiff_t)(stride)) : "memory")
#define AMX_STORE(T, p, stride)                                                                        \
    __asm__ volatile("tilestored %%tmm" #T ", (%0,%1,1)" ::"r"(p), "r"((ptrdiff_t)(stride)) : "memory")
#define AMX_ZERO(T) __asm__ volatile("tilezero %%tmm" #T ::: "memory")

/* The unit takes as many cycles as its tiles have rows: 7, and unless `fine` 3, are of a right operand, the others of a
 * left one and of sums. */
LANES_INLINE void amx_begin(ptrdiff_t rows, int fine)
{
    struct { uint8_t palette, start, reserved[14]; uint16_t bytes[16]; uint8_t rows[16]; } c = {0};
    c.palette = 1;
    for (int t = 0; t < 8; ++t) {
        c.bytes[t] = 64;
        c.rows[t] = (uint8_t)(t == 7 || (t == 3 && !fine) || rows > AMX_ROWS ? AMX_ROWS : rows);
    }
    __asm__ volatile("ldtilecfg %0" ::"m"(c) : "memory");
}
LANES_INLINE void amx_end(void) { __asm__ volatile("tilerelease" ::: "memory"); }

/* A block of sums that the unit has made, on its way to rows of C, added or put there.  Fetched by the next instructions,
 * it would keep the unit waiting; so it goes there while the unit works on the next block. */
typedef struct {
    float *to;
    ptrdiff_t ldc;
    const int32_t *from;
    const float *rows, *columns; /* units */
    int count, add, next;        /* of the rows */
    __mmask16 part;              /* the columns */
} amx_sum;

/* What all rows share is loaded once: tiles take more than a third of what can be loaded, and what is loaded beyond the
 * rest the unit waits for. */
LANES_INLINE void amx_put(amx_sum *sum, int count)
{
    const int left = sum->count - sum->next, some = left < count ? left : count;
    const __m512 lower = _mm512_set1_ps(1 / 256.0f);
    if (some <= 0)
        return;
    const int32_t *from = sum->from + sum->next * AMX_ROWS;
    const float *row = sum->rows + sum->next;
    const ptrdiff_t ldc = sum->ldc;
    const int add = sum->add;
    const __mmask16 part = sum->part;
    const __m512 columns = _mm512_load_ps(sum->columns);
    float *to = sum->to + sum->next * ldc;
    for (int r = 0; r < some; ++r, from += AMX_ROWS, to += ldc) {
        __m512 v = _mm512_cvtepi32_ps(_mm512_load_si512(from + 3 * AMX_BLOCK));
        for (int d = 2; d >= 0; --d)
            v = _mm512_fmadd_ps(v, lower, _mm512_cvtepi32_ps(_mm512_load_si512(from + d * AMX_BLOCK)));
        v = _mm512_mul_ps(_mm512_mul_ps(v, _mm512_set1_ps(row[r])), columns);
        if (add)
            v = _mm512_add_ps(_mm512_maskz_loadu_ps(part, to), v);
        _mm512_mask_storeu_ps(to, part, v);
    }
    sum->next += some;
}

#define AMX_DOT(C, A) __asm__ volatile("tdpbssd %%tmm7, %%tmm" #A ", %%tmm" #C ::: "memory")

/* The sums of A (16 rows) B (16 columns) for `steps` times 64 k.  Meanwhile those before these go where they belong. */
static LANES_UNUSED __attribute__((noinline)) void amx_multiply(const char *left, const char *right, ptrdiff_t steps,
                                                                int32_t *c, amx_sum *sum)
{
    AMX_ZERO(0); AMX_ZERO(1); AMX_ZERO(2); AMX_ZERO(3);
    for (; steps > 0; --steps, left += AMX_STEP, right += AMX_STEP) {
        AMX_LOAD(7, right, 64);
        AMX_LOAD(4, left, 64); AMX_DOT(0, 4);
        AMX_LOAD(5, left + AMX_TILE, 64); AMX_DOT(1, 5);
        AMX_LOAD(6, left + 2 * AMX_TILE, 64); AMX_DOT(2, 6);
        amx_put(sum, 3);
        AMX_LOAD(7, right + AMX_TILE, 64);
        AMX_DOT(1, 4); AMX_DOT(2, 5); AMX_DOT(3, 6);
        amx_put(sum, 3);
        AMX_LOAD(7, right + 2 * AMX_TILE, 64);
        AMX_DOT(2, 4); AMX_DOT(3, 5);
        amx_put(sum, 2);
    }
    amx_put(sum, AMX_ROWS);
    AMX_STORE(0, c, 64); AMX_STORE(1, c + AMX_BLOCK, 64); AMX_STORE(2, c + 2 * AMX_BLOCK, 64);
    AMX_STORE(3, c + 3 * AMX_BLOCK, 64);
}

/* C (rows, columns) (+)= A B, K products each.  A: 16 rows are amx_size(1, K) bytes, as are 16 columns of B. */
static LANES_UNUSED void amx_panel(const char *left, ptrdiff_t rows, const char *right, ptrdiff_t columns, ptrdiff_t K,
                                   float *c, ptrdiff_t ldc, int add)
{
    int32_t room[2][AMX_SUMS * AMX_BLOCK] __attribute__((aligned(64)));
    const ptrdiff_t each = amx_size(1, K);
    amx_sum sum = {0}; /* none yet */
    int odd = 0;
    amx_begin(rows, 1);
    for (ptrdiff_t k = 0; k < K; k += AMX_DEEP) {
        const ptrdiff_t depth = K - k < AMX_DEEP ? K - k : AMX_DEEP, steps = (depth + AMX_K - 1) / AMX_K;
        const char *down = left + amx_size(1, k);
        for (ptrdiff_t i = 0; i < rows; i += AMX_ROWS, down += each) {
            const int m = rows - i < AMX_ROWS ? (int)(rows - i) : AMX_ROWS;
            const char *across = right + amx_size(1, k);
            for (ptrdiff_t j = 0; j < columns; j += AMX_ROWS, across += each, odd = !odd) {
                float *to = c + i * ldc + j;
                for (int r = 0; r < m; ++r)
                    __builtin_prefetch(to + r * ldc, 1, 2);
                amx_multiply(down + AMX_UNITS, across + AMX_UNITS, steps, room[odd], &sum);
                sum = (amx_sum){to, ldc, room[odd], (const float *)down, (const float *)across,
                                m, add || k > 0, 0, amx_mask(columns - j)};
            }
        }
    }
    amx_put(&sum, AMX_ROWS);
    amx_end();
}
#else
LANES_INLINE void amx_panel(const char *left, ptrdiff_t rows, const char *right, ptrdiff_t columns, ptrdiff_t K, float *c,
                            ptrdiff_t ldc, int add)
{
    check(0, "no AMX");
}
#endif
#endif
