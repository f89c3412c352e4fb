# The backward loop over time, and the weight gradients.
#
# Time is cut into chunks of about BLOCK_K rows (t, b), the last chunk first.  In each, the recurrence gives da for
# the chunk; then da, still in cache, is multiplied into all three sums at once:
#
#     dW_hh += da^T h_{t-1}      dW_ih += da^T x      dx = da W_ih      db += sum of da
#
# da of one chunk is all the memory that a backward pass needs beyond its results.  Chunks are counted from the end
# and are a matter of T and B alone, so the sums don't depend on how the work is shared out.


cdef enum:
    # Row lengths up to which the weight gradients read h and x, and da, in place.  Rows further apart fall on few
    # cache sets: then h and x are copied, and da is transposed.
    DIRECT_COLUMNS = 64
    DIRECT_ROWS = 256


cdef class BpttJob(Job):
    cdef Panels weights
    cdef ptrdiff_t T, B
    cdef ptrdiff_t steps        # of a chunk
    cdef ptrdiff_t blocks       # items of a chunk's recurrence (0: da is given for all T), then ...
    cdef ptrdiff_t turns        # items that transpose da, then ...
    cdef ptrdiff_t input_groups  # ... panels of dW and groups of rows of dx
    cdef Memory scratch         # a panel for each worker
    cdef size_t scratch_each
    cdef void *x                # IN (T, B, I) or tokens (T, B)
    cdef void *h_0              # IN (B, H)
    cdef void *y                # IN (T, B, H)
    cdef void *dy               # IN (T, B, H) or NULL
    cdef void *dh_n             # IN (B, H) or NULL
    cdef void *da               # WORK (steps, B, H), or IN (T, B, H)
    cdef void *edge             # WORK (B, H): da of the step after the chunk
    cdef void *turned           # WORK (H, steps B): da of the chunk, transposed (where turns > 0)
    cdef void *dx               # OUT (T, B, I)
    cdef void *dh_0             # OUT (B, H)
    cdef void *dweight_ih       # OUT (H, I), for tokens INOUT (I, padded H) of zeros
    cdef void *dweight_hh       # OUT (H, H)
    cdef void *dbias            # OUT (H,)

    cdef ptrdiff_t gradient_items(self) noexcept nogil:
        """Panels of dW_hh, then of dW_ih (tokens: one item), then groups of dx rows, then the bias."""
        cdef ptrdiff_t H = self.weights.H, I = self.weights.I
        cdef ptrdiff_t hh, ih
        if self.weights.double:
            hh, ih = panel_count(<double *> NULL, H), panel_count(<double *> NULL, I)
        else:
            hh, ih = panel_count(<float *> NULL, H), panel_count(<float *> NULL, I)
        return hh + (1 if self.weights.tokens else ih + self.input_groups) + 1

    cdef int64_t wait_for(self, int64_t k) noexcept nogil:
        cdef ptrdiff_t each = self.blocks + self.turns + self.gradient_items()
        cdef ptrdiff_t part = k % each
        # the recurrence needs the chunk before it done (da is used again), the transposition the recurrence, the
        # gradients the transposition
        return k - part + (0 if part < self.blocks else self.blocks if part < self.blocks + self.turns
                           else self.blocks + self.turns)

    cdef void item(self, int64_t k, int worker) noexcept nogil:
        if self.weights.double:
            bptt_item(self, k, worker, <double *> NULL)
        else:
            bptt_item(self, k, worker, <float *> NULL)


cdef void bptt_item(BpttJob job, int64_t k, int worker, real *kind) noexcept nogil:
    cdef ptrdiff_t each = job.blocks + job.turns + job.gradient_items()
    cdef ptrdiff_t chunk = k // each, part = k % each
    cdef ptrdiff_t end = job.T - chunk * job.steps, start = max(<ptrdiff_t> 0, end - job.steps)
    cdef ptrdiff_t H = job.weights.H, I = job.weights.I
    cdef ptrdiff_t panels_hh = panel_count(kind, H), panels_ih = panel_count(kind, I)
    cdef ptrdiff_t rows = (end - start) * job.B, row, column
    cdef const real *da = <const real *> job.da + (0 if job.blocks else start * job.B * H)
    cdef const real *y = <const real *> job.y
    cdef real *scratch = <real *> (job.scratch.aligned + worker * job.scratch_each)
    cdef const real *columns = <const real *> job.turned if job.turns else da
    cdef ptrdiff_t a_row = rows if job.turns else 1, a_k = 1 if job.turns else H
    cdef ptrdiff_t before  # rows of h_{t-1} that stand in h_0
    if part < job.blocks:
        bptt_rows(job, worker, start, end, block_start(job.B, job.blocks, part),
                  block_start(job.B, job.blocks, part + 1), kind)
        return
    part -= job.blocks
    if part < job.turns:
        column = block_start(H, job.turns, part)
        turn(da + column, H, rows, block_start(H, job.turns, part + 1) - column,
             <real *> job.turned + column * rows)
        return
    part -= job.turns
    if job.interrupted(worker, 2.0 * rows * H * 64):
        return
    if part < panels_hh:
        # dW_hh = sum_t da_t^T h_{t-1}
        before = job.B if start == 0 else 0
        outer_panel(columns, a_row, a_k, H, rows, <const real *> job.h_0, before,
                    y + (start * job.B - job.B + before) * H, H, part, scratch, <real *> job.dweight_hh,
                    TILE_SET if chunk == 0 else TILE_ADD)
        return
    part -= panels_hh
    if job.weights.tokens:
        if part == 0:
            # dW_ih[:, v] = sum of da over the rows with token v
            scatter_rows(da, H, rows, <const int64_t *> job.x + start * job.B, <real *> job.dweight_ih,
                         padded(kind, H))
            return
        part -= 1
    else:
        if part < panels_ih:
            # dW_ih = sum_t da_t^T x_t
            outer_panel(columns, a_row, a_k, H, rows, <const real *> NULL, 0,
                        <const real *> job.x + start * job.B * I, I, part, scratch, <real *> job.dweight_ih,
                        TILE_SET if chunk == 0 else TILE_ADD)
            return
        part -= panels_ih
        if part < job.input_groups:
            # dx_t = da_t W_ih
            row = block_start(rows, job.input_groups, part)
            product(1, da + row * H, H, 1, block_start(rows, job.input_groups, part + 1) - row, 1, 0,
                    <const real *> job.weights.back_ih, H, I, <real *> job.dx + (start * job.B + row) * I, I, 0,
                    TILE_SET, <const real *> NULL, False)
            return
    if job.dbias != NULL:
        column_sums(da, H, rows, <real *> job.dbias, chunk > 0)


cdef void bptt_rows(
    BpttJob job, int worker, ptrdiff_t start, ptrdiff_t end, ptrdiff_t first, ptrdiff_t last, real *kind
) noexcept nogil:
    """da of time steps end-1..start for rows first..last-1 of the batch."""
    cdef ptrdiff_t B = job.B, H = job.weights.H, rows = last - first, t
    cdef int chains = chains_for(kind, H, H)
    cdef const real *back_hh = <const real *> job.weights.back_hh
    cdef const real *dy
    cdef const real *after = <const real *> job.edge + first * H
    cdef real *da = <real *> job.da
    cdef real *da_t
    if end < job.T:
        # the first step of the chunk after this one, before its place is written over
        memcpy(<void *> after, da + first * H, rows * H * sizeof(real))
    for t in range(end - 1, start - 1, -1):
        if job.interrupted(worker, 2.0 * rows * H * H):
            return
        da_t = da + ((t - start) * B + first) * H
        dy = <const real *> job.dy + (t * B + first) * H if job.dy != NULL else NULL
        # dh_t = dy_t + da_{t+1} W_hh;  da_t = dh_t f'(a_t)
        if t == job.T - 1:
            if job.dh_n != NULL:
                memcpy(da_t, <const real *> job.dh_n + first * H, rows * H * sizeof(real))
            else:
                memset(da_t, 0, rows * H * sizeof(real))
        else:
            product(chains, after, H, 1, rows, 1, 0, back_hh, H, H, da_t, H, 0, TILE_SET, <const real *> NULL, t & 1)
        cell_backward(job.weights.cell, da_t, da_t, dy, <const real *> job.y + (t * B + first) * H, rows * H)
        after = da_t
    if start == 0:
        # dh_0 = da_1 W_hh
        product(chains, da + first * H, H, 1, rows, 1, 0, back_hh, H, H, <real *> job.dh_0 + first * H, H, 0,
                TILE_SET, <const real *> NULL, False)


cdef void turn(const real *v, ptrdiff_t ld, ptrdiff_t rows, ptrdiff_t columns, real *out) noexcept nogil:
    """out (columns, rows) = v (rows, columns) transposed."""
    cdef ptrdiff_t L = lanes_of(<real *> NULL)
    cdef ptrdiff_t whole = rows // L * L, r, j
    for r in range(rows // L):
        pack_turned(v + r * L * ld, ld, L, columns, out + r * L, rows)
    for j in range(columns):
        for r in range(whole, rows):
            out[j * rows + r] = v[r * ld + j]


cdef void outer_panel(
    const real *da, ptrdiff_t a_row, ptrdiff_t a_k, ptrdiff_t H, ptrdiff_t rows, const real *head,
    ptrdiff_t head_rows, const real *body, ptrdiff_t N, ptrdiff_t p, real *scratch, real *dw, int start
) noexcept nogil:
    """dW (H, N) (+)= da^T v for the columns of panel p.

    da^T[i, k] = da[i * a_row + k * a_k].  v (rows, N) is head_rows rows of head, then body.
    """
    cdef ptrdiff_t L = lanes_of(<real *> NULL)
    cdef ptrdiff_t first = panel_start(<real *> NULL, N, p)
    cdef ptrdiff_t width = panel_start(<real *> NULL, N, p + 1) - first
    cdef ptrdiff_t tail = min(L, N - (first + width - 1) * L)
    cdef ptrdiff_t k = 0, depth, from_head, panel_k = N
    cdef const real *panel
    # Rows of v close together and whole vectors: the tile reads them where they lie, else from a copy.
    cdef bint direct = head_rows == 0 and tail == L and N <= DIRECT_COLUMNS
    while k < rows:
        depth = min(rows - k, <ptrdiff_t> BLOCK_K)
        panel = body + k * N + first * L
        if not direct:
            from_head = min(depth, max(<ptrdiff_t> 0, head_rows - k))
            if from_head:
                pack_panel(head + k * N, N, False, from_head, N, p, scratch)
            if from_head < depth:
                pack_panel(body + (k + from_head - head_rows) * N, N, False, depth - from_head, N, p,
                           scratch + from_head * width * L)
            panel, panel_k = scratch, width * L
        panel_product(1, <int> width, da + k * a_k, a_row, a_k, H, panel, panel_k, depth, dw + first * L, N, tail,
                      start if k == 0 else TILE_ADD, <const real *> NULL, <const real *> NULL)
        k += depth


cdef void scatter_rows(
    const real *da, ptrdiff_t H, ptrdiff_t rows, const int64_t *tokens, real *table, ptrdiff_t ld
) noexcept nogil:
    cdef ptrdiff_t r, j
    cdef real *into
    for r in range(rows):
        into = table + tokens[r] * ld
        for j in range(H):
            into[j] = into[j] + da[r * H + j]


cdef void column_sums(const real *v, ptrdiff_t N, ptrdiff_t rows, real *total, bint add) noexcept nogil:
    """total (N,) (+)= sum of v (rows, N) over its rows."""
    cdef ptrdiff_t r, k, j = 0, width
    cdef double s[64]  # a float32 sum of hundreds of rows would be the least accurate of all results
    while j < N:
        width = min(N - j, <ptrdiff_t> 64)
        for k in range(width):
            s[k] = 0
        for r in range(rows):
            for k in range(width):
                s[k] = s[k] + v[r * N + j + k]
        for k in range(width):
            total[j + k] = <real> ((total[j + k] if add else 0) + s[k])
        j += width


cdef class DepthJob(Job):
    """da truncated to depth K, for all steps: K sweeps of  s_t <- (dy_t + s_{t+1} W_hh) f'(a_t)  from s = 0.

    After sweep j, s_t holds the terms (i, t) with i - t < j.  A sweep goes forward in time, so that s_{t+1} is
    still the one of the sweep before.
    """

    cdef BpttJob into
    cdef int64_t depth

    cdef void item(self, int64_t k, int worker) noexcept nogil:
        cdef ptrdiff_t first = block_start(self.into.B, self.items, k)
        cdef ptrdiff_t last = block_start(self.into.B, self.items, k + 1)
        if self.into.weights.double:
            depth_rows(self, self.into, worker, first, last, <double *> NULL)
        else:
            depth_rows(self, self.into, worker, first, last, <float *> NULL)


cdef void depth_rows(
    DepthJob job, BpttJob into, int worker, ptrdiff_t first, ptrdiff_t last, real *kind
) noexcept nogil:
    cdef ptrdiff_t T = into.T, B = into.B, H = into.weights.H, rows = last - first, t
    cdef int chains = chains_for(kind, H, H)
    cdef int64_t sweep
    cdef const real *back_hh = <const real *> into.weights.back_hh
    cdef const real *dy
    cdef real *s = <real *> into.da + first * H
    cdef real *s_t
    for sweep in range(job.depth):
        for t in range(T):
            if job.interrupted(worker, 2.0 * rows * H * H):
                return
            s_t = s + t * B * H
            dy = <const real *> into.dy + (t * B + first) * H if into.dy != NULL else NULL
            if t == T - 1:
                if into.dh_n != NULL:
                    memcpy(s_t, <const real *> into.dh_n + first * H, rows * H * sizeof(real))
                else:
                    memset(s_t, 0, rows * H * sizeof(real))
            elif sweep == 0:
                memset(s_t, 0, rows * H * sizeof(real))
            else:
                product(chains, s_t + B * H, H, 1, rows, 1, 0, back_hh, H, H, s_t, H, 0, TILE_SET,
                        <const real *> NULL, t & 1)
            cell_backward(into.weights.cell, s_t, s_t, dy, <const real *> into.y + (t * B + first) * H, rows * H)
        if sweep == job.depth - 2:
            # h_0 stands one step before t = 1: its terms are those of one sweep less
            product(chains, s, H, 1, rows, 1, 0, back_hh, H, H, <real *> into.dh_0 + first * H, H, 0, TILE_SET,
                    <const real *> NULL, False)


def bptt(str cell, Saved saved, dy, dfinal_state, *, depth=None, int threads=1):
    """Backward loop over time of one direction of one layer: gradients of a scalar loss.

    Parameters
    ----------
    cell : str
        As in the forward call.
    saved : Saved
        From `unroll`.
    dy : ndarray (T, B, H) or None
        Gradient with respect to y; None for zeros.
    dfinal_state : tuple or None
        (dh_n,) with dh_n (B, H), or None for zeros.
    depth : int or None
        Keep the terms (i, k) with i - k < depth only; None for all.
    threads : int

    Returns
    -------
    dx : ndarray (T, B, I) or None
        None for token input.
    dstate : tuple
        (dh_0,) with dh_0 (B, H).
    dweights : tuple
        Gradients of weight_ih, weight_hh, bias_ih, bias_hh (a bias's None without that bias).
    """
    cdef Panels panels = saved.panels
    cdef BpttJob job = BpttJob()
    cdef DepthJob truncated
    cdef Buffers buffers = Buffers()
    cdef ptrdiff_t T = saved.x.shape[0], B = saved.x.shape[1], I = panels.I, H = panels.H, Hp, chunks
    cdef ptrdiff_t size = 8 if panels.double else 4
    cdef int workers
    cdef Memory table, sums
    dtype = saved.dtype
    job.weights = panels
    job.T, job.B = T, B
    job.steps = max(<ptrdiff_t> 1, BLOCK_K // max(B, <ptrdiff_t> 1))
    if 4.0 * T * B * H * (2 * H + I) < WORK_TO_SHARE:
        threads = 1
    workers = max(threads, 1)

    h_0, = saved.state
    dx = None if panels.tokens else empty((T, B, I), dtype)
    dh_0, dweight_ih, dweight_hh = empty((B, H), dtype), empty((H, I), dtype), empty((H, H), dtype)
    dbias = empty(H, dtype) if panels.has_bias_ih or panels.has_bias_hh else None
    job.x, job.h_0, job.y = buffers.read(saved.x), buffers.read(h_0), buffers.read(saved.y)
    job.dy = buffers.read(dy)
    job.dh_n = buffers.read(None if dfinal_state is None else dfinal_state[0])
    job.dx, job.dh_0 = buffers.write(dx), buffers.write(dh_0)
    job.dweight_ih, job.dweight_hh = buffers.write(dweight_ih), buffers.write(dweight_hh)
    job.dbias = buffers.write(dbias)

    if T * B == 0:
        # no step: the state's gradient passes through, every sum is empty
        if job.dh_n != NULL and T == 0:
            memcpy(job.dh_0, job.dh_n, B * H * size)
        else:
            memset(job.dh_0, 0, B * H * size)
        memset(job.dweight_ih, 0, H * I * size)
        memset(job.dweight_hh, 0, H * H * size)
        if job.dbias != NULL:
            memset(job.dbias, 0, H * size)
    else:
        Hp = padded(<double *> NULL, H) if panels.double else padded(<float *> NULL, H)
        if panels.tokens:
            table = Memory(I * Hp * size)
            memset(table.aligned, 0, I * Hp * size)
            job.dweight_ih = table.aligned
        job.scratch_each = BLOCK_K * TILE_WIDTH * LANES_F32 * sizeof(float)
        job.scratch = Memory(job.scratch_each * workers)
        if depth is not None and depth <= T:
            sums = Memory((T + job.steps) * B * H * size)
            job.da, job.turned = sums.aligned, sums.aligned + T * B * H * size
            truncated = DepthJob()
            truncated.into, truncated.depth = job, depth
            memset(job.dh_0, 0, B * H * size)
            truncated.run(row_blocks(B, H, workers), min(workers, <int> B) - 1)
        else:
            job.steps = min(job.steps, T)
            sums = Memory((2 * job.steps + 1) * B * H * size)
            job.da, job.turned = sums.aligned, sums.aligned + job.steps * B * H * size
            job.edge = sums.aligned + 2 * job.steps * B * H * size
            job.blocks = row_blocks(B, H, workers)
        job.input_groups = ceil_div(job.steps * B, ROWS_TOGETHER)
        chunks = ceil_div(T, job.steps)
        job.turns = workers if H > DIRECT_ROWS else 0
        job.run(chunks * (job.blocks + job.turns + job.gradient_items()), workers - 1)
        if panels.tokens:
            if panels.double:
                turn(<const double *> table.aligned, Hp, I, H, <double *> buffers.write(dweight_ih))
            else:
                turn(<const float *> table.aligned, Hp, I, H, <float *> buffers.write(dweight_ih))
    # both biases have the same gradient, each an array of its own
    dbias_hh = None
    if panels.has_bias_hh:
        dbias_hh = dbias.copy() if panels.has_bias_ih else dbias
    return dx, (dh_0,), Weights(dweight_ih, dweight_hh, dbias if panels.has_bias_ih else None, dbias_hh)
