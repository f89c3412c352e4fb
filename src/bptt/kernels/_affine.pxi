# The readout's product and its gradients, with the same tile.


cdef class AffineJob(Job):
    """y = x W^T + b, or dx = dy W: rows in blocks."""

    cdef bint double
    cdef ptrdiff_t rows, K, N
    cdef void *a        # IN (rows, K)
    cdef void *packed   # IN (K, N) packed
    cdef void *bias     # IN padded row or NULL
    cdef void *c        # OUT (rows, N)

    cdef void item(self, int64_t k, int worker) noexcept nogil:
        cdef ptrdiff_t first = block_start(self.rows, self.items, k), last = block_start(self.rows, self.items, k + 1)
        if self.interrupted(worker, 2.0 * (last - first) * self.K * self.N):
            return
        if self.double:
            product(1, <const double *> self.a + first * self.K, self.K, 1, last - first, 1, 0,
                    <const double *> self.packed, self.K, self.N, <double *> self.c + first * self.N, self.N,
                    0, TILE_SET, <const double *> self.bias, False)
        else:
            product(1, <const float *> self.a + first * self.K, self.K, 1, last - first, 1, 0,
                    <const float *> self.packed, self.K, self.N, <float *> self.c + first * self.N, self.N,
                    0, TILE_SET, <const float *> self.bias, False)


cdef class AffineGradientJob(Job):
    """dy transposed; then dW = dy^T x by panels of x, and db."""

    cdef bint double
    cdef ptrdiff_t rows, K, N
    cdef ptrdiff_t turns
    cdef Memory scratch
    cdef size_t scratch_each
    cdef Memory turned  # WORK (N, rows)
    cdef void *x        # IN (rows, K)
    cdef void *dy       # IN (rows, N)
    cdef void *dweight  # OUT (N, K)
    cdef void *dbias    # OUT (N,)

    cdef bint ready(self, int64_t k) noexcept nogil:
        return k < self.turns or share_read(&self.finished) >= self.turns

    cdef void item(self, int64_t k, int worker) noexcept nogil:
        if self.interrupted(worker, self.rows * self.N):
            return
        if self.double:
            affine_gradient_item(self, k, worker, <double *> NULL)
        else:
            affine_gradient_item(self, k, worker, <float *> NULL)


cdef void affine_gradient_item(AffineGradientJob job, int64_t k, int worker, real *kind) noexcept nogil:
    cdef const real *dy = <const real *> job.dy
    cdef real *turned = <real *> job.turned.aligned
    cdef ptrdiff_t column, row = 0
    if k < job.turns:
        column = block_start(job.N, job.turns, k)
        turn(dy + column, job.N, job.rows, block_start(job.N, job.turns, k + 1) - column,
             turned + column * job.rows)
    elif k < job.items - 1:
        while row < job.rows and not job.interrupted(worker, 2.0 * BLOCK_K * job.N * 64):
            outer_panel(turned + row, job.rows, 1, no_left, job.N, 0,
                        min(job.rows - row, <ptrdiff_t> BLOCK_K), <const real *> NULL, 0,
                        <const real *> job.x + row * job.K, job.K, k - job.turns,
                        <real *> (job.scratch.aligned + worker * job.scratch_each), NULL, <real *> job.dweight,
                        TILE_ADD if row else TILE_SET)
            row += BLOCK_K
    else:
        column_sums(dy, job.N, job.N, job.rows, <real *> job.dbias, False)


cdef Memory packed_weight(Buffers buffers, weight, bias, bint turned, size_t *bias_at):
    """W (O, K) packed for x W^T (turned) or dy W, and the padded bias behind it."""
    cdef ptrdiff_t O = weight.shape[0], K = weight.shape[1]
    cdef ptrdiff_t depth = K if turned else O, width = O if turned else K
    cdef bint double = weight.itemsize == 8
    cdef ptrdiff_t wide = padded(<double *> NULL, width) if double else padded(<float *> NULL, width)
    cdef ptrdiff_t size = depth * wide
    cdef Memory memory = take_memory((size + wide) * (8 if double else 4))
    bias_at[0] = size * (8 if double else 4)
    if double:
        pack(<const double *> buffers.read(weight), K, turned, depth, width, <double *> memory.aligned)
    else:
        pack(<const float *> buffers.read(weight), K, turned, depth, width, <float *> memory.aligned)
    memset(memory.aligned + bias_at[0], 0, wide * (8 if double else 4))
    if bias is not None:
        memcpy(memory.aligned + bias_at[0], buffers.read(bias), O * (8 if double else 4))
    return memory


cdef object multiply(a, weight, bias, bint turned, int threads):
    cdef AffineJob job = AffineJob.__new__(AffineJob)
    cdef Buffers buffers = Buffers.__new__(Buffers)
    cdef size_t bias_at
    cdef ptrdiff_t rows
    cdef Memory memory = packed_weight(buffers, weight, bias, turned, &bias_at)
    job.double = weight.itemsize == 8
    job.rows, job.K = a.shape
    job.N = weight.shape[0] if turned else weight.shape[1]
    c = empty((job.rows, job.N), a.dtype)
    job.a, job.c = buffers.read(a), buffers.write(c)
    job.packed = memory.aligned
    job.bias = memory.aligned + bias_at if bias is not None else NULL
    if job.rows:
        if 2.0 * job.rows * job.K * job.N < WORK_TO_SHARE:
            threads = 1
        # small enough that Ctrl-C is heard between two of them
        rows = min(2 * ROWS_TOGETHER, max(12, 500_000_000 // (job.K * job.N)))
        job.run(max(ceil_div(job.rows, rows), min(job.rows, threads)), threads - 1)
    return c


def affine(x, weight, bias, *, int threads=1):
    """x W^T + b.

    Parameters
    ----------
    x : ndarray (N, K)
    weight : ndarray (O, K)
    bias : ndarray (O,) or None
    threads : int

    Returns
    -------
    ndarray (N, O)
    """
    return multiply(x, weight, bias, True, threads)


def affine_backward(x, weight, dy, *, int threads=1):
    """Gradients of `affine` for dy (N, O): dx (N, K), dweight (O, K), dbias (O,)."""
    cdef AffineGradientJob job = AffineGradientJob.__new__(AffineGradientJob)
    cdef Buffers buffers = Buffers.__new__(Buffers)
    cdef ptrdiff_t size = weight.itemsize, panels
    dx = multiply(dy, weight, None, False, threads)
    job.double = size == 8
    job.rows, job.K = x.shape
    job.N = weight.shape[0]
    dweight, dbias = empty((job.N, job.K), x.dtype), empty(job.N, x.dtype)
    job.x, job.dy = buffers.read(x), buffers.read(dy)
    job.dweight, job.dbias = buffers.write(dweight), buffers.write(dbias)
    if job.rows:
        if 2.0 * job.rows * job.K * job.N < WORK_TO_SHARE:
            threads = 1
        job.scratch_each = size * (block_size(<double *> NULL) if job.double else block_size(<float *> NULL))
        job.scratch = take_memory(job.scratch_each * max(threads, 1))
        job.turned = take_memory(job.rows * job.N * size)
        job.turns = max(threads, 1)
        panels = (outer_items(<double *> NULL, job.N, job.K) if job.double
                  else outer_items(<float *> NULL, job.N, job.K))
        job.run(job.turns + panels + 1, threads - 1)
    else:
        memset(job.dweight, 0, job.N * job.K * size)
        memset(job.dbias, 0, job.N * size)
    return dx, dweight, dbias
