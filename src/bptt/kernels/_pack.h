/* Copying matrices into panels: panel p of a K x N matrix holds, for every k, WIDTH whole vectors of columns.
 *
 * A transposing pack reads LANES rows of LANES numbers and turns them in registers by log2(LANES) rounds of
 * interleaving; number by number it would cost as much as thirty recurrent steps (H = 256).
 */
#ifndef BPTT_PACK_H
#define BPTT_PACK_H

#include "_lanes.h"

#if LANES_BYTES
#if defined(__clang__) || __GNUC__ >= 12
#define PACK_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#define PACK_LOW_2(a, b) PACK_SHUFFLE(a, b, 0, 2)
#define PACK_HIGH_2(a, b) PACK_SHUFFLE(a, b, 1, 3)
#define PACK_LOW_4(a, b) PACK_SHUFFLE(a, b, 0, 4, 1, 5)
#define PACK_HIGH_4(a, b) PACK_SHUFFLE(a, b, 2, 6, 3, 7)
#define PACK_LOW_8(a, b) PACK_SHUFFLE(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define PACK_HIGH_8(a, b) PACK_SHUFFLE(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#define PACK_LOW_16(a, b) PACK_SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define PACK_HIGH_16(a, b) \
    PACK_SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#define PACK_IN_REGISTERS 1
#endif
#endif

/* out[k * out_k + n] = w[n * ldw + k] for n, k < L */
#if defined(PACK_IN_REGISTERS)
#define PACK_BLOCK_(P, REAL, V, L, LOW, HIGH)                                                          \
    LANES_INLINE void P##_pack_block(const REAL *w, ptrdiff_t ldw, REAL *out, ptrdiff_t out_k)         \
    {                                                                                                  \
        V r[L], t[L];                                                                                  \
        for (int n = 0; n < L; ++n)                                                                    \
            r[n] = P##_load(w + n * ldw);                                                              \
        for (int round = 1; round < L; round *= 2) {                                                   \
            for (int n = 0; n < L / 2; ++n) {                                                          \
                t[2 * n] = LOW(r[n], r[n + L / 2]);                                                    \
                t[2 * n + 1] = HIGH(r[n], r[n + L / 2]);                                               \
            }                                                                                          \
            for (int n = 0; n < L; ++n)                                                                \
                r[n] = t[n];                                                                           \
        }                                                                                              \
        for (int k = 0; k < L; ++k)                                                                    \
            P##_store(out + k * out_k, r[k]);                                                          \
    }
#define PACK_BLOCK(P, REAL, V, L, LOW, HIGH) PACK_BLOCK_(P, REAL, V, L, LOW, HIGH)
#else
#define PACK_BLOCK(P, REAL, V, L, LOW, HIGH)                                                           \
    LANES_INLINE void P##_pack_block(const REAL *w, ptrdiff_t ldw, REAL *out, ptrdiff_t out_k)         \
    {                                                                                                  \
        for (int n = 0; n < L; ++n)                                                                    \
            for (int k = 0; k < L; ++k)                                                                \
                out[k * out_k + n] = w[n * ldw + k];                                                   \
    }
#endif

#define PACK_PRECISION(P, REAL, V, L, LOW, HIGH)                                                       \
    PACK_BLOCK(P, REAL, V, L, LOW, HIGH)                                                               \
    /* one vector column of a panel: out[k * out_k + n] = w[n * ldw + k], n < rows <= L, the rest 0 */ \
    static LANES_UNUSED void P##_pack_turned(const REAL *w, ptrdiff_t ldw, ptrdiff_t rows, ptrdiff_t K, \
                                             REAL *out, ptrdiff_t out_k)                               \
    {                                                                                                  \
        ptrdiff_t k = 0;                                                                               \
        if (rows == L)                                                                                 \
            for (; k + L <= K; k += L)                                                                 \
                P##_pack_block(w + k, ldw, out + k * out_k, out_k);                                    \
        for (; k < K; ++k)                                                                             \
            for (ptrdiff_t n = 0; n < L; ++n)                                                          \
                out[k * out_k + n] = n < rows ? w[n * ldw + k] : (REAL)0;                              \
    }                                                                                                  \
    /* rows of a panel: out[k * width + n] = w[k * ldw + n], n < columns, the rest of the width 0 */   \
    static LANES_UNUSED void P##_pack_straight(const REAL *w, ptrdiff_t ldw, ptrdiff_t columns,        \
                                               ptrdiff_t K, REAL *out)                                 \
    {                                                                                                  \
        ptrdiff_t whole = columns / L, tail = columns % L;                                             \
        for (; K > 0; --K) {                                                                           \
            for (ptrdiff_t j = 0; j < whole; ++j)                                                      \
                P##_store(out + j * L, P##_load(w + j * L));                                           \
            out += whole * L;                                                                          \
            if (tail) {                                                                                \
                P##_store(out, P##_load_part(w + whole * L, tail));                                    \
                out += L;                                                                              \
            }                                                                                          \
            w += ldw;                                                                                  \
        }                                                                                              \
    }

#if LANES_BYTES == 64
PACK_PRECISION(f32, float, lanes_f32, 16, PACK_LOW_16, PACK_HIGH_16)
PACK_PRECISION(f64, double, lanes_f64, 8, PACK_LOW_8, PACK_HIGH_8)
#elif LANES_BYTES == 32
PACK_PRECISION(f32, float, lanes_f32, 8, PACK_LOW_8, PACK_HIGH_8)
PACK_PRECISION(f64, double, lanes_f64, 4, PACK_LOW_4, PACK_HIGH_4)
#elif LANES_BYTES == 16
PACK_PRECISION(f32, float, lanes_f32, 4, PACK_LOW_4, PACK_HIGH_4)
PACK_PRECISION(f64, double, lanes_f64, 2, PACK_LOW_2, PACK_HIGH_2)
#else
PACK_PRECISION(f32, float, lanes_f32, 1, , )
PACK_PRECISION(f64, double, lanes_f64, 1, , )
#endif
#endif
