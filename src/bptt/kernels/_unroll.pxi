# The forward loop over time.

cdef enum:
    # Rows of pre-activations computed ahead of the recurrence: enough for the tile, few enough to be in cache
    # when the recurrent steps come to them.
    ROWS_AHEAD = 96
    ROWS_AHEAD_LARGE = 384  # for a weight_ih too large for the caches
    # Batch rows that go through all their steps together: more where the weights are too large for the caches
    # and every step reads them anew.
    ROWS_TOGETHER = 64
    ROWS_TOGETHER_LARGE = 96
    # Operations under which waking another thread costs more than it brings.
    WORK_TO_SHARE = 20_000_000
    # Operations under which a call keeps the GIL: 10 us, and letting it go and sharing out the work cost 0.2 us.
    WORK_TO_RELEASE = 1_000_000


cdef inline ptrdiff_t row_blocks(ptrdiff_t B, ptrdiff_t H, int threads) noexcept nogil:
    return max(ceil_div(B, ROWS_TOGETHER if H * H < FETCH_FROM else ROWS_TOGETHER_LARGE), min(B, threads))


cdef inline ptrdiff_t block_start(ptrdiff_t B, ptrdiff_t blocks, ptrdiff_t k) noexcept nogil:
    return k * (B // blocks) + min(k, B % blocks)


cdef void unroll_rows(
    Panels weights, Job job, int worker, ptrdiff_t T, ptrdiff_t B, ptrdiff_t first, ptrdiff_t last,
    bint odd,              # the first step walks the panels backwards
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
            product(chains, before, H, 1, rows, 1, 0, hh, H, H, h, H, 0, TILE_ADD, <const real *> NULL,
                    (t + odd) & 1)
            cell_forward(weights.cell, h, rows * H)
        start = end


cdef void step_rows(
    Panels weights, ptrdiff_t rows, bint backwards,
    const real *x,          # IN (rows, I), or NULL
    const int64_t *tokens,  # IN (rows,), or NULL
    const real *before,     # IN (rows, H): h_{t-1}
    real *h,                # OUT (rows, H): h_t
) noexcept nogil:
    """One time step by itself: the same sums as in `unroll_rows`.

    Here every step reads W_ih too. Its panels and those of W_hh are read column group by column group, so that the
    way back over both begins with what was used last: of twice what a cache holds, half is still there (H = 640,
    float32, 3.3 MB of weights and 2 MB of cache: 86 us become 58).
    """
    cdef ptrdiff_t I = weights.I, H = weights.H, L = lanes_of(<real *> NULL)
    cdef ptrdiff_t panels = panel_count(<real *> NULL, H), groups, g, k, b, first, width
    cdef int chains = chains_for(<real *> NULL, H, H)
    cdef const real *hh = <const real *> weights.hh
    cdef const real *ih = <const real *> weights.ih
    cdef const real *bias = <const real *> weights.bias
    # Enough rows hide the reading; a group of TILE_ROW_PANELS panels is cut into panels as the whole matrix is.
    groups = 1 if rows >= 4 else ceil_div(panels, TILE_ROW_PANELS)
    if tokens != NULL:
        for b in range(rows):
            memcpy(h + b * H, ih + tokens[b] * padded(<real *> NULL, H), H * sizeof(real))
    for k in range(groups):
        g = groups - 1 - k if backwards else k
        first = panel_start(<real *> NULL, H, g * TILE_ROW_PANELS) * L
        width = H - first if g == groups - 1 else panel_start(<real *> NULL, H, (g + 1) * TILE_ROW_PANELS) * L - first
        # a_t = W_ih x_t + b_ih + b_hh + W_hh h_{t-1}
        if tokens == NULL:
            product(1, x, I, 1, rows, 1, 0, ih + first * I, I, width, h + first, H, 0, TILE_SET, bias + first,
                    backwards)
        product(chains, before, H, 1, rows, 1, 0, hh + first * H, H, width, h + first, H, 0, TILE_ADD,
                <const real *> NULL, backwards)
    # h_t = f(a_t)
    cell_forward(weights.cell, h, rows * H)


cdef class UnrollJob(Job):
    cdef Panels weights
    cdef bint odd
    cdef ptrdiff_t T
    cdef ptrdiff_t B
    cdef void *x
    cdef void *h_0
    cdef void *y

    cdef void item(self, int64_t k, int worker) noexcept nogil:
        cdef ptrdiff_t first = block_start(self.B, self.items, k), last = block_start(self.B, self.items, k + 1)
        if self.weights.double:
            unroll_item(self, worker, first, last, <double *> NULL)
        else:
            unroll_item(self, worker, first, last, <float *> NULL)


cdef void unroll_item(UnrollJob job, int worker, ptrdiff_t first, ptrdiff_t last, real *kind) noexcept nogil:
    cdef ptrdiff_t I = job.weights.I, H = job.weights.H
    cdef const real *x = <const real *> job.x
    cdef const real *h_0 = <const real *> job.h_0
    cdef const int64_t *tokens = <const int64_t *> job.x if job.weights.tokens else NULL
    if job.T == 1:
        step_rows(job.weights, last - first, job.odd, x + first * I, tokens + first if job.weights.tokens else NULL,
                  h_0 + first * H, <real *> job.y + first * H)
    else:
        unroll_rows(job.weights, job, worker, job.T, job.B, first, last, job.odd, x, tokens, h_0, <real *> job.y)


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
    weights : Weights or Panels
        Panels, which `pack_weights` made for this cell and kind of x, hold nothing for `bptt`: with `keep` a TypeError.
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
    if keep and isinstance(weights, Panels):
        raise TypeError("weights: expected Weights for keep=True, got packed ones, which are for the forward pass only")
    dtype = h_0.dtype
    cdef Panels panels = packed_for(cell, weights, x.dtype is not dtype and x.dtype.kind == "i", dtype.itemsize, keep)
    cdef UnrollJob job = UnrollJob()
    cdef Buffers buffers = Buffers()
    cdef Saved saved = None
    cdef ptrdiff_t size
    cdef double work
    job.weights = panels
    cdef tuple sizes = x.shape
    job.T, job.B = sizes[0], sizes[1]
    job.odd = panels.turn(job.T)
    y = empty((job.T, job.B, panels.H), dtype)
    h_n = empty((job.B, panels.H), dtype)
    job.x = buffers.read(x)
    job.h_0 = buffers.read(h_0)
    job.y = buffers.write(y)
    if job.T * job.B:
        work = 2.0 * job.T * job.B * panels.H * (panels.H + panels.I)
        if work < WORK_TO_SHARE:
            threads = 1
        job.items = row_blocks(job.B, panels.H, threads)
        if job.items == 1 and work < WORK_TO_RELEASE:
            job.item(0, 0)
        else:
            job.run(job.items, min(threads, <int> job.B) - 1)
    size = job.B * panels.H * (8 if panels.double else 4)
    if size:
        memcpy(buffers.write(h_n), <char *> job.y + (job.T - 1) * size if job.T else <char *> job.h_0, size)
    if keep:
        panels.end_forward()
        saved = Saved()
        saved.panels, saved.x, saved.state, saved.y, saved.dtype = panels, x, state, y, dtype
    return y, (h_n,), saved
