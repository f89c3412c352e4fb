"""Per-cell arithmetic: h = f(a) and da = dh f'(a) over contiguous rows."""

from libc.stddef cimport ptrdiff_t

from bptt.kernels._activations cimport (
    f32_load, f32_load_part, f32_store, f32_store_part, f64_load, f64_load_part, f64_store, f64_store_part, lanes,
    relu_, sigmoid_, splat, tanh_, where_gt,
)
from bptt.kernels._tile cimport LANES_F32, LANES_F64, lanes_f32, lanes_f64, real

cdef enum:
    TANH = 0
    RELU = 1
    SIGMOID = 2
    IDENTITY = 3


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
        return where_gt(h, zero, dh, h)  # h is 0 here, or NaN
    if cell == SIGMOID:
        return dh * (h * (one - h))
    return dh


cdef inline void forward_loop(int cell, real *h, ptrdiff_t n) noexcept nogil:
    cdef ptrdiff_t i = 0
    if real is float:
        while i + LANES_F32 <= n:
            f32_store(h + i, activation[lanes_f32](cell, f32_load(h + i)))
            i += LANES_F32
        if i < n:
            f32_store_part(h + i, activation[lanes_f32](cell, f32_load_part(h + i, n - i)), n - i)
    else:
        while i + LANES_F64 <= n:
            f64_store(h + i, activation[lanes_f64](cell, f64_load(h + i)))
            i += LANES_F64
        if i < n:
            f64_store_part(h + i, activation[lanes_f64](cell, f64_load_part(h + i, n - i)), n - i)


cdef inline void cell_forward(int cell, real *h, ptrdiff_t n) noexcept nogil:
    """h[:n] = f(h[:n]).  INOUT h: pre-activations in, states out."""
    # the choice outside the loop: each loop is one activation, inlined
    if cell == TANH:
        forward_loop(TANH, h, n)
    elif cell == RELU:
        forward_loop(RELU, h, n)
    elif cell == SIGMOID:
        forward_loop(SIGMOID, h, n)


cdef inline void backward_loop(
    int cell, real *da, const real *carry, const real *dy, const real *h, ptrdiff_t n
) noexcept nogil:
    cdef ptrdiff_t i = 0
    cdef lanes_f32 g32
    cdef lanes_f64 g64
    if real is float:
        while i + LANES_F32 <= n:
            g32 = f32_load(carry + i)
            if dy != NULL:
                g32 = f32_load(dy + i) + g32
            f32_store(da + i, activation_backward[lanes_f32](cell, g32, f32_load(h + i)))
            i += LANES_F32
        if i < n:
            g32 = f32_load_part(carry + i, n - i)
            if dy != NULL:
                g32 = f32_load_part(dy + i, n - i) + g32
            f32_store_part(da + i, activation_backward[lanes_f32](cell, g32, f32_load_part(h + i, n - i)), n - i)
    else:
        while i + LANES_F64 <= n:
            g64 = f64_load(carry + i)
            if dy != NULL:
                g64 = f64_load(dy + i) + g64
            f64_store(da + i, activation_backward[lanes_f64](cell, g64, f64_load(h + i)))
            i += LANES_F64
        if i < n:
            g64 = f64_load_part(carry + i, n - i)
            if dy != NULL:
                g64 = f64_load_part(dy + i, n - i) + g64
            f64_store_part(da + i, activation_backward[lanes_f64](cell, g64, f64_load_part(h + i, n - i)), n - i)


cdef inline void cell_backward(
    int cell, real *da, const real *carry, const real *dy, const real *h, ptrdiff_t n
) noexcept nogil:
    """da = (dy + carry) f'(a).  OUT da (may be carry itself); IN carry, dy (NULL: 0), h."""
    if cell == TANH:
        backward_loop(TANH, da, carry, dy, h, n)
    elif cell == RELU:
        backward_loop(RELU, da, carry, dy, h, n)
    elif cell == SIGMOID:
        backward_loop(SIGMOID, da, carry, dy, h, n)
    else:
        backward_loop(IDENTITY, da, carry, dy, h, n)
