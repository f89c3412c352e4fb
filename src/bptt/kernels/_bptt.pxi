# The backward loop over time, and the weight gradients.
#
# Time is cut into chunks of about BLOCK_K rows (t, b), the last chunk first.  In each, the recurrence (_back.pxi)
# gives da for the chunk; then da, still in cache, is multiplied into all sums at once:
#
#     dW_hh += da^T h_{t-1}      dW_ih += da^T x      dx = da W_ih      db += sum of da
#
# da of one chunk, of two where threads share the work, is all the memory that a backward pass needs beyond its results.
# Chunks are counted from the end and are a matter of T, B, the lengths and the layer alone, so the sums don't depend on
# how the work is shared out.

cdef enum:
    HALF_K = BLOCK_K // 2  # rows of half a chunk at least
    HALVED_TO = 1 << 21    # bytes of the weight gradients of a layer with gates whose chunks are halved


cdef ptrdiff_t gradient_count(BpttJob job, Panels w, real *kind) noexcept nogil:
    """Items of dW_hh, of dW_hn, of dW_ih (tokens: one), groups of dx rows, items of dW_hr, one for all vectors."""
    return (outer_items(kind, w.N_hh, w.R)
            + (outer_items(kind, w.H, w.H) if w.cell == GRU_BEFORE else 0)
            + (1 if w.tokens else outer_items(kind, w.N_ih, w.I)) + job.input_groups
            + (outer_items(kind, w.R, w.H) if w.projected else 0) + 1)


cdef inline const real *h_rows(
    BpttJob job, ptrdiff_t start, ptrdiff_t at, ptrdiff_t *from_head, real *kind
) noexcept nogil:
    """h_{t-1} of a chunk's rows: the first from_head of them are h_begin, this is where the others are.

    at: where in the arrays of chunks this one is.
    """
    cdef ptrdiff_t B = job.course.B, R = job.weights.R
    from_head[0] = B if start == 0 and job.h_before == NULL else 0
    if job.h_before != NULL:
        return <const real *> job.h_before + at * R
    return <const real *> job.y + (start * B - B + from_head[0]) * R


cdef inline const real *x_rows(BpttJob job, ptrdiff_t start, ptrdiff_t at, real *kind) noexcept nogil:
    """x of a chunk's rows."""
    if job.xs == NULL:
        return row_of(job.x, start * job.course.B, job.weights.I, kind)
    return <const real *> job.xs + at * job.weights.I


cdef void bptt_item(BpttJob job, Panels w, Course course, ChunkItem what, int worker, real *kind) noexcept nogil:
    cdef ptrdiff_t end = job.bounds[what.chunk], start = job.bounds[what.chunk + 1]
    cdef ptrdiff_t at = job.set_row(what.chunk)
    if what.phase == RECURRENCE:
        bptt_rows(job, job.weights, job.course, worker, start, end, at, job.first_row(what.item),
                  job.first_row(what.item + 1), job.set_sums(what.chunk), kind)
    elif what.phase == TURN:
        turn_item(job, job.weights, job.course, start, end, at, what.item, kind)
    elif not job.interrupted(worker, 2.0 * (course.before(end) - course.before(start)) * w.N_hh * 64):
        gradient_item(job, job.weights, job.course, start, end, at, job.set_sums(what.chunk), what.item, worker,
                      what.chunk > 0 or job.adds, kind)


cdef inline const real *d_ih_of(BpttJob job, Panels w, ptrdiff_t at, real *kind) noexcept nogil:
    return <const real *> job.d_ih + at * w.N_ih if w.normal else <const real *> job.da + at * w.S


cdef void turn_item(
    BpttJob job, Panels w, Course course, ptrdiff_t start, ptrdiff_t end, ptrdiff_t at, ptrdiff_t item, real *kind
) noexcept nogil:
    """Part of what the weight gradients of a chunk need: da transposed, or digits of that for the AMX unit."""
    cdef ptrdiff_t rows = course.before(end) - course.before(start)
    cdef ptrdiff_t ld_ih = w.N_ih if w.normal else w.S, columns = w.S if w.cell == GRU and not w.normal else w.N_ih
    if real is float:
        if job.sum_fixed:
            split_item(job, w, at, rows, ld_ih, columns, item)
            return
    turn_columns(d_ih_of(job, w, at, kind), ld_ih, rows, columns, job.turns, item, <real *> job.turned_ih)
    if w.normal:
        turn_columns(<const real *> job.d_hh + at * w.N_hh, w.N_hh, rows, w.N_hh, job.turns, item,
                     <real *> job.turned_hh)


cdef void split_item(
    BpttJob job, Panels w, ptrdiff_t at, ptrdiff_t rows, ptrdiff_t ld_ih, ptrdiff_t columns, ptrdiff_t item
) noexcept nogil:
    """Part of da^T as a left operand, unless the chunk has few rows."""
    if rows < amx_from_rows:
        return
    amx_turn(d_ih_of(job, w, at, <float *> NULL), ld_ih, rows, columns, job.turns, item, job.left_ih, job.unfit_ih)
    if w.normal:
        amx_turn(<const float *> job.d_hh + at * w.N_hh, w.N_hh, rows, w.N_hh, job.turns, item, job.left_hh,
                 job.unfit_hh)


cdef LeftOperand left_of(BpttJob job, const char *digits, const char *unfit, ptrdiff_t from_, ptrdiff_t rows,
                         ptrdiff_t numbers) noexcept nogil:
    """da^T from its row from_ on for a weight gradient of so many numbers; NULL where the tile has to take it."""
    cdef LeftOperand left
    left.digits = left.unfit = NULL
    if job.sum_fixed and numbers >= amx_from and rows >= amx_from_rows:
        left.digits, left.unfit = digits + from_ // AMX_ROWS * amx_size(1, rows), unfit + from_ // AMX_ROWS
    return left


cdef void gradient_item(
    BpttJob job, Panels w, Course course, ptrdiff_t start, ptrdiff_t end, ptrdiff_t at, double *sums, ptrdiff_t item,
    int worker, bint add, real *kind
) noexcept nogil:
    """One of the products of the chunk of steps end-1..start; see `gradient_count`."""
    cdef ptrdiff_t base = course.before(start)
    cdef ptrdiff_t B = course.B, H = w.H, I = w.I, R = w.R, rows = course.before(end) - base, first, last, count
    cdef ptrdiff_t ld_ih = w.N_ih if w.normal else w.S, ld_hh = w.N_hh if w.normal else w.S
    cdef const real *da = row_of(job.da, at, w.S, kind)
    cdef const real *m = row_of(job.m, at, H, kind)
    cdef const real *d_ih = d_ih_of(job, w, at, kind)
    cdef const real *d_hh = <const real *> job.d_hh + at * w.N_hh if w.normal else da + w.from_hh
    # where da was split for the unit, it was not transposed
    cdef bint turned = job.turns > 0 and not job.sum_fixed
    cdef const real *columns_ih = <const real *> job.turned_ih if turned else d_ih
    cdef const real *columns_hh = d_hh
    cdef ptrdiff_t row_ih = rows if turned else 1, row_hh = row_ih
    cdef ptrdiff_t k_ih = 1 if turned else ld_ih, k_hh = 1 if turned else ld_hh
    cdef real *scratch = <real *> (job.scratch.aligned + worker * job.scratch_each)
    cdef char *right = <char *> scratch + job.scratch_right
    cdef int start_sum = TILE_ADD if add else TILE_SET
    cdef ptrdiff_t from_head = 0, late = H if w.cell >= GRU else 0
    cdef LeftOperand left
    cdef const real *body
    cdef real *to
    if turned:
        columns_hh = <const real *> job.turned_hh if w.normal else columns_ih + w.from_hh * rows
    count = outer_items(kind, w.N_hh, R)
    if item < count:
        # dW_hh = sum_t da_t^T h_{t-1}
        body = h_rows(job, start, at, &from_head, kind)
        if w.normal:
            left = left_of(job, job.left_hh, job.unfit_hh, 0, rows, w.N_hh * R)
        else:
            left = left_of(job, job.left_ih, job.unfit_ih, w.from_hh, rows, w.N_hh * R)
        outer_panel(columns_hh, row_hh, k_hh, left, w.N_hh, 0, rows, <const real *> job.h_begin, from_head, body, R,
                    item, scratch, right, <real *> job.dw[1], start_sum)
        return
    item -= count
    if w.cell == GRU_BEFORE:
        count = outer_items(kind, H, H)
        if item < count:
            # dW_hn = sum_t da_n^T s_t
            left = left_of(job, job.left_ih, job.unfit_ih, 0, rows, H * H)
            outer_panel(columns_ih, row_ih, k_ih, left, H, 0, rows, <const real *> NULL, 0, m, H, item, scratch, right,
                        <real *> job.dw[1] + 2 * H * H, start_sum)
            return
        item -= count
    if w.tokens:
        if item == 0:
            # dW_ih[:, v] = sum of da over the rows with token v
            scatter_rows(d_ih, ld_ih, w.N_ih, rows,
                         <const int64_t *> job.xs + at if job.xs != NULL else <const int64_t *> job.x + start * B,
                         <real *> job.dw[0], padded(kind, w.N_ih))
            return
        item -= 1
    else:
        count = outer_items(kind, w.N_ih, I)
        if item < count:
            # dW_ih = sum_t da_t^T x_t
            left = left_of(job, job.left_ih, job.unfit_ih, 0, rows, w.N_ih * I)
            outer_panel(columns_ih, row_ih, k_ih, left, w.N_ih, late, rows, <const real *> NULL, 0,
                        x_rows(job, start, at, kind), I, item, scratch, right, <real *> job.dw[0], start_sum)
            return
        item -= count
        if item < job.input_groups:
            # dx_t = da_t W_ih
            first, last = block_start(rows, job.input_groups, item), block_start(rows, job.input_groups, item + 1)
            if first == last:
                return
            to = <real *> job.dxs + first * I if job.dxs != NULL else <real *> job.dx + (start * B + first) * I
            if job.input_fixed:
                if real is float:
                    fixed_product(d_ih + first * ld_ih, ld_ih, last - first, 1, 0, w.digits_back_ih, w.N_ih, I,
                                  not job.coarse, to, I, 0, TILE_SET, <const real *> NULL, False, right)
            elif last - first > ROWS_TOGETHER:
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
        outer_panel(<const real *> job.dh + at * R, 1, R, no_left, R, 0, rows, <const real *> NULL, 0, m, H,
                    item, scratch, right, <real *> job.dw[4], start_sum)
        return
    if w.normal:
        put_row_sums(job, w, sums, add, kind)
    elif job.dbias != NULL:
        column_sums(da, w.S if w.cell != GRU_BEFORE else 3 * H, w.S, rows, <real *> job.dbias, add)
    if w.ph != NULL:
        peephole_sums(job, job.course, start, end, da, <real *> job.dw[5], add)


cdef bint halves_chunks(Panels w) noexcept nogil:
    """Whether half a chunk at a time is faster.

    Gates, their gradients and the operands that are made of those then stay in cache from one loop to the next, and
    the sums, of which there are twice as many passes, do so too.
    """
    return w.cell > IDENTITY and (w.N_ih * w.I + w.N_hh * w.R) * (8 if w.double else 4) <= HALVED_TO


cdef int cut_into_chunks(BpttJob job, bint halved) except -1:
    """Chunks of at most BLOCK_K rows (or one step), the last one first; or those in halves."""
    cdef Course course = job.course
    cdef ptrdiff_t s, rows, count = 0, middle, half
    job.bounds_memory = take_memory((course.T + 1) * sizeof(int64_t))
    job.bounds = <int64_t *> job.bounds_memory.aligned
    job.bounds[0] = s = course.T
    while s > 0:
        rows = half = middle = 0
        while s > 0 and (rows == 0 or rows + course.alive(s - 1) <= BLOCK_K):
            s -= 1
            rows += course.alive(s)
            if half < HALF_K:
                middle, half = s, rows
        if halved and rows - half >= HALF_K:
            job.capacity = max(job.capacity, half)
            count += 1
            job.bounds[count] = middle
            rows -= half
        job.capacity = max(job.capacity, rows)
        count += 1
        job.bounds[count] = s
    job.chunks = count
    return 0


cdef size_t left_size(BpttJob job, Panels w, char *at) noexcept nogil:
    """Bytes of a chunk's split operands; where `at` is not NULL they go there."""
    cdef ptrdiff_t C = job.capacity
    cdef size_t left = amx_size(amx_rows(w.S), C), left_hh = amx_size(amx_rows(w.N_hh), C) if w.normal else 0
    if not job.sum_fixed:
        return 0
    if at != NULL:
        job.left_ih, job.left_hh = at, at + left
        job.unfit_ih = at + left + left_hh
        job.unfit_hh = job.unfit_ih + amx_rows(w.S)
    return left + left_hh + amx_rows(w.S) + amx_rows(w.N_hh)


cdef ptrdiff_t rows_of_a_block(BpttJob job) noexcept nogil:
    """Rows of the largest part of a recurrence; of a truncated one the parts are as if there were no sums."""
    cdef ptrdiff_t B = job.course.B, rows = ceil_div(B, job.blocks)
    if job.weights.normal:
        rows = max(rows, min(B, summed_together(B) * ceil_div(sum_groups(B), job.blocks)))
    return rows


cdef int make_room(BpttJob job, int workers, real *kind) except -1:
    """Working memory: what each worker needs, and the arrays of a chunk."""
    cdef Panels w = job.weights
    cdef Course course = job.course
    cdef ptrdiff_t B = course.B, C = job.capacity, rows = rows_of_a_block(job), total = course.before(course.T)
    cdef ptrdiff_t all = C * job.sets
    cdef bint summed = w.normal and job.whole, kept = not summed or job.deep or w.ph != NULL
    cdef ptrdiff_t sums = job.sets * sum_groups(B) * row_sums(w) * sizeof(double) // sizeof(real) if summed else 0
    cdef ptrdiff_t x = 0 if course.plain else 2 * all if w.tokens else all * w.I  # a token id is as long as two floats
    cdef ptrdiff_t dx = 0 if course.plain or job.input_groups == 0 else C * w.I
    cdef bint m = w.projected or w.cell == GRU_BEFORE, turned = job.turns > 0 and not job.sum_fixed
    cdef size_t size
    cdef real *next
    job.scratch_each = block_size(kind) + back_room(w, rows) + rows * (w.R + w.H)
    job.scratch_each = job.scratch_right = ceil_div(job.scratch_each * sizeof(real), LINE) * LINE
    job.scratch_each += max(amx_size(TILE_WIDTH, C) if job.sum_fixed else 0,
                            ceil_div(fixed_room(w.N_ih, C), LINE) * LINE if job.input_fixed else 0)
    job.scratch = take_memory(job.scratch_each * workers + left_size(job, w, NULL))
    left_size(job, w, job.scratch.aligned + job.scratch_each * workers)
    size = sums + B * (w.R + w.H) + (all * w.S if kept else 0) + (all * (w.N_ih + w.N_hh) if w.normal else 0)
    size += w.S + w.N_ih
    size += (C * (w.S + (w.N_hh if w.normal else 0)) if turned else 0) + (0 if course.plain else all * w.R)
    size += x + dx + (all * w.R if w.projected else 0) + (all * w.H if m else 0)
    size += total * (w.R + w.H) if job.deep else 0
    job.work = take_memory(size * sizeof(real) + LINE)
    # those sums and token ids first, aligned as they must be
    next = <real *> job.work.aligned
    if summed:
        memset(next, 0, sums * sizeof(real))
        job.sums = <double *> next
        next = next + sums
    if x:
        job.xs = next
        next = next + x
    job.carry_h, job.carry_c = next, next + B * w.R if w.cell == LSTM else NULL
    next = next + B * (w.R + w.H)
    if kept:
        job.da = next
        next = next + all * w.S
    if w.normal:
        job.d_ih, job.d_hh = next, next + all * w.N_ih
        next = next + all * (w.N_ih + w.N_hh)
    job.dbias = next if w.has_bias_ih or w.has_bias_hh else NULL
    job.dgain = next + w.S
    next = next + w.S + w.N_ih
    if turned:
        job.turned_ih, job.turned_hh = next, next + C * w.S
        next = next + C * (w.S + (w.N_hh if w.normal else 0))
    if not course.plain:
        job.h_before = next
        next = next + all * w.R
    if dx:
        job.dxs = next
        next = next + dx
    if w.projected:
        job.dh = next
        next = next + all * w.R
    if m:
        job.m = next
        next = next + all * w.H
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
