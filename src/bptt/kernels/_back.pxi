# The recurrence of the backward pass: da of one time step, and what goes on to the step before.


cdef class BpttJob(Job):
    """The backward pass: see _bptt.pxi for how its items follow each other."""

    cdef Panels weights
    cdef Course course
    cdef Memory bounds_memory
    cdef int64_t *bounds        # (chunks + 1,): chunk k is steps bounds[k + 1] .. bounds[k] - 1
    cdef ptrdiff_t chunks
    cdef ptrdiff_t capacity     # rows of the largest chunk
    cdef ptrdiff_t blocks       # items of a chunk's recurrence, then ...
    cdef ptrdiff_t turns        # items that transpose da, then ...
    cdef ptrdiff_t input_groups  # ... the products, among them groups of rows of dx
    cdef Memory scratch         # a panel, and what `back_step` wants, for each worker
    cdef size_t scratch_each
    cdef Memory work            # all that is WORK below
    cdef bint deep              # truncated: dh_t and dc_t are given by DepthJob
    cdef void *x                # IN (T, B, I) or tokens (T, B)
    cdef void *h_0              # IN (B, R)
    cdef void *c_0              # IN (B, H)
    cdef void *y                # IN (T, B, R)
    cdef void *c                # IN (T, B, H)
    cdef void *gates            # IN (T, B, S)
    cdef void *normed_ih        # IN (T, B, N_ih), and so on: see UnrollJob
    cdef void *normed_hh
    cdef void *rate_ih
    cdef void *rate_hh
    cdef void *dy               # IN (T, B, R) or NULL
    cdef double *squares        # OUT (T, B) or NULL: squared norm of dL/dh_t
    cdef bint adds              # to gradients that are there already
    # by number of the row
    cdef void *carry_h          # WORK (B, R): dL/dh_t but for dy_t
    cdef void *carry_c          # WORK (B, H)
    cdef void *deep_h           # WORK (steps of all rows, R): dL/dh_t truncated
    cdef void *deep_c           # WORK (steps of all rows, H)
    # of one chunk, rows (s, r) side by side
    cdef void *da               # WORK (capacity, S)
    cdef void *d_ih             # WORK (capacity, N_ih): gradient of W_ih x; without layer normalisation in da
    cdef void *d_hh             # WORK (capacity, N_hh): gradient of W_hh h_{t-1}
    cdef void *turned_ih        # WORK (N_ih, capacity): d_ih transposed (where turns > 0)
    cdef void *turned_hh        # WORK (N_hh, capacity)
    cdef void *h_before         # WORK (capacity, R): h_{t-1} as W_hh sees it; NULL where y and h_0 are that
    cdef void *xs               # WORK (capacity, I) or tokens (capacity,); NULL where x is that
    cdef void *dxs              # WORK (capacity, I); NULL where dx is that
    cdef void *dh               # WORK (capacity, R): dL/dh_t of a projected LSTM
    cdef void *m                # WORK (capacity, H): m_t of a projected LSTM, s_t of a GRU that resets before
    cdef void *dx               # OUT (T, B, I)
    cdef void *dh_0             # OUT (B, R), zeros at first
    cdef void *dc_0             # OUT (B, H), zeros at first
    cdef void *dw[8]            # OUT as Weights; of tokens dw[0] is INOUT (I, padded N_ih) of zeros
    cdef void *dbias            # OUT (S,)
    cdef void *dgain            # OUT (N_ih,), in the order of the columns

    cdef ptrdiff_t gradient_items(self) noexcept nogil:
        if self.weights.double:
            return gradient_count(self, self.weights, <double *> NULL)
        return gradient_count(self, self.weights, <float *> NULL)

    cdef int64_t wait_for(self, int64_t k) noexcept nogil:
        cdef ptrdiff_t each = self.blocks + self.turns + self.gradient_items()
        cdef ptrdiff_t part = k % each
        # the recurrence needs the chunk before it done (its memory is used again), the transposition the
        # recurrence, the products the transposition
        return k - part + (0 if part < self.blocks else self.blocks if part < self.blocks + self.turns
                           else self.blocks + self.turns)

    cdef void item(self, int64_t k, int worker) noexcept nogil:
        if self.weights.double:
            bptt_item(self, self.weights, self.course, k, worker, <double *> NULL)
        else:
            bptt_item(self, self.weights, self.course, k, worker, <float *> NULL)


cdef ptrdiff_t back_room(BpttJob job, Panels w, ptrdiff_t rows) noexcept nogil:
    """Numbers of working memory that `back_step` wants."""
    return rows * (w.R + w.R + w.H + w.H)


cdef void back_step(
    BpttJob job, Panels w, Course course, ptrdiff_t s, ptrdiff_t first, ptrdiff_t rows,
    ptrdiff_t at_chunk,  # row of the chunk where the first of these rows is
    bint with_dy, bint resets,
    real *carry,         # INOUT (rows, R): dL/dh_t but for dy_t in, dL/dh_{t-1} but for dy_{t-1} out
    real *carry_c,       # INOUT (rows, H): dL/dc_t in, dL/dc_{t-1} out
    real *room,          # WORK, see `back_room`
) noexcept nogil:
    """Step s of rows number first..first+rows-1 backwards; da and what the weight gradients need to the chunk.

    resets: where a row starts this step anew, what would go to the step before goes to the initial state.
    """
    cdef ptrdiff_t B = course.B, I = w.I, H = w.H, R = w.R, S = w.S, N = w.N_hh, r, b, at, k, ld
    cdef ptrdiff_t back = B if course.reverse else -B
    cdef bint plain = course.plain, gru = w.cell >= GRU, adds = gru or course.kept_h != NULL, starts
    cdef bint joined = w.projected or course.kept_h != NULL
    cdef int chains = chains_for(<real *> NULL, N, R)
    cdef real *da = <real *> job.da + at_chunk * S
    cdef real *dh = carry
    cdef real *ds = room
    cdef real *skip = ds + rows * R
    cdef real *dm = skip + rows * H
    cdef real *own = dm + rows * H
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
    if plain and w.cell <= IDENTITY:
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
            if plain:
                b, starts = first + r, s == 0
                at = s * B + b
            else:
                b, at, starts = course.row(first + r), course.at(s, first + r), course.starts(s, first + r)
            h_1 = <const real *> job.h_0 + b * R if starts else y + (at + back) * R
            if not plain:
                if mask != NULL:
                    times(h_1, mask + b * R, masked + r * R, R)
                else:
                    memcpy(masked + r * R, h_1, R * sizeof(real))
                if job.xs == NULL:
                    pass
                elif w.tokens:
                    (<int64_t *> job.xs)[at_chunk + r] = (<const int64_t *> job.x)[at]
                else:
                    memcpy(<real *> job.xs + (at_chunk + r) * I, <const real *> job.x + at * I, I * sizeof(real))
            if w.cell == LSTM:
                c_1 = <const real *> job.c_0 + b * H if starts else <const real *> job.c + (at + back) * H
                if course.kept_c != NULL:
                    part(course.kept_c + at * H, carry_c + r * H, skip + r * H, H)
                lstm_backward(a + at * S, ph, c_1, dh + r * H, dy + at * R if dy != NULL else NULL, carry_c + r * H,
                              da + r * S, m + r * H if w.projected else NULL, H)
                if course.kept_c != NULL:
                    for k in range(H):
                        carry_c[r * H + k] = carry_c[r * H + k] + skip[r * H + k]
            elif gru:
                gru_backward(w.cell == GRU, a + at * S, h_1, dh + r * H, dy + at * R if dy != NULL else NULL,
                             carry + r * R, course.kept_h != NULL, da + r * S, H)
            elif not plain:
                cell_backward(w.cell, da + r * S, dh + r * H, dy + at * R if dy != NULL else NULL, y + at * R, H)
            if w.normal:
                normalise_backward(da + r * S, <const real *> w.gain_ih, <const real *> job.normed_ih + at * w.N_ih,
                                   (<const real *> job.rate_ih)[at], <real *> job.d_ih + (at_chunk + r) * w.N_ih,
                                   w.N_ih)
                normalise_backward(da + r * S + w.from_hh, <const real *> w.gain_hh,
                                   <const real *> job.normed_hh + at * N, (<const real *> job.rate_hh)[at],
                                   <real *> job.d_hh + (at_chunk + r) * N, N)
    if w.cell == GRU_BEFORE:
        # ds_t = da_n W_hn
        product(chains_for(<real *> NULL, H, H), da, S, 1, rows, 1, 0, <const real *> w.back_hn, H, H, ds, H, 0,
                TILE_SET, <const real *> NULL, s & 1)
        for r in range(rows):
            if plain:
                b, at, starts = first + r, s * B + first + r, s == 0
                h_1 = <const real *> job.h_0 + b * R if starts else y + (at + back) * R
            else:
                at, h_1 = course.at(s, first + r), masked + r * R
            memcpy(m + r * H, a + at * S + 3 * H, H * sizeof(real))
            reset_backward(a + at * S, h_1, ds + r * H, da + r * S, H)
    # dh_{t-1} = da_t W_hh
    rec, ld = da + w.from_hh, S
    if w.normal:
        rec, ld = <const real *> job.d_hh + at_chunk * N, N
    if mask == NULL and w.cell != GRU_BEFORE:
        product(chains, rec, ld, 1, rows, 1, 0, <const real *> w.back_hh, N, R, carry, R, 0,
                TILE_ADD if adds else TILE_SET, <const real *> NULL, s & 1)
    else:
        product(chains, rec, ld, 1, rows, 1, 0, <const real *> w.back_hh, N, R, ds, R, 0,
                TILE_ADD if w.cell == GRU_BEFORE else TILE_SET, <const real *> NULL, s & 1)
        for r in range(rows):
            if mask != NULL:
                times(ds + r * R, mask + course.row(first + r) * R, ds + r * R, R)
            for k in range(R):
                carry[r * R + k] = (carry[r * R + k] if adds else 0) + ds[r * R + k]
    if course.reset != NULL and s > 0:
        for r in range(rows):
            if course.starts(s, first + r):
                to_initial(job, first + r, resets, carry + r * R, row_of(carry_c, r, H, <real *> NULL))


cdef void to_initial(BpttJob job, ptrdiff_t r, bint add, real *carry, real *carry_c) noexcept nogil:
    """What is carried by the row with number r ends in its initial state."""
    cdef ptrdiff_t H = job.weights.H, R = job.weights.R, b = job.course.row(r), k
    cdef real *dh_0 = row_of(job.dh_0, b, R, <real *> NULL)
    cdef real *dc_0 = row_of(job.dc_0, b, H, <real *> NULL)
    for k in range(R):
        if add:
            dh_0[k] = dh_0[k] + carry[k]
        carry[k] = 0
    if carry_c != NULL:
        for k in range(H):
            if add:
                dc_0[k] = dc_0[k] + carry_c[k]
            carry_c[k] = 0


cdef real *back_scratch(BpttJob job, int worker, real *kind) noexcept nogil:
    """Where `back_step` finds room: behind the worker's panel."""
    return <real *> (job.scratch.aligned + worker * job.scratch_each) + BLOCK_K * TILE_WIDTH * lanes_of(kind)


cdef void bptt_rows(
    BpttJob job, Panels w, Course course, int worker, ptrdiff_t start, ptrdiff_t end, ptrdiff_t first, ptrdiff_t last, real *kind
) noexcept nogil:
    """da of steps end-1..start of rows number first..last-1."""
    cdef ptrdiff_t H = w.H, R = w.R, base = course.before(start), s, n, r
    cdef real *carry = <real *> job.carry_h + first * R
    cdef real *carry_c = row_of(job.carry_c, first, H, kind)
    cdef real *room = back_scratch(job, worker, kind)
    for s in range(end - 1, start - 1, -1):
        n = min(last, course.alive(s)) - first
        if n <= 0:
            continue
        if job.interrupted(worker, 2.0 * n * w.N_hh * R):
            return
        if job.deep:
            memcpy(carry, <const real *> job.deep_h + (course.before(s) + first) * R, n * R * sizeof(real))
            if carry_c != NULL:
                memcpy(carry_c, <const real *> job.deep_c + (course.before(s) + first) * H, n * H * sizeof(real))
        back_step(job, job.weights, job.course, s, first, n, course.before(s) - base + first, not job.deep, not job.deep, carry, carry_c, room)
    if start == 0 and not job.deep:
        for r in range(first, last):
            to_initial(job, r, True, <real *> job.carry_h + r * R, row_of(job.carry_c, r, H, kind))
