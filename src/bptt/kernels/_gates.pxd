"""Arithmetic of the gated cells, a row at a time; the equations are in docs/equations.md.

A row of a gated cell is 4 H numbers: i f g o of an LSTM, n r z q (or s) of a GRU.  A `point` function takes one
vector of each, `apart` bytes apart, of which the first n lanes count; a row function walks over a row with it.
"""

from libc.stddef cimport ptrdiff_t

from bptt.kernels._activations cimport WHOLE, beside, get, lanes, put, sigmoid_, splat, tanh_
from bptt.kernels._tile cimport LANES_F32, LANES_F64, lanes_f32, lanes_f64, real


# ---------------------------------------------------------------- LSTM

cdef inline void lstm_point(
    lanes *a, ptrdiff_t apart, const lanes *ph, const lanes *before, lanes *c, lanes *m, ptrdiff_t n
) noexcept nogil:
    cdef lanes i = get(a, n), f = get(beside(a, apart), n), g = get(beside(a, 2 * apart), n)
    cdef lanes o = get(beside(a, 3 * apart), n), c_0 = get(before, n), c_t
    if ph != NULL:
        i = get(ph, n) * c_0 + i
        f = get(beside(ph, apart), n) * c_0 + f
    i, f, g = sigmoid_(i), sigmoid_(f), tanh_(g)
    # c_t = f c_{t-1} + i g
    c_t = f * c_0 + i * g
    if ph != NULL:
        o = get(beside(ph, 2 * apart), n) * c_t + o
    o = sigmoid_(o)
    put(a, i, n)
    put(beside(a, apart), f, n)
    put(beside(a, 2 * apart), g, n)
    put(beside(a, 3 * apart), o, n)
    put(c, c_t, n)
    # m_t = o tanh(c_t)
    put(m, o * tanh_(c_t), n)


cdef inline void lstm_forward_lanes(
    lanes *a, ptrdiff_t apart, const lanes *ph, const lanes *before, lanes *c, lanes *m, ptrdiff_t whole,
    ptrdiff_t tail
) noexcept nogil:
    cdef ptrdiff_t k
    for k in range(whole):
        lstm_point(a + k, apart, ph + k if ph != NULL else NULL, before + k, c + k, m + k, WHOLE)
    if tail:
        k = whole
        lstm_point(a + k, apart, ph + k if ph != NULL else NULL, before + k, c + k, m + k, tail)


cdef inline void lstm_forward(
    real *a, const real *ph, const real *before, real *c, real *m, ptrdiff_t H
) noexcept nogil:
    """INOUT a (4 H,): pre-activations in, i f g o out.  IN peepholes (3 H,) or NULL, c_{t-1}.  OUT c_t, m_t.

    c may be before.
    """
    if real is float:
        lstm_forward_lanes(<lanes_f32 *> a, H * sizeof(float), <const lanes_f32 *> ph, <const lanes_f32 *> before,
                           <lanes_f32 *> c, <lanes_f32 *> m, H // LANES_F32, H % LANES_F32)
    else:
        lstm_forward_lanes(<lanes_f64 *> a, H * sizeof(double), <const lanes_f64 *> ph, <const lanes_f64 *> before,
                           <lanes_f64 *> c, <lanes_f64 *> m, H // LANES_F64, H % LANES_F64)


cdef inline void lstm_back_point(
    const lanes *a, ptrdiff_t apart, const lanes *ph, const lanes *before, const lanes *dh, const lanes *dy,
    lanes *dc, lanes *da, lanes *m, ptrdiff_t n
) noexcept nogil:
    cdef lanes one = splat(<lanes *> NULL, 1.0)
    cdef lanes i = get(a, n), f = get(beside(a, apart), n), g = get(beside(a, 2 * apart), n)
    cdef lanes o = get(beside(a, 3 * apart), n), c_0 = get(before, n), d = get(dh, n), t, dc_t, da_i, da_f, da_o
    if dy != NULL:
        d = get(dy, n) + d
    # tanh(c_t), c_t = f c_{t-1} + i g
    t = tanh_(f * c_0 + i * g)
    if m != NULL:
        put(m, o * t, n)
    # da_o = dh tanh(c_t) o (1 - o)
    da_o = d * t * (o * (one - o))
    # dc_t += dh o (1 - tanh(c_t)^2) + da_o w_o
    dc_t = d * o * (one - t * t) + get(dc, n)
    if ph != NULL:
        dc_t = da_o * get(beside(ph, 2 * apart), n) + dc_t
    # da_i = dc_t g i (1 - i);  da_f = dc_t c_{t-1} f (1 - f);  da_g = dc_t i (1 - g^2)
    da_i = dc_t * g * (i * (one - i))
    da_f = dc_t * c_0 * (f * (one - f))
    put(da, da_i, n)
    put(beside(da, apart), da_f, n)
    put(beside(da, 2 * apart), dc_t * i * (one - g * g), n)
    put(beside(da, 3 * apart), da_o, n)
    # dc_{t-1} = dc_t f + da_i w_i + da_f w_f
    dc_t = dc_t * f
    if ph != NULL:
        dc_t = da_i * get(ph, n) + dc_t
        dc_t = da_f * get(beside(ph, apart), n) + dc_t
    put(dc, dc_t, n)


cdef inline void lstm_backward_lanes(
    const lanes *a, ptrdiff_t apart, const lanes *ph, const lanes *before, const lanes *dh, const lanes *dy,
    lanes *dc, lanes *da, lanes *m, ptrdiff_t whole, ptrdiff_t tail
) noexcept nogil:
    cdef ptrdiff_t k
    for k in range(whole):
        lstm_back_point(a + k, apart, ph + k if ph != NULL else NULL, before + k, dh + k,
                        dy + k if dy != NULL else NULL, dc + k, da + k, m + k if m != NULL else NULL, WHOLE)
    if tail:
        k = whole
        lstm_back_point(a + k, apart, ph + k if ph != NULL else NULL, before + k, dh + k,
                        dy + k if dy != NULL else NULL, dc + k, da + k, m + k if m != NULL else NULL, tail)


cdef inline void lstm_backward(
    const real *a, const real *ph, const real *before, const real *dh, const real *dy, real *dc, real *da, real *m,
    ptrdiff_t H
) noexcept nogil:
    """IN gates a (4 H,), peepholes (3 H,) or NULL, c_{t-1}, dh and dy (NULL: 0), which add up to dL/dm_t.

    INOUT dc: dL/dc_t in, dL/dc_{t-1} out.  OUT da (4 H,), m_t (NULL: not wanted).
    """
    if real is float:
        lstm_backward_lanes(<const lanes_f32 *> a, H * sizeof(float), <const lanes_f32 *> ph,
                            <const lanes_f32 *> before, <const lanes_f32 *> dh, <const lanes_f32 *> dy,
                            <lanes_f32 *> dc, <lanes_f32 *> da, <lanes_f32 *> m, H // LANES_F32, H % LANES_F32)
    else:
        lstm_backward_lanes(<const lanes_f64 *> a, H * sizeof(double), <const lanes_f64 *> ph,
                            <const lanes_f64 *> before, <const lanes_f64 *> dh, <const lanes_f64 *> dy,
                            <lanes_f64 *> dc, <lanes_f64 *> da, <lanes_f64 *> m, H // LANES_F64, H % LANES_F64)


# ---------------------------------------------------------------- GRU

cdef inline void gru_point(lanes *a, ptrdiff_t apart, const lanes *before, lanes *h, ptrdiff_t n) noexcept nogil:
    cdef lanes r = sigmoid_(get(beside(a, apart), n)), z = sigmoid_(get(beside(a, 2 * apart), n))
    # n = tanh(p_n + r q);  h_t = (1 - z) n + z h_{t-1}
    cdef lanes new = tanh_(r * get(beside(a, 3 * apart), n) + get(a, n))
    put(a, new, n)
    put(beside(a, apart), r, n)
    put(beside(a, 2 * apart), z, n)
    put(h, z * (get(before, n) - new) + new, n)


cdef inline void reset_point(
    lanes *a, ptrdiff_t apart, const lanes *masked, ptrdiff_t n
) noexcept nogil:
    # r, z;  s = r h_{t-1}
    cdef lanes r = sigmoid_(get(beside(a, apart), n))
    put(beside(a, apart), r, n)
    put(beside(a, 2 * apart), sigmoid_(get(beside(a, 2 * apart), n)), n)
    put(beside(a, 3 * apart), r * get(masked, n), n)


cdef inline void update_point(lanes *a, ptrdiff_t apart, const lanes *before, lanes *h, ptrdiff_t n) noexcept nogil:
    cdef lanes new = tanh_(get(a, n))
    put(a, new, n)
    put(h, get(beside(a, 2 * apart), n) * (get(before, n) - new) + new, n)


cdef enum GruPart:
    GRU_ALL     # r, z, n and h_t
    GRU_RESET   # r, z and s
    GRU_UPDATE  # n and h_t


cdef inline void gru_forward_lanes(
    GruPart part, lanes *a, ptrdiff_t apart, const lanes *before, lanes *h, ptrdiff_t whole, ptrdiff_t tail
) noexcept nogil:
    cdef ptrdiff_t k
    if part == GRU_ALL:
        for k in range(whole):
            gru_point(a + k, apart, before + k, h + k, WHOLE)
        if tail:
            gru_point(a + whole, apart, before + whole, h + whole, tail)
    elif part == GRU_RESET:
        for k in range(whole):
            reset_point(a + k, apart, before + k, WHOLE)
        if tail:
            reset_point(a + whole, apart, before + whole, tail)
    else:
        for k in range(whole):
            update_point(a + k, apart, before + k, h + k, WHOLE)
        if tail:
            update_point(a + whole, apart, before + whole, h + whole, tail)


cdef inline void gru_forward(GruPart part, real *a, const real *before, real *h, ptrdiff_t H) noexcept nogil:
    """INOUT a (4 H,): p_n, p_r + q_r, p_z + q_z, q_n in, n r z q (or s) out.  IN h_{t-1}.  OUT h_t."""
    if real is float:
        gru_forward_lanes(part, <lanes_f32 *> a, H * sizeof(float), <const lanes_f32 *> before, <lanes_f32 *> h,
                          H // LANES_F32, H % LANES_F32)
    else:
        gru_forward_lanes(part, <lanes_f64 *> a, H * sizeof(double), <const lanes_f64 *> before, <lanes_f64 *> h,
                          H // LANES_F64, H % LANES_F64)


cdef inline void gru_back_point(
    bint after, const lanes *a, ptrdiff_t apart, const lanes *before, const lanes *dh, const lanes *dy, lanes *through,
    bint add, lanes *da, ptrdiff_t n
) noexcept nogil:
    cdef lanes one = splat(<lanes *> NULL, 1.0)
    cdef lanes new = get(a, n), r, z = get(beside(a, 2 * apart), n), d = get(dh, n), da_n, straight
    if dy != NULL:
        d = get(dy, n) + d
    # da_z = dh (h_{t-1} - n) z (1 - z);  da_n = dh (1 - z) (1 - n^2)
    put(beside(da, 2 * apart), d * (get(before, n) - new) * (z * (one - z)), n)
    da_n = d * (one - z) * (one - new * new)
    put(da, da_n, n)
    if after:
        # da_r = da_n q r (1 - r);  dq = da_n r
        r = get(beside(a, apart), n)
        put(beside(da, apart), da_n * get(beside(a, 3 * apart), n) * (r * (one - r)), n)
        put(beside(da, 3 * apart), da_n * r, n)
    # dh_{t-1} = dh z + ...
    straight = d * z
    if add:
        straight = get(through, n) + straight
    put(through, straight, n)


cdef inline void gru_backward_lanes(
    bint after, const lanes *a, ptrdiff_t apart, const lanes *before, const lanes *dh, const lanes *dy, lanes *through,
    bint add, lanes *da, ptrdiff_t whole, ptrdiff_t tail
) noexcept nogil:
    cdef ptrdiff_t k
    for k in range(whole):
        gru_back_point(after, a + k, apart, before + k, dh + k, dy + k if dy != NULL else NULL, through + k, add,
                       da + k, WHOLE)
    if tail:
        k = whole
        gru_back_point(after, a + k, apart, before + k, dh + k, dy + k if dy != NULL else NULL, through + k, add,
                       da + k, tail)


cdef inline void gru_backward(
    bint after, const real *a, const real *before, const real *dh, const real *dy, real *through, bint add, real *da,
    ptrdiff_t H
) noexcept nogil:
    """IN a (4 H,): n r z q, h_{t-1}, dh and dy (NULL: 0), which add up to dL/dh_t.  OUT da (4 H,): of n r z, and of q.

    OUT through (may be dh): what reaches h_{t-1} through z; where add, added to what is there.  Not after: da_r is
    left to `reset_backward`, and there is no dq.
    """
    if real is float:
        gru_backward_lanes(after, <const lanes_f32 *> a, H * sizeof(float), <const lanes_f32 *> before,
                           <const lanes_f32 *> dh, <const lanes_f32 *> dy, <lanes_f32 *> through, add,
                           <lanes_f32 *> da, H // LANES_F32, H % LANES_F32)
    else:
        gru_backward_lanes(after, <const lanes_f64 *> a, H * sizeof(double), <const lanes_f64 *> before,
                           <const lanes_f64 *> dh, <const lanes_f64 *> dy, <lanes_f64 *> through, add,
                           <lanes_f64 *> da, H // LANES_F64, H % LANES_F64)


cdef inline void reset_back_point(
    const lanes *a, ptrdiff_t apart, const lanes *masked, lanes *ds, lanes *da, ptrdiff_t n
) noexcept nogil:
    cdef lanes one = splat(<lanes *> NULL, 1.0)
    cdef lanes r = get(beside(a, apart), n), d = get(ds, n)
    # da_r = ds h_{t-1} r (1 - r);  dh_{t-1} = ds r + ...
    put(beside(da, apart), d * get(masked, n) * (r * (one - r)), n)
    put(ds, d * r, n)


cdef inline void reset_backward_lanes(
    const lanes *a, ptrdiff_t apart, const lanes *masked, lanes *ds, lanes *da, ptrdiff_t whole, ptrdiff_t tail
) noexcept nogil:
    cdef ptrdiff_t k
    for k in range(whole):
        reset_back_point(a + k, apart, masked + k, ds + k, da + k, WHOLE)
    if tail:
        reset_back_point(a + whole, apart, masked + whole, ds + whole, da + whole, tail)


cdef inline void reset_backward(
    const real *a, const real *masked, real *ds, real *da, ptrdiff_t H
) noexcept nogil:
    """IN a (4 H,): n r z s, m h_{t-1}.  INOUT ds: dL/ds in, what reaches m h_{t-1} through s out.  OUT da_r in da."""
    if real is float:
        reset_backward_lanes(<const lanes_f32 *> a, H * sizeof(float), <const lanes_f32 *> masked, <lanes_f32 *> ds,
                             <lanes_f32 *> da, H // LANES_F32, H % LANES_F32)
    else:
        reset_backward_lanes(<const lanes_f64 *> a, H * sizeof(double), <const lanes_f64 *> masked, <lanes_f64 *> ds,
                             <lanes_f64 *> da, H // LANES_F64, H % LANES_F64)
