"""exp, tanh, sigmoid and relu on vectors, and their derivatives from the output.

Branch-free, at most 4 ULP in both precisions, exact at 0 and +-inf, NaN kept, tanh odd.  Clamps are written so
that NaN passes: where_gt(a, b, x, y) takes y where a comparison with NaN fails.
"""

from libc.stddef cimport ptrdiff_t

from bptt.kernels._tile cimport LANES_F32, LANES_F64, lanes_f32, lanes_f64, real

cdef extern from "_lanes.h" nogil:
    const float LANES_MAGIC_F32
    const double LANES_MAGIC_F64
    lanes_f32 f32_splat(float s)
    lanes_f32 f32_load(const float *p)
    lanes_f32 f32_load_part(const float *p, ptrdiff_t n)
    void f32_store(float *p, lanes_f32 v)
    void f32_store_part(float *p, lanes_f32 v, ptrdiff_t n)
    lanes_f32 f32_abs(lanes_f32 v)
    lanes_f32 f32_copysign(lanes_f32 v, lanes_f32 sign)
    lanes_f32 f32_where_gt(lanes_f32 a, lanes_f32 b, lanes_f32 x, lanes_f32 y)
    lanes_f32 f32_at_least(lanes_f32 v, lanes_f32 bound)
    lanes_f32 f32_at_most(lanes_f32 v, lanes_f32 bound)
    lanes_f32 f32_reciprocal(lanes_f32 d)
    lanes_f32 f32_scale(lanes_f32 v, lanes_f32 n)
    lanes_f32 f32_exp2_whole(lanes_f32 shifted)
    lanes_f32 f32_fraction(lanes_f32 x, lanes_f32 n)
    lanes_f64 f64_splat(double s)
    lanes_f64 f64_load_part(const double *p, ptrdiff_t n)
    void f64_store_part(double *p, lanes_f64 v, ptrdiff_t n)
    lanes_f64 f64_abs(lanes_f64 v)
    lanes_f64 f64_copysign(lanes_f64 v, lanes_f64 sign)
    lanes_f64 f64_where_gt(lanes_f64 a, lanes_f64 b, lanes_f64 x, lanes_f64 y)
    lanes_f64 f64_exp2_whole(lanes_f64 shifted)

ctypedef fused lanes:
    lanes_f32
    lanes_f64


# ---------------------------------------------------------------- one name for both precisions

cdef inline lanes splat(lanes *kind, double s) noexcept nogil:
    if lanes is lanes_f32:
        return f32_splat(<float> s)
    else:
        return f64_splat(s)


cdef inline lanes where_gt(lanes a, lanes b, lanes x, lanes y) noexcept nogil:
    if lanes is lanes_f32:
        return f32_where_gt(a, b, x, y)
    else:
        return f64_where_gt(a, b, x, y)


cdef inline lanes absolute(lanes v) noexcept nogil:
    if lanes is lanes_f32:
        return f32_abs(v)
    else:
        return f64_abs(v)


# A pointer to lanes steps by whole vectors: p[i] is the i-th vector of a row.  The last one of a row may be a part.

cdef inline lanes load_part(const lanes *p, ptrdiff_t n) noexcept nogil:
    if lanes is lanes_f32:
        return f32_load_part(<const float *> p, n)
    else:
        return f64_load_part(<const double *> p, n)


cdef inline void store_part(lanes *p, lanes v, ptrdiff_t n) noexcept nogil:
    if lanes is lanes_f32:
        f32_store_part(<float *> p, v, n)
    else:
        f64_store_part(<double *> p, v, n)


cdef enum:
    WHOLE = 0  # as a number of lanes: all of them


cdef inline lanes get(const lanes *p, ptrdiff_t n) noexcept nogil:
    """The vector at p, or its first n lanes."""
    return p[0] if n == WHOLE else load_part(p, n)


cdef inline void put(lanes *p, lanes v, ptrdiff_t n) noexcept nogil:
    if n == WHOLE:
        p[0] = v
    else:
        store_part(p, v, n)


cdef inline lanes *beside(const lanes *p, ptrdiff_t bytes) noexcept nogil:
    """p moved on; NULL stays NULL."""
    return <lanes *> (<char *> p + bytes) if p != NULL else NULL


# ---------------------------------------------------------------- functions

cdef inline lanes_f32 exp2m1_f32(lanes_f32 f) noexcept nogil:
    # 2^f - 1, |f| <= 1/2: f (c_0 + f (c_1 + ...)), the bracket interpolates at Chebyshev points, relative error 5.1e-9;
    # short chain (Estrin); f c_0 comes last, since its rounding is the one that counts
    cdef lanes_f32 square = f * f
    cdef lanes_f32 low = f32_splat(5.55035710991e-2) * f + f32_splat(0.240226507606)
    cdef lanes_f32 high = f32_splat(1.33908656612e-3) * f + f32_splat(9.61808255355e-3)
    high = f32_splat(1.54531649334e-4) * square + high
    return f * f32_splat(0.693147188027) + square * (high * square + low)


cdef inline lanes_f32 exp_f32(lanes_f32 x) noexcept nogil:
    # x / ln 2 = n + f, n whole, |f| <= 1/2;  e^x = 2^f 2^n
    cdef lanes_f32 magic = f32_splat(LANES_MAGIC_F32)
    cdef lanes_f32 n
    x = f32_at_least(f32_at_most(x, f32_splat(89.0)), f32_splat(-105.0))
    n = x * f32_splat(1.44269504088896341) + magic - magic
    return f32_scale(exp2m1_f32(f32_fraction(x, n)) + f32_splat(1.0), n)


cdef inline lanes_f64 exp_f64(lanes_f64 x) noexcept nogil:
    # Taylor to r^13: r^14 / 14! < 5e-18 for |r| <= ln 2 / 2
    cdef lanes_f64 top = f64_splat(710.0), bottom = f64_splat(-746.0)
    cdef lanes_f64 magic = f64_splat(LANES_MAGIC_F64)
    cdef lanes_f64 shifted, n, half, r, e
    x = f64_where_gt(x, top, top, x)
    x = f64_where_gt(bottom, x, bottom, x)
    shifted = x * f64_splat(1.4426950408889634074) + magic
    n = shifted - magic
    r = (x - n * f64_splat(6.93145751953125e-1)) - n * f64_splat(1.42860682030941723212e-6)
    e = f64_splat(1.6059043836821614599e-10) * r + f64_splat(2.0876756987868098979e-9)
    e = e * r + f64_splat(2.5052108385441718775e-8)
    e = e * r + f64_splat(2.7557319223985890653e-7)
    e = e * r + f64_splat(2.7557319223985890653e-6)
    e = e * r + f64_splat(2.4801587301587301587e-5)
    e = e * r + f64_splat(1.9841269841269841270e-4)
    e = e * r + f64_splat(1.3888888888888888889e-3)
    e = e * r + f64_splat(8.3333333333333333333e-3)
    e = e * r + f64_splat(4.1666666666666666667e-2)
    e = e * r + f64_splat(1.6666666666666666667e-1)
    e = e * r + f64_splat(0.5)
    e = e * (r * r) + r + f64_splat(1.0)
    half = n * f64_splat(0.5) + magic
    return e * f64_exp2_whole(half) * f64_exp2_whole((n - (half - magic)) + magic)


cdef inline lanes_f32 tanh_f32(lanes_f32 x) noexcept nogil:
    # tanh |x| = m / (m + 2), m = e^(2 |x|) - 1 = 2^n (2^f - 1) + (2^n - 1) without cancellation;  1 from 9.02 on.
    # One rational function of x is a little less work, but its sums lose 5 ULP.
    cdef lanes_f32 one = f32_splat(1.0), magic = f32_splat(LANES_MAGIC_F32)
    cdef lanes_f32 a = f32_at_most(f32_abs(x), f32_splat(9.02))
    cdef lanes_f32 scale = f32_splat(2.88539008177792681)  # 2 / ln 2
    cdef lanes_f32 shifted = a * scale + magic, power = f32_exp2_whole(shifted), m
    # the rounding of |x| scale, where it is rounded, counts for less the larger x is
    m = exp2m1_f32(a * scale - (shifted - magic)) * power + (power - one)
    return f32_copysign(m * f32_reciprocal(m + f32_splat(2.0)), x)


cdef inline lanes_f64 tanh_f64(lanes_f64 x) noexcept nogil:
    # |x| <= 0.625: x + x z P(z) / Q(z), z = x^2 (Cephes tanh);  above: 1 - 2 / (exp(2 |x|) + 1);  one division
    cdef lanes_f64 top = f64_splat(22.0), one = f64_splat(1.0), edge = f64_splat(0.625)
    cdef lanes_f64 a = f64_abs(x)
    cdef lanes_f64 z, p, q, base
    a = f64_where_gt(a, top, top, a)
    z = a * a
    p = f64_splat(-9.64399179425052238628e-1) * z + f64_splat(-9.92877231001918586564e1)
    p = p * z + f64_splat(-1.61468768441708447952e3)
    q = (z + f64_splat(1.12811678491632931402e2)) * z + f64_splat(2.23548839060100448583e3)
    q = q * z + f64_splat(4.84406305325125486048e3)
    p = f64_where_gt(a, edge, f64_splat(-2.0), a * z * p)
    q = f64_where_gt(a, edge, exp_f64(a + a) + one, q)
    base = f64_where_gt(a, edge, one, a)
    return f64_copysign(base + p / q, x)


cdef inline lanes exp_(lanes x) noexcept nogil:
    if lanes is lanes_f32:
        return exp_f32(x)
    else:
        return exp_f64(x)


cdef inline lanes tanh_(lanes x) noexcept nogil:
    if lanes is lanes_f32:
        return tanh_f32(x)
    else:
        return tanh_f64(x)


cdef inline lanes reciprocal(lanes d) noexcept nogil:
    # 1 / d, 1 <= d <= 2
    if lanes is lanes_f32:
        return f32_reciprocal(d)
    else:
        return splat(<lanes *> NULL, 1.0) / d


cdef inline lanes sigmoid_(lanes x) noexcept nogil:
    # e = exp(-|x|);  1 / (1 + e) for x > 0, e / (1 + e) for x <= 0: no overflow, and full precision near 0
    cdef lanes one = splat(<lanes *> NULL, 1.0)
    cdef lanes zero = splat(<lanes *> NULL, 0.0)
    cdef lanes e = exp_(zero - absolute(x))
    return where_gt(x, zero, one, e) * reciprocal(one + e)


cdef inline lanes relu_(lanes x) noexcept nogil:
    cdef lanes zero = splat(<lanes *> NULL, 0.0)
    return where_gt(zero, x, zero, x)


cdef inline void exp_vectors(
    const lanes *x, double shift, lanes *out, ptrdiff_t whole, ptrdiff_t tail
) noexcept nogil:
    cdef lanes by = splat(<lanes *> NULL, shift)
    cdef ptrdiff_t i
    for i in range(whole):
        out[i] = exp_(x[i] - by)
    if tail:
        store_part(out + whole, exp_(load_part(x + whole, tail) - by), tail)


cdef inline void exp_row(const real *x, real shift, real *out, ptrdiff_t n) noexcept nogil:
    """out[:n] = exp(x[:n] - shift); out may be x."""
    if real is float:
        exp_vectors(<const lanes_f32 *> x, shift, <lanes_f32 *> out, n // LANES_F32, n % LANES_F32)
    else:
        exp_vectors(<const lanes_f64 *> x, shift, <lanes_f64 *> out, n // LANES_F64, n % LANES_F64)
