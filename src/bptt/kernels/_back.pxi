# The recurrence of the backward pass: da of one time step, and what goes on to the step before.


cdef ptrdiff_t back_room(Panels w, ptrdiff_t rows) noexcept nogil:
    """Numbers of working memory that `back_step` wants."""
    cdef ptrdiff_t digits = ceil_div(fixed_room(w.N_hh, rows), sizeof(float)) if w.fixed_back_hh else 0
    return rows * (w.R + w.R + w.H + w.H) + (w.S + row_sums(w) if w.normal else 0) + digits


cdef void bare_back_step(
    Panels w, bint fine, ptrdiff_t rows, bint backwards,
    const real *dy,  # IN (rows, R) or NULL
    const real *h,   # IN (rows, R): h_t
    real *da,        # OUT (rows, R)
    real *carry,     # INOUT, as in `back_step`
    real *room,      # WORK
) noexcept nogil:
    """`back_step` of a bare cell, see `bare_step`."""
    cdef ptrdiff_t R = w.R
    # da_t = (dy_t + carry) f'(a_t)
    cell_backward(w.cell, da, carry, dy, h, rows * R)
    # dh_{t-1} = da_t W_hh
    step_product(w.fixed_back_hh, fine, chains_for(<real *> NULL, R, R), da, R, rows, w.step_back_hh(), R, R, carry, R,
                 TILE_SET, <const real *> NULL, backwards, room)


cdef inline const real *h_before(
    BpttJob job, Course course, ptrdiff_t s, ptrdiff_t number, ptrdiff_t b, ptrdiff_t at, real *kind
) noexcept nogil:
    """h_{t-1} of the row with that number, b in the batch, whose step s is row `at` of (T, B)."""
    cdef ptrdiff_t R = job.weights.R
    if not course.plain and course.resets(s, number):
        return <const real *> job.h_0 + b * R
    if s == 0:
        return <const real *> job.h_begin + b * R
    return <const real *> job.y + (at + (course.B if course.reverse else -course.B)) * R


cdef inline const real *c_before(
    BpttJob job, Course course, ptrdiff_t s, ptrdiff_t number, ptrdiff_t b, ptrdiff_t at, real *kind
) noexcept nogil:
    """c_{t-1}; NULL where the cell has none."""
    cdef ptrdiff_t H = job.weights.H
    if not course.plain and course.resets(s, number):
        return row_of(job.c_0, b, H, kind)
    if s == 0:
        return row_of(job.c_begin, b, H, kind)
    return row_of(job.c, at + (course.B if course.reverse else -course.B), H, kind)


cdef inline bint all_zero(const real *v, ptrdiff_t n) noexcept nogil:
    cdef ptrdiff_t k = 0
    while k < n and v[k] == 0:
        k += 1
    return k == n


cdef void back_step(
    BpttJob job, Panels w, Course course, ptrdiff_t s, ptrdiff_t first, ptrdiff_t rows,
    ptrdiff_t at_chunk,  # row of the chunk where the first of these rows is
    bint with_dy, bint resets,
    real *carry,         # INOUT (rows, R): dL/dh_t but for dy_t in, dL/dh_{t-1} but for dy_{t-1} out
    real *carry_c,       # INOUT (rows, H): dL/dc_t in, dL/dc_{t-1} out
    real *room,          # WORK, see `back_room`
    double *sums,        # INOUT or NULL, see BpttJob
) noexcept nogil:
    """Step s of rows number first..first+rows-1 backwards; da and what the weight gradients need to the chunk.

    resets: where a row starts this step anew, what would go to the step before goes to the initial state.
    """
    cdef ptrdiff_t B = course.B, I = w.I, H = w.H, R = w.R, S = w.S, N = w.N_hh, r, b, at, k, ld
    cdef bint plain = course.plain, gru = w.cell >= GRU, adds = gru or course.kept_h != NULL
    cdef bint joined = w.projected or course.kept_h != NULL
    cdef int chains = chains_for(<real *> NULL, N, R)
    cdef real *da = row_of(job.da, at_chunk, S, <real *> NULL)
    cdef ptrdiff_t each = S, together = summed_together(B)
    cdef real *some = NULL  # sums of the rows of a group so far
    cdef bint more, empty_before = False
    cdef real *dh = carry
    cdef real *ds = room
    cdef real *skip = ds + rows * R
    cdef real *dm = skip + rows * H
    cdef real *own = dm + rows * H
    cdef real *digits = own + rows * R + (S + row_sums(w) if w.normal else 0)
    cdef real *m = row_of(job.m, at_chunk, H, <real *> NULL)
    cdef real *masked = row_of(job.h_before, at_chunk, R, <real *> NULL)
    cdef const real *dy = <const real *> job.dy if with_dy else NULL
    cdef const real *y = <const real *> job.y
    cdef const real *a = <const real *> job.gates
    cdef const real *ph = <const real *> w.ph
    cdef const real *mask = <const real *> course.dropout
    cdef const real *h_1
    cdef const real *c_1
    cdef const real *rec
    if job.squares != NULL:
        for r in range(rows):
            at = s * B + first + r if plain else course.at(s, first + r)
            job.squares[at] = square_sum(carry + r * R, dy + at * R if dy != NULL else <const real *> NULL, R)
    if sums != NULL:
        some = own + rows * R + S
    if da == NULL:  # a row at a time
        da, each = own + rows * R, 0
    if plain and w.cell <= IDENTITY and not w.normal:
        # da_t = (dy_t + carry) f'(a_t)
        at = s * B + first
        cell_backward(w.cell, da, carry, dy + at * H if dy != NULL else NULL, y + at * H, rows * H)
    if joined:
        # dL/dh_t; of what zoneout keeps, all goes straight to h_{t-1}
        dh = row_of(job.dh, at_chunk, R, <real *> NULL) if w.projected else own
        for r in range(rows):
            at = s * B + first + r if plain else course.at(s, first + r)
            for k in range(R):
                dh[r * R + k] = carry[r * R + k] + (dy[at * R + k] if dy != NULL else 0)
            if course.kept_h != NULL:
                part(course.kept_h + at * R, dh + r * R, carry + r * R, R)
        dy = NULL
        if w.projected:
            # dm_t = dh_t W_hr
            product(chains_for(<real *> NULL, R, H), dh, R, 1, rows, 1, 0, <const real *> w.back_hr, R, H, dm, H, 0,
                    TILE_SET, <const real *> NULL, s & 1)
            dh = dm
    if not plain or w.cell > IDENTITY or w.normal:
        for r in range(rows):
            b = first + r if plain else course.row(first + r)
            at = s * B + b if plain else course.at(s, first + r)
            h_1 = h_before(job, course, s, first + r, b, at, <real *> NULL)
            c_1 = c_before(job, course, s, first + r, b, at, <real *> NULL)
            if not plain:
                if masked == NULL:
                    pass
                elif mask != NULL:
                    times(h_1, mask + b * R, masked + r * R, R)
                else:
                    memcpy(masked + r * R, h_1, R * sizeof(real))
                if job.xs == NULL:
                    pass
                elif w.tokens:
                    check(0 <= (<const int64_t *> job.x)[at] < I, b"token")
                    (<int64_t *> job.xs)[at_chunk + r] = (<const int64_t *> job.x)[at]
                else:
                    memcpy(<real *> job.xs + (at_chunk + r) * I, <const real *> job.x + at * I, I * sizeof(real))
            if w.normal and plain and r + 1 < rows:
                past_announce(<const real *> job.normed_ih + (at + 1) * w.N_ih, w.N_ih * sizeof(real))
                past_announce(<const real *> job.normed_hh + (at + 1) * N, N * sizeof(real))
                if a != NULL:
                    past_announce(a + (at + 1) * S, S * sizeof(real))
            if w.cell == LSTM:
                if course.kept_c != NULL:
                    part(course.kept_c + at * H, carry_c + r * H, skip + r * H, H)
                lstm_backward(a + at * S, ph, c_1, dh + r * H, dy + at * R if dy != NULL else NULL, carry_c + r * H,
                              da + r * each, m + r * H if w.projected else NULL, H)
                if course.kept_c != NULL:
                    for k in range(H):
                        carry_c[r * H + k] = carry_c[r * H + k] + skip[r * H + k]
            elif gru:
                gru_backward(w.cell == GRU, a + at * S, h_1, dh + r * H, dy + at * R if dy != NULL else NULL,
                             carry + r * R, course.kept_h != NULL, da + r * each, H)
            else:
                cell_backward(w.cell, da + r * each, dh + r * H, dy + at * R if dy != NULL else NULL, y + at * R, H)
            if w.normal:
                more = r > 0 and (first + r) % together != 0
                normalise_backward(da + r * each, <const real *> w.gain_ih, <const real *> job.normed_ih + at * w.N_ih,
                                   (<const real *> job.rate_ih)[at], <real *> job.d_ih + (at_chunk + r) * w.N_ih,
                                   row_of(some, S, 1, <real *> NULL), more, w.N_ih)
                normalise_backward(da + r * each + w.from_hh, <const real *> w.gain_hh,
                                   <const real *> job.normed_hh + at * N, (<const real *> job.rate_hh)[at],
                                   <real *> job.d_hh + (at_chunk + r) * N,
                                   row_of(some, S + w.N_ih, 1, <real *> NULL), more, N)
                if sums != NULL:
                    empty_before = empty_before or all_zero(h_1, R)
                    if more:
                        add_to(some, da + r * each, S)
                    else:
                        memcpy(some, da + r * each, S * sizeof(real))
                    if r + 1 == rows or (first + r + 1) % together == 0:
                        add_double(some, row_sums(w), sums + (first + r) // together * row_sums(w))
    if w.cell == GRU_BEFORE:
        # ds_t = da_n W_hn
        product(chains_for(<real *> NULL, H, H), da, S, 1, rows, 1, 0, <const real *> w.back_hn, H, H, ds, H, 0,
                TILE_SET, <const real *> NULL, s & 1)
        for r in range(rows):
            at = s * B + first + r if plain else course.at(s, first + r)
            h_1 = h_before(job, course, s, first + r, first + r, at, <real *> NULL) if plain else masked + r * R
            memcpy(m + r * H, a + at * S + 3 * H, H * sizeof(real))
            reset_backward(a + at * S, h_1, ds + r * H, da + r * S, H)
    # dh_{t-1} = da_t W_hh
    rec, ld = da + w.from_hh, S
    if w.normal:
        rec, ld = <const real *> job.d_hh + at_chunk * N, N
    if mask == NULL and w.cell != GRU_BEFORE:
        step_product(w.fixed_back_hh, not job.coarse, chains, rec, ld, rows, w.step_back_hh(), N, R, carry, R,
                     TILE_ADD if adds else TILE_SET, <const real *> NULL, s & 1, digits)
    else:
        step_product(w.fixed_back_hh, not job.coarse, chains, rec, ld, rows, w.step_back_hh(), N, R, ds, R,
                     TILE_ADD if w.cell == GRU_BEFORE else TILE_SET, <const real *> NULL, s & 1, digits)
        for r in range(rows):
            if mask != NULL:
                times(ds + r * R, mask + course.row(first + r) * R, ds + r * R, R)
            for k in range(R):
                carry[r * R + k] = (carry[r * R + k] if adds else 0) + ds[r * R + k]
    if empty_before:
        # A state of zeros, such as the first, adds nothing to a weight gradient.  But LN' is 1 / sqrt(1e-5) there, and
        # da so large that whole numbers of one unit for all rows would have no digits left for the others: _split.h.
        for r in range(rows):
            b = first + r if plain else course.row(first + r)
            at = s * B + b if plain else course.at(s, first + r)
            if all_zero(h_before(job, course, s, first + r, b, at, <real *> NULL), R):
                for k in range(N):  # 0, or NaN for inf and NaN
                    (<real *> job.d_hh)[(at_chunk + r) * N + k] *= 0
    if course.reset != NULL and (s > 0 or resets):
        for r in range(rows):
            if course.resets(s, first + r):
                end_carry(job.dh_0 if resets else NULL, course.row(first + r), R, carry + r * R)
                if carry_c != NULL:
                    end_carry(job.dc_0 if resets else NULL, course.row(first + r), H, carry_c + r * H)


cdef void end_carry(void *to, ptrdiff_t b, ptrdiff_t width, real *carry) noexcept nogil:
    """What is carried, (width,), ends in row b of the gradient of a state, or nowhere where that is NULL."""
    cdef real *sums = row_of(to, b, width, <real *> NULL)
    cdef ptrdiff_t k
    for k in range(width):
        if sums != NULL:
            sums[k] = sums[k] + carry[k]
        carry[k] = 0


cdef void to_begin(BpttJob job, ptrdiff_t r, real *carry, real *carry_c) noexcept nogil:
    """What the row with number r carries ends in the state before its first step."""
    end_carry(job.dh_begin, job.course.row(r), job.weights.R, carry)
    if carry_c != NULL:
        end_carry(job.dc_begin, job.course.row(r), job.weights.H, carry_c)


cdef real *back_scratch(BpttJob job, int worker, real *kind) noexcept nogil:
    """Where `back_step` finds room: behind the worker's panel."""
    return <real *> (job.scratch.aligned + worker * job.scratch_each) + block_size(kind)


cdef inline bint back_fits(BpttJob job, int worker, const void *end) noexcept nogil:
    """Whether the worker's room reaches that far."""
    return <const char *> end <= job.scratch.aligned + (worker + 1) * job.scratch_each


cdef void bptt_rows(
    BpttJob job, Panels w, Course course, int worker, ptrdiff_t start, ptrdiff_t end, ptrdiff_t chunk_at,
    ptrdiff_t first, ptrdiff_t last, double *sums, real *kind
) noexcept nogil:
    """da of steps end-1..start of rows number first..last-1; to the arrays of chunks from row chunk_at on."""
    cdef ptrdiff_t H = w.H, R = w.R, base = course.before(start), s, n, r
    cdef real *carry = <real *> job.carry_h + first * R
    cdef real *carry_c = row_of(job.carry_c, first, H, kind)
    cdef real *room = back_scratch(job, worker, kind)
    cdef bint simple = bare(w) and course.plain and job.squares == NULL and not job.deep
    check(back_fits(job, worker, room + back_room(w, last - first)), b"room")
    for s in range(end - 1, start - 1, -1):
        n = min(last, course.alive(s)) - first
        if n <= 0:
            continue
        if job.interrupted(worker, 2.0 * n * w.N_hh * R):
            return
        if simple:
            bare_back_step(w, not job.coarse, n, s & 1, row_of(job.dy, s * course.B + first, R, kind),
                           <const real *> job.y + (s * course.B + first) * R,
                           <real *> job.da + (chunk_at + (s - start) * course.B + first) * R, carry, room)
            continue
        if job.deep:
            memcpy(carry, <const real *> job.deep_h + (course.before(s) + first) * R, n * R * sizeof(real))
            if carry_c != NULL:
                memcpy(carry_c, <const real *> job.deep_c + (course.before(s) + first) * H, n * H * sizeof(real))
        back_step(job, job.weights, job.course, s, first, n, chunk_at + course.before(s) - base + first, not job.deep,
                  not job.deep, carry, carry_c, room, sums)
    if start == 0 and not job.deep:
        for r in range(first, last):
            to_begin(job, r, <real *> job.carry_h + r * R, row_of(job.carry_c, r, H, kind))
