"""Layer normalisation of a row: LN(v) = (v - mean) / sqrt(variance + 1e-5), over all n entries."""

from libc.math cimport sqrt
from libc.stddef cimport ptrdiff_t

from bptt.kernels._activations cimport WHOLE, get, lanes, put, splat
from bptt.kernels._tile cimport LANES_F32, LANES_F64, lanes_f32, lanes_f64, real

cdef enum:
    PER_EPSILON = 100_000  # epsilon = 1e-5


cdef inline double across(lanes v) noexcept nogil:
    """Sum of a vector's lanes."""
    cdef double total = 0
    cdef int k
    if lanes is lanes_f32:
        for k in range(LANES_F32):
            total += (<float *> &v)[k]
    else:
        for k in range(LANES_F64):
            total += (<double *> &v)[k]
    return total


cdef inline double normalise_lanes(lanes *v, ptrdiff_t n, ptrdiff_t whole, ptrdiff_t tail) noexcept nogil:
    cdef lanes sum_0 = splat(<lanes *> NULL, 0.0), sum_1 = sum_0, mean, d, scale
    cdef double rate
    cdef ptrdiff_t k, pairs = whole // 2
    for k in range(pairs):
        sum_0 = sum_0 + v[2 * k]
        sum_1 = sum_1 + v[2 * k + 1]
    if whole % 2:
        sum_0 = sum_0 + v[whole - 1]
    if tail:
        sum_1 = sum_1 + get(v + whole, tail)
    mean = splat(<lanes *> NULL, across(sum_0 + sum_1) / n)
    sum_0 = sum_1 = splat(<lanes *> NULL, 0.0)
    for k in range(pairs):
        d = v[2 * k] - mean
        v[2 * k] = d
        sum_0 = d * d + sum_0
        d = v[2 * k + 1] - mean
        v[2 * k + 1] = d
        sum_1 = d * d + sum_1
    if whole % 2:
        d = v[whole - 1] - mean
        v[whole - 1] = d
        sum_0 = d * d + sum_0
    if tail:
        # the lanes past the end are 0, not less the mean
        put(v + whole, get(v + whole, tail) - mean, tail)
        d = get(v + whole, tail)
        sum_1 = d * d + sum_1
    rate = 1.0 / sqrt(across(sum_0 + sum_1) / n + 1.0 / PER_EPSILON)
    scale = splat(<lanes *> NULL, rate)
    for k in range(whole):
        v[k] = v[k] * scale
    if tail:
        put(v + whole, get(v + whole, tail) * scale, tail)
    return rate


cdef inline double normalise(real *v, ptrdiff_t n) noexcept nogil:
    """INOUT v <- LN(v).  Returns 1 / sqrt(variance + 1e-5)."""
    if real is float:
        return normalise_lanes(<lanes_f32 *> v, n, n // LANES_F32, n % LANES_F32)
    else:
        return normalise_lanes(<lanes_f64 *> v, n, n // LANES_F64, n % LANES_F64)


cdef inline void scale_lanes(
    const lanes *normed, const lanes *gain, const lanes *shift, lanes *a, ptrdiff_t whole, ptrdiff_t tail
) noexcept nogil:
    cdef ptrdiff_t k
    for k in range(whole):
        a[k] = normed[k] * gain[k] + shift[k]
    if tail:
        put(a + whole, get(normed + whole, tail) * get(gain + whole, tail) + get(shift + whole, tail), tail)


cdef inline void scale_add(
    const real *normed, const real *gain, const real *shift, real *a, ptrdiff_t n
) noexcept nogil:
    """OUT a = normed gain + shift, which may be a."""
    if real is float:
        scale_lanes(<const lanes_f32 *> normed, <const lanes_f32 *> gain, <const lanes_f32 *> shift, <lanes_f32 *> a,
                    n // LANES_F32, n % LANES_F32)
    else:
        scale_lanes(<const lanes_f64 *> normed, <const lanes_f64 *> gain, <const lanes_f64 *> shift, <lanes_f64 *> a,
                    n // LANES_F64, n % LANES_F64)


cdef inline void normalise_back_lanes(
    const lanes *d, const lanes *gain, const lanes *normed, double rate, lanes *dv, ptrdiff_t n, ptrdiff_t whole,
    ptrdiff_t tail
) noexcept nogil:
    cdef lanes mean = splat(<lanes *> NULL, 0.0), slope = mean, g, scale
    cdef ptrdiff_t k
    for k in range(whole):
        g = d[k] * gain[k]
        mean = mean + g
        slope = g * normed[k] + slope
    if tail:
        g = get(d + whole, tail) * get(gain + whole, tail)
        mean = mean + g
        slope = g * get(normed + whole, tail) + slope
    mean = splat(<lanes *> NULL, across(mean) / n)
    slope = splat(<lanes *> NULL, across(slope) / n)
    scale = splat(<lanes *> NULL, rate)
    for k in range(whole):
        g = d[k] * gain[k] - mean
        dv[k] = (g - normed[k] * slope) * scale
    if tail:
        g = get(d + whole, tail) * get(gain + whole, tail) - mean
        put(dv + whole, (g - get(normed + whole, tail) * slope) * scale, tail)


cdef inline void normalise_backward(
    const real *d, const real *gain, const real *normed, double rate, real *dv, ptrdiff_t n
) noexcept nogil:
    """OUT dv = rate (g - mean(g) - normed mean(g normed)), g = d gain, for normed = LN(v) and its rate."""
    if real is float:
        normalise_back_lanes(<const lanes_f32 *> d, <const lanes_f32 *> gain, <const lanes_f32 *> normed, rate,
                             <lanes_f32 *> dv, n, n // LANES_F32, n % LANES_F32)
    else:
        normalise_back_lanes(<const lanes_f64 *> d, <const lanes_f64 *> gain, <const lanes_f64 *> normed, rate,
                             <lanes_f64 *> dv, n, n // LANES_F64, n % LANES_F64)


cdef inline double square_lanes(
    const lanes *v, const lanes *more, ptrdiff_t whole, ptrdiff_t tail
) noexcept nogil:
    cdef lanes sum_0 = splat(<lanes *> NULL, 0.0), sum_1 = sum_0, d
    cdef ptrdiff_t k
    for k in range(whole):
        d = v[k]
        if more != NULL:
            d = more[k] + d
        if k % 2:
            sum_1 = d * d + sum_1
        else:
            sum_0 = d * d + sum_0
    if tail:
        d = get(v + whole, tail)
        if more != NULL:
            d = get(more + whole, tail) + d
        sum_1 = d * d + sum_1
    return across(sum_0 + sum_1)


cdef inline double square_sum(const real *v, const real *more, ptrdiff_t n) noexcept nogil:
    """Sum of the squares of v + more (NULL: 0)."""
    if real is float:
        return square_lanes(<const lanes_f32 *> v, <const lanes_f32 *> more, n // LANES_F32, n % LANES_F32)
    else:
        return square_lanes(<const lanes_f64 *> v, <const lanes_f64 *> more, n // LANES_F64, n % LANES_F64)
