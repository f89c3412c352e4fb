"""Arithmetic of the Elman cells: h = f(a) and da = dh f'(a) over contiguous rows. Gated cells: _gates.pxd."""

from libc.stddef cimport ptrdiff_t

from bptt.kernels._activations cimport lanes, load_part, relu_, sigmoid_, splat, store_part, tanh_, where_gt
from bptt.kernels._tile cimport LANES_F32, LANES_F64, lanes_f32, lanes_f64, real

cdef enum:
    TANH = 0
    RELU = 1
    SIGMOID = 2
    IDENTITY = 3
    LSTM = 4
    GRU = 5         # r multiplies W_hn h_{t-1} + b_hn
    GRU_BEFORE = 6  # r multiplies h_{t-1}


cdef inline lanes activation(int cell, lanes a) noexcept nogil:
    # h = f(a)
    if cell == TANH:
        return tanh_(a)
    if cell == RELU:
        return relu_(a)
    if cell == SIGMOID:
        return sigmoid_(a)
    return a


cdef inline lanes activation_backward(int cell, lanes dh, lanes h) noexcept nogil:
    # da = dh f'(a), f' from h = f(a)
    cdef lanes one = splat(<lanes *> NULL, 1.0)
    cdef lanes zero = splat(<lanes *> NULL, 0.0)
    if cell == TANH:
        return dh * (one - h * h)
    if cell == RELU:
        return where_gt(h, zero, dh, zero * h)  # 0, or NaN for NaN
    if cell == SIGMOID:
        return dh * (h * (one - h))
    return dh


cdef inline void forward_loop(int cell, const lanes *a, lanes *h, ptrdiff_t whole, ptrdiff_t tail) noexcept nogil:
    cdef ptrdiff_t i
    for i in range(whole):
        h[i] = activation(cell, a[i])
    if tail:
        store_part(h + whole, activation(cell, load_part(a + whole, tail)), tail)


cdef inline void forward_vectors(
    int cell, const lanes *a, lanes *h, ptrdiff_t whole, ptrdiff_t tail
) noexcept nogil:
    # the choice outside the loop: each loop is one activation, inlined
    if cell == TANH:
        forward_loop(TANH, a, h, whole, tail)
    elif cell == RELU:
        forward_loop(RELU, a, h, whole, tail)
    elif cell == SIGMOID:
        forward_loop(SIGMOID, a, h, whole, tail)
    elif a != h:
        forward_loop(IDENTITY, a, h, whole, tail)


cdef inline void cell_forward(int cell, const real *a, real *h, ptrdiff_t n) noexcept nogil:
    """h[:n] = f(a[:n]); h may be a."""
    if real is float:
        forward_vectors(cell, <const lanes_f32 *> a, <lanes_f32 *> h, n // LANES_F32, n % LANES_F32)
    else:
        forward_vectors(cell, <const lanes_f64 *> a, <lanes_f64 *> h, n // LANES_F64, n % LANES_F64)


cdef inline void backward_loop(
    int cell, lanes *da, const lanes *carry, const lanes *dy, const lanes *h, ptrdiff_t whole, ptrdiff_t tail
) noexcept nogil:
    cdef ptrdiff_t i
    cdef lanes dh
    for i in range(whole):
        dh = carry[i]
        if dy != NULL:
            dh = dy[i] + dh
        da[i] = activation_backward(cell, dh, h[i])
    if tail:
        dh = load_part(carry + whole, tail)
        if dy != NULL:
            dh = load_part(dy + whole, tail) + dh
        store_part(da + whole, activation_backward(cell, dh, load_part(h + whole, tail)), tail)


cdef inline void backward_vectors(
    int cell, lanes *da, const lanes *carry, const lanes *dy, const lanes *h, ptrdiff_t whole, ptrdiff_t tail
) noexcept nogil:
    if cell == TANH:
        backward_loop(TANH, da, carry, dy, h, whole, tail)
    elif cell == RELU:
        backward_loop(RELU, da, carry, dy, h, whole, tail)
    elif cell == SIGMOID:
        backward_loop(SIGMOID, da, carry, dy, h, whole, tail)
    else:
        backward_loop(IDENTITY, da, carry, dy, h, whole, tail)


cdef inline void cell_backward(
    int cell, real *da, const real *carry, const real *dy, const real *h, ptrdiff_t n
) noexcept nogil:
    """da = (dy + carry) f'(a).  OUT da (may be carry itself); IN carry, dy (NULL: 0), h."""
    if real is float:
        backward_vectors(cell, <lanes_f32 *> da, <const lanes_f32 *> carry, <const lanes_f32 *> dy,
                         <const lanes_f32 *> h, n // LANES_F32, n % LANES_F32)
    else:
        backward_vectors(cell, <lanes_f64 *> da, <const lanes_f64 *> carry, <const lanes_f64 *> dy,
                         <const lanes_f64 *> h, n // LANES_F64, n % LANES_F64)
