# The forward loop over time.

cdef enum:
    # Rows of pre-activations computed ahead of the recurrence: enough for the tile, few enough to be in cache
    # when the recurrent steps come to them.
    ROWS_AHEAD = 96
    ROWS_AHEAD_LARGE = 384  # for a weight_ih too large for the caches
    # Batch rows that go through all their steps together: more where the weights are too large for the caches
    # and every step reads them anew.
    ROWS_TOGETHER = 48
    ROWS_TOGETHER_LARGE = 96
    # Operations under which waking another thread costs more than it brings.
    WORK_TO_SHARE = 20_000_000


cdef inline ptrdiff_t row_blocks(ptrdiff_t B, ptrdiff_t H, int threads) noexcept nogil:
    return max(ceil_div(B, ROWS_TOGETHER if H * H < FETCH_FROM else ROWS_TOGETHER_LARGE), min(B, threads))


cdef inline ptrdiff_t block_start(ptrdiff_t B, ptrdiff_t blocks, ptrdiff_t k) noexcept nogil:
    return k * (B // blocks) + min(k, B % blocks)


cdef void unroll_rows(
    Panels weights, Job job, int worker, ptrdiff_t T, ptrdiff_t B, ptrdiff_t first, ptrdiff_t last,
    const real *x,         # IN (T, B, I), or NULL
    const int64_t *tokens,  # IN (T, B), or NULL
    const real *h_0,       # IN (B, H)
    real *y,               # OUT (T, B, H)
) noexcept nogil:
    """Rows first..last-1 of the batch through all time steps."""
    cdef ptrdiff_t I = weights.I, H = weights.H, Hp = padded(<real *> NULL, H)
    cdef ptrdiff_t rows = last - first
    cdef ptrdiff_t steps = max(<ptrdiff_t> 1, (ROWS_AHEAD if I * H < FETCH_FROM else ROWS_AHEAD_LARGE) // rows)
    cdef int chains = chains_for(<real *> NULL, H, H)
    cdef const real *hh = <const real *> weights.hh
    cdef const real *ih = <const real *> weights.ih
    cdef const real *bias = <const real *> weights.bias
    cdef const real *before
    cdef real *h
    cdef ptrdiff_t t, b, start, end
    start = 0
    while start < T:
        end = min(T, start + steps)
        if job.interrupted(worker, 2.0 * (end - start) * rows * H * (H + I)):
            return
        # a_t = W_ih x_t + b_ih + b_hh
        if tokens != NULL:
            for t in range(start, end):
                for b in range(first, last):
                    memcpy(y + (t * B + b) * H, ih + tokens[t * B + b] * Hp, H * sizeof(real))
        elif rows == B:
            product(1, x + start * B * I, I, 1, (end - start) * B, 1, 0, ih, I, H, y + start * B * H, H, 0, TILE_SET,
                    bias, False)
        else:
            product(1, x + (start * B + first) * I, I, 1, rows, end - start, B * I, ih, I, H,
                    y + (start * B + first) * H, H, B * H, TILE_SET, bias, False)
        for t in range(start, end):
            before = h_0 + first * H if t == 0 else y + ((t - 1) * B + first) * H
            h = y + (t * B + first) * H
            # a_t += W_hh h_{t-1};  h_t = f(a_t)
            product(chains, before, H, 1, rows, 1, 0, hh, H, H, h, H, 0, TILE_ADD, <const real *> NULL, t & 1)
            cell_forward(weights.cell, h, rows * H)
        start = end


cdef class UnrollJob(Job):
    cdef Panels weights
    cdef ptrdiff_t T
    cdef ptrdiff_t B
    cdef void *x
    cdef void *h_0
    cdef void *y

    cdef void item(self, int64_t k, int worker) noexcept nogil:
        cdef ptrdiff_t first = block_start(self.B, self.items, k), last = block_start(self.B, self.items, k + 1)
        cdef const int64_t *tokens = <const int64_t *> self.x if self.weights.tokens else NULL
        if self.weights.double:
            unroll_rows(self.weights, self, worker, self.T, self.B, first, last, <const double *> self.x, tokens,
                        <const double *> self.h_0, <double *> self.y)
        else:
            unroll_rows(self.weights, self, worker, self.T, self.B, first, last, <const float *> self.x, tokens,
                        <const float *> self.h_0, <float *> self.y)


cdef class Saved:
    """What a forward pass keeps for the backward pass: x, h_0 and y by reference, the weights as a snapshot."""

    cdef Panels panels
    cdef readonly object x
    cdef readonly tuple state
    cdef readonly object y
    cdef object dtype

    @property
    def weights(self):
        """The weights at the forward pass, copied from the snapshot."""
        cdef Buffers buffers = Buffers()
        cdef ptrdiff_t I = self.panels.I, H = self.panels.H
        cdef void *at[4]
        copies = Weights(
            empty((H, I), self.dtype), empty((H, H), self.dtype),
            empty(H, self.dtype) if self.panels.has_bias_ih else None,
            empty(H, self.dtype) if self.panels.has_bias_hh else None,
        )
        cdef int i
        for i in range(4):
            at[i] = buffers.write(copies[i])
        if self.panels.double:
            self.panels.unpacked(<double *> NULL, at[0], at[1], at[2], at[3])
        else:
            self.panels.unpacked(<float *> NULL, at[0], at[1], at[2], at[3])
        return copies


def unroll(str cell, x, tuple state, weights, *, bint keep=True, int threads=1):
    """Forward loop over time of one direction of one layer.

    Parameters
    ----------
    cell : {"tanh", "relu", "sigmoid", "identity"}
    x : ndarray
        (T, B, I) of the weights' dtype, or (T, B) int64 token ids in [0, I); C-contiguous.
    state : tuple
        (h_0,) with h_0 (B, H).
    weights : Weights
    keep : bool
        Keep what `bptt` needs.
    threads : int

    Returns
    -------
    y : ndarray (T, B, H)
    final_state : tuple
        (h_n,) with h_n (B, H), a copy.
    saved : Saved or None
    """
    h_0, = state
    cdef Panels panels = Panels(cell, weights, x.dtype.kind == "i", True, keep)
    cdef UnrollJob job = UnrollJob()
    cdef Buffers buffers = Buffers()
    cdef Saved saved = None
    cdef ptrdiff_t size
    dtype = h_0.dtype
    job.weights = panels
    job.T, job.B = x.shape[0], x.shape[1]
    y = empty((job.T, job.B, panels.H), dtype)
    h_n = empty((job.B, panels.H), dtype)
    job.x = buffers.read(x)
    job.h_0 = buffers.read(h_0)
    job.y = buffers.write(y)
    if job.T * job.B:
        if 2.0 * job.T * job.B * panels.H * (panels.H + panels.I) < WORK_TO_SHARE:
            threads = 1
        job.run(row_blocks(job.B, panels.H, threads), min(threads, <int> job.B) - 1)
    size = job.B * panels.H * (8 if panels.double else 4)
    if size:
        memcpy(buffers.write(h_n), <char *> job.y + (job.T - 1) * size if job.T else <char *> job.h_0, size)
    if keep:
        saved = Saved()
        saved.panels, saved.x, saved.state, saved.y, saved.dtype = panels, x, state, y, dtype
    return y, (h_n,), saved
