# What this processor can do with the code at hand, for the benchmarks' scale, and the activations by themselves, for
# tests of their accuracy.


cdef enum:
    EXP = 100  # beside the codes of the cells


cdef void peak_loop(const real *a, const real *panel, real *c, ptrdiff_t rounds) noexcept nogil:
    cdef ptrdiff_t L = lanes_of(<real *> NULL), r
    for r in range(rounds):
        tile(1, TILE_WIDTH, TILE_HEIGHT, a, BLOCK_K, 1, panel, TILE_WIDTH * L, BLOCK_K, c, TILE_WIDTH * L, L, TILE_SET,
             <const real *> NULL, <const real *> NULL)


def fma_peak(dtype, *, int rounds=2000, int repeats=15):
    """Floating-point operations a second of the bare tile, panel and rows in the nearest caches.

    Parameters
    ----------
    dtype : {numpy.float32, numpy.float64}
    rounds : int
        Tiles in one timing.
    repeats : int
        Timings; the median counts, as the clock moves for the calls that this is compared with, too.
    """
    cdef bint double = as_dtype(dtype).itemsize == 8
    cdef ptrdiff_t L = LANES_F64 if double else LANES_F32
    # the panel, the rows, the result
    cdef size_t part = BLOCK_K * max(TILE_WIDTH * L, <ptrdiff_t> TILE_HEIGHT) * (8 if double else 4)
    cdef Memory memory = take_memory(3 * part)
    memset(memory.aligned, 0, 3 * part)
    times = []
    for _ in range(repeats):
        start = perf_counter()
        with nogil:
            if double:
                peak_loop(<double *> (memory.aligned + part), <double *> memory.aligned,
                          <double *> (memory.aligned + 2 * part), rounds)
            else:
                peak_loop(<float *> (memory.aligned + part), <float *> memory.aligned,
                          <float *> (memory.aligned + 2 * part), rounds)
        times.append(perf_counter() - start)
    return 2.0 * TILE_HEIGHT * TILE_WIDTH * L * BLOCK_K * rounds / median(times)


cdef float read_loop(const float *p, ptrdiff_t n, ptrdiff_t rounds) noexcept nogil:
    cdef lanes_f32 a = f32_splat(0), b = a, c = a, d = a
    cdef ptrdiff_t r, i
    for r in range(rounds):
        i = 0
        while i < n:
            a = a + f32_load(p + i)
            b = b + f32_load(p + i + LANES_F32)
            c = c + f32_load(p + i + 2 * LANES_F32)
            d = d + f32_load(p + i + 3 * LANES_F32)
            i += 4 * LANES_F32
    cdef float out[64]
    f32_store(out, (a + b) + (c + d))
    return out[0]


def read_bandwidth(ptrdiff_t size, *, int repeats=15):
    """Bytes a second (median) that vector loads read, over and over, from a block of `size` bytes."""
    cdef ptrdiff_t step = 4 * LANES_F32, n = max(step, size // 4 // step * step)
    cdef ptrdiff_t rounds = max(<ptrdiff_t> 1, (1 << 26) // (4 * n))
    cdef Memory memory = take_memory(4 * n)
    cdef float sink = 0
    memset(memory.aligned, 0, 4 * n)
    times = []
    for _ in range(repeats):
        start = perf_counter()
        with nogil:
            sink = read_loop(<float *> memory.aligned, n, rounds)
        times.append(perf_counter() - start)
    return 4.0 * n * rounds / median(times) + 0 * sink


cdef double median(list values):
    return sorted(values)[len(values) // 2]


cdef void evaluate(int function, real *v, ptrdiff_t n) noexcept nogil:
    if function == EXP:
        exp_row(v, 0, v, n)
    else:
        cell_forward(function, v, v, n)


def elementwise(str function, v):
    """A new array f(v): the vector code of "tanh", "relu", "sigmoid", "identity" or "exp" by itself."""
    cdef Buffers buffers = Buffers.__new__(Buffers)
    cdef int code = EXP if function == "exp" else CELL_CODES[function]
    out = v.copy()
    cdef ptrdiff_t n = out.size
    cdef void *at = buffers.write(out)
    if v.itemsize == 8:
        evaluate(code, <double *> at, n)
    else:
        evaluate(code, <float *> at, n)
    return out
