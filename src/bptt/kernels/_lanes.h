/* Vector types: LANES_F32 floats or LANES_F64 doubles that one instruction handles.
 *
 * GCC and Clang write ordinary arithmetic on them (a * b + c) as one instruction; a compiler without vector
 * types gets vectors of one lane and still builds.  aligned(sizeof(real)) makes every load an unaligned one,
 * may_alias lets a row of a NumPy array be read as vectors.
 */
#ifndef BPTT_LANES_H
#define BPTT_LANES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX__)
#include <immintrin.h>
#endif

#if !defined(__GNUC__) || defined(BPTT_SCALAR)
#define LANES_BYTES 0
#elif defined(__AVX512F__)
#define LANES_BYTES 64
#elif defined(__AVX__)
#define LANES_BYTES 32
#else
#define LANES_BYTES 16 /* SSE2, NEON */
#endif

#if LANES_BYTES
#define LANES_F32 (LANES_BYTES / 4)
#define LANES_F64 (LANES_BYTES / 8)
typedef float lanes_f32 __attribute__((vector_size(LANES_BYTES), aligned(4), may_alias));
typedef double lanes_f64 __attribute__((vector_size(LANES_BYTES), aligned(8), may_alias));
typedef int32_t lanes_i32 __attribute__((vector_size(LANES_BYTES), aligned(4), may_alias));
typedef int64_t lanes_i64 __attribute__((vector_size(LANES_BYTES), aligned(8), may_alias));
#define LANES_INLINE static inline __attribute__((always_inline, unused))
#define LANES_UNUSED __attribute__((unused))
#else
#define LANES_F32 1
#define LANES_F64 1
typedef float lanes_f32;
typedef double lanes_f64;
typedef int32_t lanes_i32;
typedef int64_t lanes_i64;
#define LANES_INLINE static __inline
#define LANES_UNUSED
#endif

/* One source for both precisions: load, store, splat, partial load and store, bit casts. */
#if LANES_BYTES
#define LANES_SPLAT(V, s) ((s) - (V){0}) /* s - 0 keeps -0 and NaN */
#define LANES_SELECT(m, a, b) (((m) & (a)) | (~(m) & (b)))
#else
#define LANES_SPLAT(V, s) ((V)(s))
#define LANES_SELECT(m, a, b) ((m) ? (a) : (b))
#endif

#define LANES_DEFINE(P, REAL, V, INT, IV)                                                              \
    LANES_INLINE V P##_splat(REAL s) { return LANES_SPLAT(V, s); }                                     \
    LANES_INLINE V P##_load(const REAL *p) { return *(const V *)p; }                                   \
    LANES_INLINE void P##_store(REAL *p, V v) { *(V *)p = v; }                                         \
    LANES_INLINE IV P##_bits(V v) { IV i; memcpy(&i, &v, sizeof i); return i; }                        \
    LANES_INLINE V P##_from_bits(IV i) { V v; memcpy(&v, &i, sizeof v); return v; }                    \
    LANES_INLINE V P##_abs(V v) { return P##_from_bits(P##_bits(v) & ~P##_bits(P##_splat((REAL)-0.0))); } \
    LANES_INLINE V P##_copysign(V v, V sign)                                                           \
    {                                                                                                  \
        return P##_from_bits(P##_bits(v) | (P##_bits(sign) & P##_bits(P##_splat((REAL)-0.0))));        \
    }

LANES_DEFINE(f32, float, lanes_f32, int32_t, lanes_i32)
LANES_DEFINE(f64, double, lanes_f64, int64_t, lanes_i64)

/* Where a > b take x, else y (y where a or b is NaN). */
#if defined(__AVX512F__)
LANES_INLINE lanes_f32 f32_where_gt(lanes_f32 a, lanes_f32 b, lanes_f32 x, lanes_f32 y)
{
    return (lanes_f32)_mm512_mask_blend_ps(_mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ), (__m512)y, (__m512)x);
}
LANES_INLINE lanes_f64 f64_where_gt(lanes_f64 a, lanes_f64 b, lanes_f64 x, lanes_f64 y)
{
    return (lanes_f64)_mm512_mask_blend_pd(_mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_GT_OQ), (__m512d)y, (__m512d)x);
}
#elif defined(__AVX__)
LANES_INLINE lanes_f32 f32_where_gt(lanes_f32 a, lanes_f32 b, lanes_f32 x, lanes_f32 y)
{
    return (lanes_f32)_mm256_blendv_ps((__m256)y, (__m256)x, _mm256_cmp_ps((__m256)a, (__m256)b, _CMP_GT_OQ));
}
LANES_INLINE lanes_f64 f64_where_gt(lanes_f64 a, lanes_f64 b, lanes_f64 x, lanes_f64 y)
{
    return (lanes_f64)_mm256_blendv_pd((__m256d)y, (__m256d)x, _mm256_cmp_pd((__m256d)a, (__m256d)b, _CMP_GT_OQ));
}
#else
#define LANES_WHERE(P, V, IV)                                                                          \
    LANES_INLINE V P##_where_gt(V a, V b, V x, V y)                                                    \
    {                                                                                                  \
        IV m = (IV)(a > b);                                                                            \
        return P##_from_bits(LANES_SELECT(m, P##_bits(x), P##_bits(y)));                               \
    }
LANES_WHERE(f32, lanes_f32, lanes_i32)
LANES_WHERE(f64, lanes_f64, lanes_i64)
#endif

/* The larger, or smaller, of v and a bound that is a number; NaN is kept. */
#if defined(__AVX512F__)
LANES_INLINE lanes_f32 f32_at_least(lanes_f32 v, lanes_f32 b) { return (lanes_f32)_mm512_max_ps((__m512)b, (__m512)v); }
LANES_INLINE lanes_f32 f32_at_most(lanes_f32 v, lanes_f32 b) { return (lanes_f32)_mm512_min_ps((__m512)b, (__m512)v); }
#elif defined(__AVX__)
LANES_INLINE lanes_f32 f32_at_least(lanes_f32 v, lanes_f32 b) { return (lanes_f32)_mm256_max_ps((__m256)b, (__m256)v); }
LANES_INLINE lanes_f32 f32_at_most(lanes_f32 v, lanes_f32 b) { return (lanes_f32)_mm256_min_ps((__m256)b, (__m256)v); }
#else
LANES_INLINE lanes_f32 f32_at_least(lanes_f32 v, lanes_f32 b) { return f32_where_gt(b, v, b, v); }
LANES_INLINE lanes_f32 f32_at_most(lanes_f32 v, lanes_f32 b) { return f32_where_gt(v, b, b, v); }
#endif

/* 1 / d for 1 <= d < 2^100: 14 bits from the table and one step of Newton's, 2 ULP and a third of a division's time. */
#if defined(__AVX512F__)
LANES_INLINE lanes_f32 f32_reciprocal(lanes_f32 d)
{
    lanes_f32 r = (lanes_f32)_mm512_rcp14_ps((__m512)d);
    return r + r * (f32_splat(1) - d * r);
}
#else
LANES_INLINE lanes_f32 f32_reciprocal(lanes_f32 d) { return f32_splat(1) / d; }
#endif

/* 2^n for whole n in the normal range, n given as round-to-nearest does: value + magic, magic = 1.5 * 2^(fraction bits) */
#define LANES_MAGIC_F32 12582912.0f
#define LANES_MAGIC_F64 6755399441055744.0
LANES_INLINE lanes_f32 f32_exp2_whole(lanes_f32 shifted)
{
    return f32_from_bits((f32_bits(shifted) - f32_bits(f32_splat(LANES_MAGIC_F32)) + 127) << 23);
}
/* v 2^n for whole n, |n| <= 252, v in [1/2, 2]; rounded once where the product is subnormal. */
#if defined(__AVX512F__)
LANES_INLINE lanes_f32 f32_scale(lanes_f32 v, lanes_f32 n) { return (lanes_f32)_mm512_scalef_ps((__m512)v, (__m512)n); }
#else
LANES_INLINE lanes_f32 f32_scale(lanes_f32 v, lanes_f32 n)
{
    lanes_f32 magic = f32_splat(LANES_MAGIC_F32);
    lanes_f32 half = n * f32_splat(0.5f) + magic;
    return v * f32_exp2_whole(half) * f32_exp2_whole((n - (half - magic)) + magic);
}
#endif
/* x / ln 2 - n, with a full fraction although x / ln 2 may have but few bits for it. */
#if defined(__FMA__) || defined(__aarch64__)
LANES_INLINE lanes_f32 f32_fraction(lanes_f32 x, lanes_f32 n)
{
    return x * f32_splat(1.92596299e-8f) + (x * f32_splat(1.44269502f) - n);
}
#else
LANES_INLINE lanes_f32 f32_fraction(lanes_f32 x, lanes_f32 n)
{
    /* Cody and Waite: ln 2 in two parts, the first of 9 bits */
    return ((x - n * f32_splat(0.693359375f)) - n * f32_splat(-2.12194440e-4f)) * f32_splat(1.44269504f);
}
#endif
LANES_INLINE lanes_f64 f64_exp2_whole(lanes_f64 shifted)
{
    return f64_from_bits((f64_bits(shifted) - f64_bits(f64_splat(LANES_MAGIC_F64)) + 1023) << 52);
}

/* The first n lanes, 0 < n < lanes: never touches memory past p + n; the other lanes read 0.
 *
 * A half or a quarter of a vector goes without a mask where there is one: what a masked store has written can't be
 * loaded before it is in the cache, and every step of a recurrence loads what the one before has stored (float32, H = 4:
 * 20 ns of 90 for a step forward and backward). */
#if defined(__AVX512F__)
#define LANES_MASKED(P, REAL, V, MASK, X, N)                                                           \
    LANES_INLINE V P##_load_part(const REAL *p, ptrdiff_t n)                                           \
    {                                                                                                  \
        if (n == N / 2)                                                                                \
            return (V)_mm512_zext##X##256_##X##512(_mm256_loadu_##X(p));                               \
        if (n == N / 4)                                                                                \
            return (V)_mm512_zext##X##128_##X##512(_mm_loadu_##X(p));                                  \
        return (V)_mm512_maskz_loadu_##X((MASK)((1u << n) - 1u), p);                                   \
    }                                                                                                  \
    LANES_INLINE void P##_store_part(REAL *p, V v, ptrdiff_t n)                                        \
    {                                                                                                  \
        if (n == N / 2)                                                                                \
            _mm256_storeu_##X(p, _mm512_cast##X##512_##X##256(v));                                     \
        else if (n == N / 4)                                                                           \
            _mm_storeu_##X(p, _mm512_cast##X##512_##X##128(v));                                        \
        else                                                                                           \
            _mm512_mask_storeu_##X(p, (MASK)((1u << n) - 1u), v);                                      \
    }
LANES_MASKED(f32, float, lanes_f32, __mmask16, ps, LANES_F32)
LANES_MASKED(f64, double, lanes_f64, __mmask8, pd, LANES_F64)
#else
#define LANES_PART(P, REAL, V)                                                                         \
    LANES_INLINE V P##_load_part(const REAL *p, ptrdiff_t n)                                           \
    {                                                                                                  \
        REAL buffer[sizeof(V) / sizeof(REAL)] = {0};                                                   \
        for (ptrdiff_t j = 0; j < n; ++j)                                                              \
            buffer[j] = p[j];                                                                          \
        return P##_load(buffer);                                                                       \
    }                                                                                                  \
    LANES_INLINE void P##_store_part(REAL *p, V v, ptrdiff_t n)                                        \
    {                                                                                                  \
        REAL buffer[sizeof(V) / sizeof(REAL)];                                                         \
        P##_store(buffer, v);                                                                          \
        for (ptrdiff_t j = 0; j < n; ++j)                                                              \
            p[j] = buffer[j];                                                                          \
    }
LANES_PART(f32, float, lanes_f32)
LANES_PART(f64, double, lanes_f64)
#endif

#endif
