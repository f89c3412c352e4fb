"""Layer normalisation of a row: LN(v) = (v - mean) / sqrt(variance + 1e-5), over all n entries."""

from libc.math cimport sqrt
from libc.stddef cimport ptrdiff_t

from bptt.kernels._activations cimport WHOLE, get, lanes, put, splat
from bptt.kernels._tile cimport LANES_F32, LANES_F64, lanes_f32, lanes_f64, real

cdef extern from "_past.h" nogil:
    bint past_whole(const void *p, size_t bytes)
    void f32_past(float *p, lanes_f32 v)
    void f64_past(double *p, lanes_f64 v)

cdef enum:
    PER_EPSILON = 100_000  # epsilon = 1e-5


cdef inline double across(lanes v) noexcept nogil:
    """Sum of a vector's lanes."""
    cdef double total[4]
    cdef int k
    total[0] = total[1] = total[2] = total[3] = 0
    # one after the other they would take as long as the rest of a row of a thousand numbers
    if lanes is lanes_f32:
        for k in range(LANES_F32):
            total[k % 4] += (<float *> &v)[k]
    else:
        for k in range(LANES_F64):
            total[k % 4] += (<double *> &v)[k]
    return (total[0] + total[1]) + (total[2] + total[3])


cdef inline void put_past(lanes *p, lanes v) noexcept nogil:
    if lanes is lanes_f32:
        f32_past(<float *> p, v)
    else:
        f64_past(<double *> p, v)


cdef inline double normalise_lanes(
    const lanes *v, const lanes *gain, const lanes *shift, lanes *normed, bint past, lanes *a, ptrdiff_t n,
    ptrdiff_t whole, ptrdiff_t tail
) noexcept nogil:
    cdef lanes sums[4]
    cdef lanes mean, d, scale, rest
    cdef double rate
    cdef ptrdiff_t k, fours = whole // 4 * 4
    cdef int j
    for j in range(4):
        sums[j] = splat(<lanes *> NULL, 0.0)
    for k in range(0, fours, 4):
        for j in range(4):
            sums[j] = sums[j] + v[k + j]
    for k in range(fours, whole):
        sums[0] = sums[0] + v[k]
    if tail:
        sums[1] = sums[1] + get(v + whole, tail)
    mean = splat(<lanes *> NULL, across((sums[0] + sums[1]) + (sums[2] + sums[3])) / n)
    for j in range(4):
        sums[j] = splat(<lanes *> NULL, 0.0)
    for k in range(0, fours, 4):
        for j in range(4):
            d = v[k + j] - mean
            sums[j] = d * d + sums[j]
    for k in range(fours, whole):
        d = v[k] - mean
        sums[0] = d * d + sums[0]
    if tail:
        # the lanes past the end are not 0 less the mean, but 0
        put(&rest, get(v + whole, tail) - mean, tail)
        d = get(&rest, tail)
        sums[1] = d * d + sums[1]
    rate = 1.0 / sqrt(across((sums[0] + sums[1]) + (sums[2] + sums[3])) / n + 1.0 / PER_EPSILON)
    scale = splat(<lanes *> NULL, rate)
    if past:
        for k in range(whole):
            d = (v[k] - mean) * scale
            put_past(normed + k, d)
            a[k] = d * gain[k] + shift[k]
    elif normed != NULL:
        for k in range(whole):
            d = (v[k] - mean) * scale
            normed[k] = d
            a[k] = d * gain[k] + shift[k]
    else:
        for k in range(whole):
            a[k] = (v[k] - mean) * scale * gain[k] + shift[k]
    if tail:
        d = (get(v + whole, tail) - mean) * scale
        if normed != NULL:
            put(normed + whole, d, tail)
        put(a + whole, d * get(gain + whole, tail) + get(shift + whole, tail), tail)
    return rate


cdef inline double normalise(
    const real *v, const real *gain, const real *shift, real *normed, bint past, real *a, ptrdiff_t n
) noexcept nogil:
    """OUT a = LN(v) gain + shift, which may be v or shift; normed = LN(v), or NULL.  Returns 1 / sqrt(variance + 1e-5).

    past: normed is to go past the caches; it may not be v then.
    """
    past = past and normed != NULL and past_whole(normed, n * sizeof(real))
    if real is float:
        return normalise_lanes(<const lanes_f32 *> v, <const lanes_f32 *> gain, <const lanes_f32 *> shift,
                               <lanes_f32 *> normed, past, <lanes_f32 *> a, n, n // LANES_F32, n % LANES_F32)
    else:
        return normalise_lanes(<const lanes_f64 *> v, <const lanes_f64 *> gain, <const lanes_f64 *> shift,
                               <lanes_f64 *> normed, past, <lanes_f64 *> a, n, n // LANES_F64, n % LANES_F64)


cdef inline void normalise_back_lanes(
    const lanes *d, const lanes *gain, const lanes *normed, double rate, lanes *dv, lanes *sums, bint add,
    ptrdiff_t n, ptrdiff_t whole, ptrdiff_t tail
) noexcept nogil:
    cdef lanes mean = splat(<lanes *> NULL, 0.0), slope = mean, mean_1 = mean, slope_1 = mean, g, scale
    cdef ptrdiff_t k
    for k in range(whole // 2):
        g = d[2 * k] * gain[2 * k]
        mean = mean + g
        slope = g * normed[2 * k] + slope
        g = d[2 * k + 1] * gain[2 * k + 1]
        mean_1 = mean_1 + g
        slope_1 = g * normed[2 * k + 1] + slope_1
    if whole % 2:
        g = d[whole - 1] * gain[whole - 1]
        mean = mean + g
        slope = g * normed[whole - 1] + slope
    if tail:
        g = get(d + whole, tail) * get(gain + whole, tail)
        mean_1 = mean_1 + g
        slope_1 = g * get(normed + whole, tail) + slope_1
    mean = splat(<lanes *> NULL, across(mean + mean_1) / n)
    slope = splat(<lanes *> NULL, across(slope + slope_1) / n)
    scale = splat(<lanes *> NULL, rate)
    for k in range(whole):
        g = d[k] * gain[k] - mean
        dv[k] = (g - normed[k] * slope) * scale
    if tail:
        g = get(d + whole, tail) * get(gain + whole, tail) - mean
        put(dv + whole, (g - get(normed + whole, tail) * slope) * scale, tail)
    if sums != NULL:
        for k in range(whole):
            sums[k] = d[k] * normed[k] + sums[k] if add else d[k] * normed[k]
        if tail:
            g = get(d + whole, tail) * get(normed + whole, tail)
            put(sums + whole, g + get(sums + whole, tail) if add else g, tail)


cdef inline void normalise_backward(
    const real *d, const real *gain, const real *normed, double rate, real *dv, real *sums, bint add, ptrdiff_t n
) noexcept nogil:
    """OUT dv = rate (g - mean(g) - normed mean(g normed)), g = d gain, for normed = LN(v) and its rate.

    OUT sums (+)= d normed, or NULL: part of the gain's gradient.
    """
    if real is float:
        normalise_back_lanes(<const lanes_f32 *> d, <const lanes_f32 *> gain, <const lanes_f32 *> normed, rate,
                             <lanes_f32 *> dv, <lanes_f32 *> sums, add, n, n // LANES_F32, n % LANES_F32)
    else:
        normalise_back_lanes(<const lanes_f64 *> d, <const lanes_f64 *> gain, <const lanes_f64 *> normed, rate,
                             <lanes_f64 *> dv, <lanes_f64 *> sums, add, n, n // LANES_F64, n % LANES_F64)


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
