# The backward loop over time, and the weight gradients.
#
# Time is cut into chunks of about BLOCK_K rows (t, b), the last chunk first.  In each, the recurrence (_back.pxi)
# gives da for the chunk; then da, still in cache, is multiplied into all sums at once:
#
#     dW_hh += da^T h_{t-1}      dW_ih += da^T x      dx = da W_ih      db += sum of da
#
# da of one chunk is all the memory that a backward pass needs beyond its results.  Chunks are counted from the end
# and are a matter of T, B and the lengths alone, so the sums don't depend on how the work is shared out.


cdef ptrdiff_t gradient_count(BpttJob job, Panels w, real *kind) noexcept nogil:
    """Items of dW_hh, of dW_hn, of dW_ih (tokens: one), groups of dx rows, items of dW_hr, one for all vectors."""
    return (outer_items(kind, w.N_hh, w.R) + (outer_items(kind, w.H, w.H) if w.cell == GRU_BEFORE else 0)
            + (1 if w.tokens else outer_items(kind, w.N_ih, w.I)) + job.input_groups
            + (outer_items(kind, w.R, w.H) if w.projected else 0) + 1)


cdef void bptt_item(BpttJob job, Panels w, Course course, int64_t k, int worker, real *kind) noexcept nogil:
    cdef ptrdiff_t each = job.blocks + job.turns + job.gradient_items()
    cdef ptrdiff_t chunk = k // each, item = k % each
    cdef ptrdiff_t end = job.bounds[chunk], start = job.bounds[chunk + 1], base = course.before(start)
    cdef ptrdiff_t B = course.B, H = w.H, I = w.I, R = w.R, rows = course.before(end) - base, first, last, count
    cdef ptrdiff_t ld_ih = w.N_ih if w.normal else w.S, ld_hh = w.N_hh if w.normal else w.S
    cdef const real *d_ih = <const real *> (job.d_ih if w.normal else job.da)
    cdef const real *d_hh = <const real *> job.d_hh if w.normal else <const real *> job.da + w.from_hh
    cdef const real *columns_ih = <const real *> job.turned_ih if job.turns else d_ih
    cdef const real *columns_hh = <const real *> job.turned_hh if job.turns else d_hh
    cdef ptrdiff_t row_ih = rows if job.turns else 1, row_hh = row_ih
    cdef ptrdiff_t k_ih = 1 if job.turns else ld_ih, k_hh = 1 if job.turns else ld_hh
    cdef real *scratch = <real *> (job.scratch.aligned + worker * job.scratch_each)
    cdef bint add = chunk > 0 or job.adds
    cdef int start_sum = TILE_ADD if add else TILE_SET
    cdef ptrdiff_t from_head = 0
    cdef const real *head = NULL
    cdef const real *body
    cdef real *to
    if item < job.blocks:
        bptt_rows(job, job.weights, job.course, worker, start, end, block_start(B, job.blocks, item),
                  block_start(B, job.blocks, item + 1), kind)
        return
    item -= job.blocks
    if item < job.turns:
        turn_columns(d_ih, ld_ih, rows, w.N_ih, job.turns, item, <real *> job.turned_ih)
        if w.normal:
            turn_columns(d_hh, ld_hh, rows, w.N_hh, job.turns, item, <real *> job.turned_hh)
        elif w.cell == GRU:
            turn_columns(d_ih + 3 * H, ld_ih, rows, H, job.turns, item, <real *> job.turned_ih + 3 * H * rows)
        return
    if job.turns and not w.normal:
        columns_hh = columns_ih + w.from_hh * rows
    item -= job.turns
    if job.interrupted(worker, 2.0 * rows * w.N_hh * 64):
        return
    count = outer_items(kind, w.N_hh, R)
    if item < count:
        # dW_hh = sum_t da_t^T h_{t-1}
        body = <const real *> job.h_before
        if body == NULL:
            from_head = B if start == 0 else 0
            head = <const real *> job.h_begin
            body = <const real *> job.y + (start * B - B + from_head) * R
        outer_panel(columns_hh, row_hh, k_hh, w.N_hh, 0, rows, head, from_head, body, R, item, scratch,
                    <real *> job.dw[1], start_sum)
        return
    item -= count
    if w.cell == GRU_BEFORE:
        if item < outer_items(kind, H, H):
            # dW_hn = sum_t da_n^T s_t
            outer_panel(columns_ih, row_ih, k_ih, H, 0, rows, <const real *> NULL, 0, <const real *> job.m, H, item,
                        scratch, <real *> job.dw[1] + 2 * H * H, start_sum)
            return
        item -= outer_items(kind, H, H)
    if w.tokens:
        if item == 0:
            # dW_ih[:, v] = sum of da over the rows with token v
            scatter_rows(d_ih, ld_ih, w.N_ih, rows,
                         <const int64_t *> job.xs if job.xs != NULL else <const int64_t *> job.x + start * B,
                         <real *> job.dw[0], padded(kind, w.N_ih))
            return
        item -= 1
    else:
        count = outer_items(kind, w.N_ih, I)
        if item < count:
            # dW_ih = sum_t da_t^T x_t
            body = <const real *> job.xs if job.xs != NULL else <const real *> job.x + start * B * I
            outer_panel(columns_ih, row_ih, k_ih, w.N_ih, H if w.cell >= GRU else 0, rows, <const real *> NULL, 0,
                        body, I, item, scratch, <real *> job.dw[0], start_sum)
            return
        item -= count
        if item < job.input_groups:
            # dx_t = da_t W_ih
            first, last = block_start(rows, job.input_groups, item), block_start(rows, job.input_groups, item + 1)
            if first == last:
                return
            to = <real *> job.dxs + first * I if job.dxs != NULL else <real *> job.dx + (start * B + first) * I
            if last - first > ROWS_TOGETHER:
                deep_product(d_ih + first * ld_ih + w.first_ih(), ld_ih, w.order_ih(), last - first,
                             <const real *> w.back_ih, w.N_ih, I, to, I)
            else:
                product(1, d_ih + first * ld_ih + w.first_ih(), ld_ih, w.order_ih(), last - first, 1, 0,
                        <const real *> w.back_ih, w.N_ih, I, to, I, 0, TILE_SET, <const real *> NULL, False)
            if job.dxs != NULL:
                put_rows(course, start, end, first, last, <const real *> job.dxs, I, <real *> job.dx)
            return
        item -= job.input_groups
    if w.projected and item < outer_items(kind, R, H):
        # dW_hr = sum_t dh_t^T m_t
        outer_panel(<const real *> job.dh, 1, R, R, 0, rows, <const real *> NULL, 0, <const real *> job.m, H, item,
                    scratch, <real *> job.dw[4], start_sum)
        return
    if job.dbias != NULL:
        column_sums(<const real *> job.da, w.S if w.cell != GRU_BEFORE else 3 * H, w.S, rows, <real *> job.dbias, add)
    if w.normal:
        gain_sums(job, job.course, start, end, <const real *> job.da, <const real *> job.normed_ih, w.N_ih,
                  <real *> job.dgain, add)
        gain_sums(job, job.course, start, end, <const real *> job.da + w.from_hh, <const real *> job.normed_hh, w.N_hh,
                  <real *> job.dw[7], add)
    if w.ph != NULL:
        peephole_sums(job, job.course, start, end, <real *> job.dw[5], add)


cdef int cut_into_chunks(BpttJob job) except -1:
    """Chunks of at most BLOCK_K rows (or one step), the last one first."""
    cdef Course course = job.course
    cdef ptrdiff_t s, rows, count = 0
    job.bounds_memory = take_memory((course.T + 1) * sizeof(int64_t))
    job.bounds = <int64_t *> job.bounds_memory.aligned
    job.bounds[0] = s = course.T
    while s > 0:
        rows = 0
        while s > 0 and (rows == 0 or rows + course.alive(s - 1) <= BLOCK_K):
            s -= 1
            rows += course.alive(s)
        job.capacity = max(job.capacity, rows)
        count += 1
        job.bounds[count] = s
    job.chunks = count
    return 0


cdef int make_room(BpttJob job, int workers, real *kind) except -1:
    """Working memory: what each worker needs, and the arrays of a chunk."""
    cdef Panels w = job.weights
    cdef Course course = job.course
    cdef ptrdiff_t B = course.B, C = job.capacity, rows = ceil_div(B, job.blocks), total = course.before(course.T)
    cdef ptrdiff_t x = 0 if course.plain else 2 * C if w.tokens else C * w.I  # a token id is as long as two floats
    cdef ptrdiff_t dx = 0 if course.plain or job.input_groups == 0 else C * w.I
    cdef bint m = w.projected or w.cell == GRU_BEFORE
    cdef size_t size
    cdef real *next
    job.scratch_each = block_size(kind) + back_room(w, rows) + rows * (w.R + w.H)
    job.scratch_each = ceil_div(job.scratch_each * sizeof(real), LINE) * LINE
    job.scratch = take_memory(job.scratch_each * workers)
    size = B * (w.R + w.H) + C * w.S + (C * (w.N_ih + w.N_hh) if w.normal else 0) + w.S + w.N_ih
    size += (C * (w.S + (w.N_hh if w.normal else 0)) if job.turns else 0) + (0 if course.plain else C * w.R)
    size += x + dx + (C * w.R if w.projected else 0) + (C * w.H if m else 0)
    size += total * (w.R + w.H) if job.deep else 0
    job.work = take_memory(size * sizeof(real) + LINE)
    # token ids first, aligned as they must be
    next = <real *> job.work.aligned
    if x:
        job.xs = next
        next = next + x
    job.carry_h, job.carry_c = next, next + B * w.R if w.cell == LSTM else NULL
    next = next + B * (w.R + w.H)
    job.da = next
    next = next + C * w.S
    if w.normal:
        job.d_ih, job.d_hh = next, next + C * w.N_ih
        next = next + C * (w.N_ih + w.N_hh)
    job.dbias = next if w.has_bias_ih or w.has_bias_hh else NULL
    job.dgain = next + w.S
    next = next + w.S + w.N_ih
    if job.turns:
        job.turned_ih, job.turned_hh = next, next + C * w.S
        next = next + C * (w.S + (w.N_hh if w.normal else 0))
    if not course.plain:
        job.h_before = next
        next = next + C * w.R
    if dx:
        job.dxs = next
        next = next + dx
    if w.projected:
        job.dh = next
        next = next + C * w.R
    if m:
        job.m = next
        next = next + C * w.H
    if job.deep:
        job.deep_h, job.deep_c = next, next + total * w.R
        next = next + total * (w.R + w.H)
    check(next <= <real *> job.work.aligned + size, b"room")
    return 0


cdef void first_carry(BpttJob job, Course course, const real *dh_n, const real *dc_n) noexcept nogil:
    """The final states' gradients, by number of the row."""
    cdef ptrdiff_t H = job.weights.H, R = job.weights.R, r
    for r in range(course.B):
        if dh_n != NULL:
            memcpy(<real *> job.carry_h + r * R, dh_n + course.row(r) * R, R * sizeof(real))
        else:
            memset(<real *> job.carry_h + r * R, 0, R * sizeof(real))
        if job.carry_c == NULL:
            continue
        if dc_n != NULL:
            memcpy(<real *> job.carry_c + r * H, dc_n + course.row(r) * H, H * sizeof(real))
        else:
            memset(<real *> job.carry_c + r * H, 0, H * sizeof(real))


cdef int take_sums(BpttJob job, const real *dweight_ih, real *kind) except -1:
    """Sums that go on from gradients that are there, in the order of the columns; see `finish`."""
    cdef Panels w = job.weights
    cdef ptrdiff_t H = w.H, N = w.N_ih, I = w.I, Np = padded(kind, N), v, j
    cdef real *dbias = <real *> job.dbias
    cdef const real *db_ih = <const real *> job.dw[2]
    cdef const real *db_hh = <const real *> job.dw[3]
    cdef real *table = <real *> job.dw[0]
    cdef Memory ordered
    if dbias != NULL:
        memset(dbias, 0, w.S * sizeof(real))
        if db_hh != NULL and w.cell == GRU:
            memcpy(dbias + H, db_hh, N * sizeof(real))
        elif db_hh != NULL:
            w.columns(db_hh, 1, dbias)
        if db_ih != NULL:
            w.columns(db_ih, 1, dbias)
    if w.normal:
        w.columns(<const real *> job.dw[6], 1, <real *> job.dgain)
    if w.tokens:
        ordered = take_memory(N * I * sizeof(real))
        w.columns(dweight_ih, I, <real *> ordered.aligned)
        for v in range(I):
            for j in range(N):
                table[v * Np + j] = (<const real *> ordered.aligned)[j * I + v]
    return 0


cdef int finish(BpttJob job, const real *table, real *kind) except -1:
    """Gradients that were summed in the order of the columns, into the parameters' order."""
    cdef Panels w = job.weights
    cdef ptrdiff_t H = w.H, N = w.N_ih
    cdef real *dbias = <real *> job.dbias
    cdef real *db_ih = <real *> job.dw[2]
    cdef real *db_hh = <real *> job.dw[3]
    cdef Memory ordered
    if table != NULL:
        ordered = take_memory(N * w.I * sizeof(real))
        turn(table, padded(kind, N), w.I, N, <real *> ordered.aligned)
        w.parameters(<const real *> ordered.aligned, w.I, <real *> job.dw[0])
    if db_ih != NULL:
        w.parameters(dbias, 1, db_ih)
    if db_hh != NULL:
        if w.cell == GRU:
            memcpy(db_hh, dbias + H, N * sizeof(real))
        else:
            w.parameters(dbias, 1, db_hh)
    if w.normal:
        w.parameters(<const real *> job.dgain, 1, <real *> job.dw[6])
    return 0
