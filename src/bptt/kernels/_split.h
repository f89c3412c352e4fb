/* Operands of weight gradients in whole numbers, C (M, N) = A (M, K) B (K, N), K being rows (t, b) of a chunk.
 *
 * A row of A and a column of B, AMX_DEEP numbers of it at a time, are each a unit, its largest number / AMX_WHOLE, times
 * whole numbers of three digits to the base of 256, from -128 to 127; eight of the nine products of digits are those that
 * count, as in _digits.h, and their sums are exact.  What is lost is 2^-24 of the largest number, which in a sum of so
 * many is no more than float32 loses, if numbers are alike.  But a gradient fades over time, and another number that
 * is zero but for then has that part of it to itself.  So a row or column fits only if of 16 neighbouring numbers all are
 * 0 or one is at least 2^-AMX_FADES of its largest, and if that isn't inf, NaN or near the ends of float32's range.  Others
 * are for the tile of _tile.h.
 *
 * A tile of the unit is 16 rows of 64 bytes, of A 16 rows and 64 k, of B 64 k and 16 columns.  Byte 4 l + q of a row of A
 * is k = 16 q + l, as is byte q of a column in row l of B: so four vectors make a row of either, number by number.
 * Operands are sequences of whole tiles, zero where the matrix ends:
 *
 *     [16 rows or columns] [AMX_DEEP k] unit of each, then [64 k] [digit, the highest first]
 */
#ifndef BPTT_SPLIT_H
#define BPTT_SPLIT_H

#include "_checked.h"
#include "_lanes.h"
#include "_pack.h"

/* An assembler that knows the unit comes with a compiler that has a header for it (GCC 11, Clang 12). */
#define AMX_BUILT 0
#if LANES_BYTES == 64 && defined(__x86_64__) && defined(__linux__) && defined(__has_include)
#if __has_include(<amxtileintrin.h>) || __has_include(<amxintrin.h>)
#undef AMX_BUILT
#define AMX_BUILT 1
#endif
#endif

#define AMX_ROWS 16
#define AMX_K 64
#define AMX_DEEP 256
#define AMX_DIGITS 3
#define AMX_TILE 1024 /* bytes */
#define AMX_STEP (AMX_DIGITS * AMX_TILE)
#define AMX_UNITS 64 /* bytes */
#define AMX_AHEAD 16 /* rows of a right operand, which may lie far apart */

/* Bytes of `vectors` x 16 rows or columns with K products each; of whole times AMX_DEEP also where the next ones begin. */
LANES_INLINE ptrdiff_t amx_size(ptrdiff_t vectors, ptrdiff_t K)
{
    return vectors * ((K + AMX_K - 1) / AMX_K * AMX_STEP + (K + AMX_DEEP - 1) / AMX_DEEP * AMX_UNITS);
}

#if AMX_BUILT
/* The largest |number| that fits is 0, or from 2^-96 to 2^96; these are the bits. */
#define AMX_LEAST (31 << 23)
#define AMX_MOST (223 << 23)
#define AMX_WHOLE (127 * 65536.0f) /* of one digit: numbers that are 0, 1 or -1 are exact */
#define AMX_OFFSET 0x808080        /* makes digits from 0 to 255 of them */
#define AMX_FADES 8

typedef struct { __m512i digit[AMX_DIGITS]; } amx_line;

/* 16 numbers as digits from 0 to 255, the lowest byte being the lowest. */
LANES_INLINE __m512i amx_whole(__m512 v, __m512 scale)
{
    return _mm512_cvtps_epi32(_mm512_fmadd_ps(v, scale, _mm512_set1_ps(AMX_OFFSET)));
}

/* Digits of four vectors: byte q of number l is of number l of vector q. */
LANES_INLINE amx_line amx_join(__m512i u, __m512i v, __m512i w, __m512i x)
{
    const __mmask64 odd = 0xaaaaaaaaaaaaaaaa, upper = 0xcccccccccccccccc;
    const __m512i sign = _mm512_set1_epi8((char)0x80);
    /* low and high digits of two, and the middle ones */
    __m512i ends = _mm512_mask_blend_epi8(odd, u, _mm512_slli_epi32(v, 8));
    __m512i middle = _mm512_mask_blend_epi8(odd, _mm512_srli_epi32(u, 8), v);
    __m512i next_ends = _mm512_mask_blend_epi8(odd, w, _mm512_slli_epi32(x, 8));
    __m512i next_middle = _mm512_mask_blend_epi8(odd, _mm512_srli_epi32(w, 8), x);
    amx_line line;
    line.digit[0] = _mm512_mask_blend_epi8(upper, _mm512_srli_epi32(ends, 16), next_ends);
    line.digit[1] = _mm512_mask_blend_epi8(upper, middle, _mm512_slli_epi32(next_middle, 16));
    line.digit[2] = _mm512_mask_blend_epi8(upper, ends, _mm512_slli_epi32(next_ends, 16));
    for (int d = 0; d < AMX_DIGITS; ++d)
        line.digit[d] = _mm512_xor_si512(line.digit[d], sign);
    return line;
}

LANES_INLINE void amx_store_line(amx_line line, char *to)
{
    for (int d = 0; d < AMX_DIGITS; ++d)
        _mm512_store_si512(to + d * AMX_TILE, line.digit[d]);
}

LANES_INLINE __m512i amx_size_bits(__m512 v)
{
    return _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7fffffff));
}

/* The largest of numbers in 16 columns so far, and the least of the largest of 16 neighbours; as bits. */
typedef struct { __m512i most, least; } amx_range;

LANES_INLINE amx_range amx_no_range(void)
{
    return (amx_range){_mm512_setzero_si512(), _mm512_set1_epi32(0x7fffffff)};
}

LANES_INLINE void amx_see(amx_range *range, __m512i neighbours)
{
    range->most = _mm512_max_epi32(range->most, neighbours);
    range->least = _mm512_mask_min_epi32(range->least, _mm512_test_epi32_mask(neighbours, neighbours), range->least,
                                         neighbours);
}

/* Whether all of 16 columns fit. */
LANES_INLINE int amx_fits(const amx_range *range)
{
    const __mmask16 some = _mm512_test_epi32_mask(range->most, range->most);
    return !_mm512_mask_cmplt_epi32_mask(some, range->most, _mm512_set1_epi32(AMX_LEAST)) &&
           !_mm512_cmpge_epi32_mask(range->most, _mm512_set1_epi32(AMX_MOST)) &&
           !_mm512_mask_cmpgt_epi32_mask(some, _mm512_sub_epi32(range->most, range->least),
                                         _mm512_set1_epi32(AMX_FADES << 23));
}

/* By what 16 rows or columns with these largest numbers are multiplied; their units times 65536 go to `units`. */
LANES_INLINE __m512 amx_scale(__m512i bits, char *units)
{
    const __m512 most = _mm512_castsi512_ps(bits);
    _mm512_store_ps(units, _mm512_mul_ps(most, _mm512_set1_ps(1 / 127.0f)));
    return _mm512_maskz_div_ps(_mm512_test_epi32_mask(bits, bits), _mm512_set1_ps(AMX_WHOLE), most);
}

LANES_INLINE __mmask16 amx_mask(ptrdiff_t n) { return n >= 16 ? 0xffff : n <= 0 ? 0 : (__mmask16)((1u << n) - 1); }

/* B (K, N), whose first head_rows rows are at head, the others at body. */
typedef struct {
    const float *head, *body;
    ptrdiff_t head_rows, ld;
} amx_matrix;

LANES_INLINE const float *amx_row(const amx_matrix *b, ptrdiff_t k)
{
    return k < b->head_rows ? b->head + k * b->ld : b->body + (k - b->head_rows) * b->ld;
}

/* Ranges of N columns, at most 64, of the rows from `first` to `last` - 1. */
LANES_INLINE void amx_look(const amx_matrix *b, ptrdiff_t first, ptrdiff_t last, ptrdiff_t N, amx_range *ranges)
{
    for (ptrdiff_t j = 0; j < N; j += 16)
        ranges[j / 16] = amx_no_range();
    for (ptrdiff_t top = first; top < last; top += 16) {
        const ptrdiff_t end = last - top < 16 ? last : top + 16;
        __m512i most[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
        for (ptrdiff_t k = top; k < end; ++k) {
            const float *row = amx_row(b, k);
            for (ptrdiff_t j = 0; j < N; j += 16) {
                __builtin_prefetch(row + j + AMX_AHEAD * b->ld, 0, 2);
                most[j / 16] = _mm512_max_epi32(most[j / 16],
                                                amx_size_bits(_mm512_maskz_loadu_ps(amx_mask(N - j), row + j)));
            }
        }
        for (ptrdiff_t j = 0; j < N; j += 16)
            amx_see(&ranges[j / 16], most[j / 16]);
    }
}

/* Digits of N columns, at most 64, of B's rows from k on, AMX_K of them or those before `last`; `each` bytes from 16 columns
 * to the next. */
LANES_INLINE void amx_split_lines(const amx_matrix *b, ptrdiff_t k, ptrdiff_t last, ptrdiff_t N, const __m512 *scale,
                                  char *to, ptrdiff_t each)
{
    for (ptrdiff_t l = 0; l < 16; ++l, to += 64) {
        const float *row[4];
        __mmask16 there[4];
        for (int q = 0; q < 4; ++q) {
            const ptrdiff_t at = k + 16 * q + l;
            row[q] = amx_row(b, at < last ? at : k);
            there[q] = at < last ? 0xffff : 0;
        }
        for (ptrdiff_t j = 0; j < N; j += 16) {
            __m512i u[4];
            for (int q = 0; q < 4; ++q)
                u[q] = amx_whole(_mm512_maskz_loadu_ps(there[q] & amx_mask(N - j), row[q] + j), scale[j / 16]);
            amx_store_line(amx_join(u[0], u[1], u[2], u[3]), to + j / 16 * each);
        }
    }
}

/* A (rows, K), at most 64 and AMX_DEEP, of which v is the transposed, (K, rows), with ld.  each: bytes from 16 rows to the
 * next.  unfit: for each 16 rows, is set where one of them doesn't fit.
 *
 * The digits are those of a right operand, by columns of four; as four bytes together they are transposed. */
static LANES_UNUSED __attribute__((noinline)) void amx_split_left(const float *v, ptrdiff_t ld, ptrdiff_t rows,
                                                                  ptrdiff_t K, char *out, ptrdiff_t each, char *unfit)
{
    const amx_matrix all = {NULL, v, 0, ld};
    char lines[4 * AMX_STEP] __attribute__((aligned(64)));
    amx_range ranges[4];
    __m512 scale[4];
    amx_look(&all, 0, K, rows, ranges);
    for (ptrdiff_t g = 0; g * AMX_ROWS < rows; ++g) {
        scale[g] = amx_scale(ranges[g].most, out + g * each);
        unfit[g] |= !amx_fits(&ranges[g]);
    }
    for (ptrdiff_t k = 0; k < K; k += AMX_K) {
        amx_split_lines(&all, k, K, rows, scale, lines, AMX_STEP);
        for (ptrdiff_t g = 0; g * AMX_ROWS < rows; ++g)
            for (ptrdiff_t d = 0; d < AMX_STEP; d += AMX_TILE)
                f32_pack_block((const float *)(lines + g * AMX_STEP + d), 16,
                               (float *)(out + g * each + AMX_UNITS + k / AMX_K * AMX_STEP + d), 16);
    }
}

/* B (K, N), N at most 64, as a right operand.  Returns whether all columns fit. */
static LANES_UNUSED __attribute__((noinline)) int amx_split_right(const float *head, ptrdiff_t head_rows,
                                                                  const float *body, ptrdiff_t ld, ptrdiff_t K,
                                                                  ptrdiff_t N, char *out)
{
    const amx_matrix b = {head, body, head_rows, ld};
    const ptrdiff_t each = amx_size(1, K);
    for (ptrdiff_t first = 0; first < K; first += AMX_DEEP, out += amx_size(1, AMX_DEEP)) {
        const ptrdiff_t last = K - first < AMX_DEEP ? K : first + AMX_DEEP;
        amx_range ranges[4];
        __m512 scale[4];
        amx_look(&b, first, last, N, ranges);
        for (ptrdiff_t j = 0; j < N; j += 16) {
            if (!amx_fits(&ranges[j / 16]))
                return 0;
            scale[j / 16] = amx_scale(ranges[j / 16].most, out + j / 16 * each);
        }
        for (ptrdiff_t k = first; k < last; k += AMX_K)
            amx_split_lines(&b, k, last, N, scale, out + AMX_UNITS + (k - first) / AMX_K * AMX_STEP, each);
    }
    return 1;
}

#else
LANES_INLINE void amx_split_left(const float *v, ptrdiff_t ld, ptrdiff_t rows, ptrdiff_t K, char *out, ptrdiff_t each,
                                 char *unfit)
{
    check(0, "no AMX");
}
LANES_INLINE int amx_split_right(const float *head, ptrdiff_t head_rows, const float *body, ptrdiff_t ld,
                                 ptrdiff_t K, ptrdiff_t N, char *out)
{
    check(0, "no AMX");
    return 0;
}
#endif
#endif
