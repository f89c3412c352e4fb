# The forward loop over time.

cdef enum:
    # Rows of pre-activations computed ahead of the recurrence: enough for the tile, few enough to be in cache
    # when the recurrent steps come to them.
    ROWS_AHEAD = 128
    ROWS_AHEAD_LARGE = 384  # for a weight_ih too large for the caches
    # Batch rows that go through all their steps together: more where the weights are too large for the caches
    # and every step reads them anew.
    ROWS_TOGETHER = 64
    ROWS_TOGETHER_LARGE = 96
    # Operations under which waking another thread costs more than it brings.
    WORK_TO_SHARE = 20_000_000
    # Bytes kept for the backward pass of which little will be in cache when it comes to them.
    PAST_FROM = 1 << 22
    # Operations under which a call keeps the GIL: 10 us, and letting it go and sharing out the work cost 0.2 us.
    WORK_TO_RELEASE = 1_000_000


cdef inline ptrdiff_t rows_ahead(Panels w) noexcept nogil:
    return ROWS_AHEAD if w.I * w.N_ih < FETCH_FROM else ROWS_AHEAD_LARGE


cdef inline ptrdiff_t row_blocks(Panels w, ptrdiff_t B, int threads) noexcept nogil:
    return max(ceil_div(B, ROWS_TOGETHER if w.R * w.N_hh < FETCH_FROM else ROWS_TOGETHER_LARGE), min(B, threads))


cdef inline ptrdiff_t block_start(ptrdiff_t B, ptrdiff_t blocks, ptrdiff_t k) noexcept nogil:
    check(0 <= k <= blocks, b"block")
    return k * (B // blocks) + min(k, B % blocks)


cdef inline real *row_of(void *array, ptrdiff_t row, ptrdiff_t width, real *kind) noexcept nogil:
    """Row of an array of rows of that width; NULL stays NULL."""
    return <real *> array + row * width if array != NULL else NULL


cdef class UnrollJob(Job):
    cdef Panels weights
    cdef Course course
    cdef bint odd
    cdef bint past           # gates and what is normalised go past the caches
    cdef Memory scratch      # working memory for each worker
    cdef size_t scratch_each
    cdef void *x       # IN (T, B, I) or tokens (T, B)
    cdef void *h_0     # IN (B, R): where a reset goes back to
    cdef void *c_0     # IN (B, H)
    cdef void *h_begin  # IN (B, R): before the first step; h_0, but for a piece of a longer sequence
    cdef void *c_begin  # IN (B, H)
    cdef void *y       # OUT (T, B, R)
    cdef void *h_n     # OUT (B, R)
    cdef void *c_n     # OUT (B, H)
    cdef void *c       # OUT (T, B, H) or NULL
    cdef void *gates   # OUT (T, B, S) or NULL
    cdef void *normed_ih  # OUT (T, B, N_ih) or NULL
    cdef void *normed_hh  # OUT (T, B, N_hh) or NULL
    cdef void *rate_ih    # OUT (T, B) or NULL
    cdef void *rate_hh    # OUT (T, B) or NULL

    cdef ptrdiff_t steps_ahead(self, ptrdiff_t rows) noexcept nogil:
        """Steps whose pre-activations are computed at once."""
        return min(self.course.T, max(<ptrdiff_t> 1, rows_ahead(self.weights) // rows))

    cdef int make_room(self, int workers) except -1:
        """Once the number of items is known."""
        cdef Panels w = self.weights
        cdef ptrdiff_t rows = ceil_div(self.course.B, self.items)
        cdef ptrdiff_t steps = self.steps_ahead(self.course.B // self.items), size
        cdef bint apart = not self.course.plain
        size = step_room(w, rows, rows * steps, self.course.dropout != NULL)
        if apart or (w.cell > IDENTITY and (self.gates == NULL or self.past)):
            size += steps * rows * w.S
        if apart:
            size += rows * ((0 if w.tokens else steps * w.I) + 3 * w.R + 2 * w.H + w.N_hh + steps * w.N_ih + steps + 1)
        elif w.cell == LSTM and self.c == NULL:
            size += rows * w.H
        if w.given_ih != NULL:
            size += w.I * (panel_width(<double *> NULL, w.N_ih) if w.double else panel_width(<float *> NULL, w.N_ih))
        if size == 0:
            return 0
        self.scratch_each = ceil_div(size * (8 if w.double else 4), LINE) * LINE
        self.scratch = take_memory(self.scratch_each * workers)
        return 0

    cdef void *room(self, int worker) noexcept nogil:
        return self.scratch.aligned + worker * self.scratch_each if self.scratch_each else NULL

    cdef bint fits(self, int worker, const void *end) noexcept nogil:
        """Whether the worker's room reaches that far."""
        if self.scratch_each == 0:
            return end == NULL
        return <const char *> end <= self.scratch.aligned + (worker + 1) * self.scratch_each

    cdef void item(self, int64_t k, int worker) noexcept nogil:
        cdef ptrdiff_t B = self.course.B
        cdef ptrdiff_t first = block_start(B, self.items, k), last = block_start(B, self.items, k + 1)
        if self.weights.double:
            unroll_item(self, worker, first, last, <double *> NULL)
        else:
            unroll_item(self, worker, first, last, <float *> NULL)


cdef void unroll_item(UnrollJob job, int worker, ptrdiff_t first, ptrdiff_t last, real *kind) noexcept nogil:
    if job.course.plain and job.course.T == 1 and job.gates == NULL and job.normed_ih == NULL:
        unroll_one(job, job.weights, worker, first, last, kind)
    elif job.course.plain:
        unroll_rows(job, job.weights, worker, first, last, kind)
    else:
        unroll_apart(job, job.weights, job.course, worker, first, last, kind)
    if job.past:
        past_done()


cdef void unroll_one(UnrollJob job, Panels w, int worker, ptrdiff_t first, ptrdiff_t last, real *kind) noexcept nogil:
    """`unroll_rows` for a single step of which nothing is kept."""
    cdef ptrdiff_t H = w.H, R = w.R, rows = last - first
    cdef const int64_t *tokens = <const int64_t *> job.x + first if w.tokens else NULL
    cdef const real *x = row_of(job.x, 0 if w.tokens else first, w.I, kind)
    cdef real *room = <real *> job.room(worker)
    cdef real *h = <real *> job.y + first * R
    cdef real *a = h if w.cell <= IDENTITY else room
    check(job.fits(worker, room + (0 if w.cell <= IDENTITY else rows * w.S) + step_room(w, rows, rows, False)), b"room")
    whole_step(w, rows, job.odd, x, tokens, a, <const real *> job.h_begin + first * R,
               row_of(job.c_begin, first, H, kind), h, row_of(job.c_n, first, H, kind),
               room if w.cell <= IDENTITY else room + rows * w.S)
    memcpy(<real *> job.h_n + first * R, h, rows * R * sizeof(real))


cdef void unroll_rows(UnrollJob job, Panels w, int worker, ptrdiff_t first, ptrdiff_t last, real *kind) noexcept nogil:
    """Rows first..last-1 of the batch through all time steps; everything is written where it belongs."""
    cdef ptrdiff_t T = job.course.T, B = job.course.B, I = w.I, H = w.H, R = w.R, S = w.S, N = w.N_ih
    cdef ptrdiff_t Np = padded(kind, N), rows = last - first, ahead = job.steps_ahead(rows), count = rows, sets
    cdef const real *ih = <const real *> w.ih
    cdef const real *bias = <const real *> w.bias
    cdef const real *x = <const real *> job.x
    cdef const int64_t *tokens = <const int64_t *> job.x if w.tokens else NULL
    cdef const real *h = <const real *> job.h_begin + first * R
    cdef const real *c = row_of(job.c_begin, first, H, kind)
    cdef real *room = <real *> job.room(worker)
    cdef real *panel = room
    cdef real *c_t = NULL
    # (T, B, S): where row (t, b) of a is; of the steps computed ahead alone: at (t - start, b - first)
    cdef real *a = <real *> (job.y if w.cell <= IDENTITY else job.gates)
    cdef bint alone = a == NULL or (job.past and w.cell > IDENTITY), simple = bare(w)
    cdef double work = w.work() * rows
    cdef ptrdiff_t each = rows if alone else B
    cdef real *base
    cdef real *a_t
    cdef real *h_t
    cdef ptrdiff_t t, b, start, end
    if w.normal:
        bias = NULL  # it comes after the normalisation
    if w.given_ih != NULL:
        room = room + I * panel_width(kind, N)
    if alone:
        a = room
        room = room + ahead * rows * S
    if w.cell == LSTM and job.c == NULL:
        c_t = room
        room = room + rows * H
    check(job.fits(worker, room + step_room(w, rows, rows * ahead, False)), b"room")
    start = 0
    while start < T:
        end = min(T, start + ahead)
        base = a if alone else a + (start * B + first) * S
        # p = W_ih x_t + b_ih + b_hh
        if tokens != NULL:
            for t in range(start, end):
                for b in range(rows):
                    check(0 <= tokens[t * B + first + b] < I, b"token")
                    memcpy(base + ((t - start) * each + b) * S, ih + tokens[t * B + first + b] * Np, N * sizeof(real))
        else:
            sets = end - start
            if rows == B:
                count, sets = rows * sets, 1
            if w.fixed_ih:
                if real is float:
                    fixed_product(x + (start * B + first) * I, I, count, sets, B * I, ih, I, N, False, base, S,
                                  each * S, TILE_SET, bias, False, room)
            elif w.given_ih != NULL:
                packing_product(x + (start * B + first) * I, I, count, sets, B * I, <const real *> w.given_ih, w.late,
                                I, N, base, S, each * S, bias, panel)
            else:
                product(1, x + (start * B + first) * I, I, 1, count, sets, B * I, ih, I, N, base, S, each * S,
                        TILE_SET, bias, False)
        if more_input(w):
            for t in range(start, end):
                input_rows(w, rows, base + (t - start) * each * S,
                           row_of(job.normed_ih, t * B + first, N, kind), row_of(job.rate_ih, t * B + first, 1, kind),
                           job.past)
        for t in range(start, end):
            if job.interrupted(worker, work):
                return
            h_t = <real *> job.y + (t * B + first) * R
            a_t = base + (t - start) * each * S
            if simple:
                bare_step(w, rows, (t + job.odd) & 1, a_t, h, h_t, room)
                h = h_t
                continue
            if job.c != NULL:
                c_t = <real *> job.c + (t * B + first) * H
            step(w, rows, (t + job.odd) & 1, a_t, h, c, h_t, c_t, <const real *> NULL,
                 row_of(job.normed_hh, t * B + first, w.N_hh, kind), row_of(job.rate_hh, t * B + first, 1, kind),
                 job.past, room)
            if job.past and w.cell > IDENTITY:
                put_by(True, row_of(job.gates, t * B + first, S, kind), a_t, rows * S)
            h, c = h_t, c_t
        start = end
    memcpy(<real *> job.h_n + first * R, h, rows * R * sizeof(real))
    if w.cell == LSTM:
        memcpy(<real *> job.c_n + first * H, c, rows * H * sizeof(real))


cdef void unroll_apart(
    UnrollJob job, Panels w, Course course, int worker, ptrdiff_t first, ptrdiff_t last, real *kind
) noexcept nogil:
    """Rows number first..last-1 through their time steps, in working memory of their own.

    The rows that still have a step lie side by side there; what comes out of it is copied to where it belongs.
    """
    cdef ptrdiff_t T = course.T, I = w.I, H = w.H, R = w.R, S = w.S, N = w.N_ih, Np = padded(kind, N)
    cdef ptrdiff_t rows = last - first, ahead = job.steps_ahead(rows), s, r, b, at, n, k, start, end, next
    cdef const real *ih = <const real *> w.ih
    cdef const real *bias = <const real *> w.bias
    cdef const real *h_0 = <const real *> job.h_0
    cdef const real *c_0 = <const real *> job.c_0
    cdef bint lstm = w.cell == LSTM, zoned_h = course.kept_h != NULL or course.zoneout_h > 0
    cdef bint zoned_c = lstm and (course.kept_c != NULL or course.zoneout_c > 0)
    cdef real *a = <real *> job.room(worker)
    cdef real *x = a + ahead * rows * S
    cdef real *normed_ih = x + (0 if w.tokens else ahead * rows * I)
    cdef real *rate_ih = normed_ih + ahead * rows * N
    cdef real *normed_hh = rate_ih + ahead * rows
    cdef real *rate_hh = normed_hh + rows * w.N_hh
    cdef real *mask = rate_hh + rows
    cdef real *h = mask + rows * R
    cdef real *h_t = h + rows * R
    cdef real *c = h_t + rows * R
    cdef real *c_t = c + rows * H
    cdef real *room = c_t + rows * H
    cdef real *a_s
    check(job.fits(worker, room + step_room(w, rows, rows * ahead, course.dropout != NULL)), b"room")
    if w.normal:
        bias = NULL  # it comes after the normalisation
    for r in range(rows):
        b = course.row(first + r)
        memcpy(h + r * R, <const real *> job.h_begin + b * R, R * sizeof(real))
        memcpy(<real *> job.h_n + b * R, h + r * R, R * sizeof(real))
        if lstm:
            memcpy(c + r * H, <const real *> job.c_begin + b * H, H * sizeof(real))
            memcpy(<real *> job.c_n + b * H, c + r * H, H * sizeof(real))
        if course.dropout != NULL:
            memcpy(mask + r * R, <const real *> course.dropout + b * R, R * sizeof(real))
    start, n = 0, rows
    while start < T and n > 0:
        end = min(T, start + ahead)
        # the rows of x that these steps read, side by side;  p = W_ih x_t + b_ih + b_hh
        k = 0
        for s in range(start, end):
            n = min(last, course.alive(s)) - first
            for r in range(n):
                at = course.at(s, first + r)
                if w.tokens:
                    check(0 <= (<const int64_t *> job.x)[at] < I, b"token")
                    memcpy(a + k * S, ih + (<const int64_t *> job.x)[at] * Np, N * sizeof(real))
                else:
                    memcpy(x + k * I, <const real *> job.x + at * I, I * sizeof(real))
                k += 1
            if n <= 0:
                end = s
                break
        if not w.tokens and k:
            step_product(w.fixed_ih, False, 1, x, I, k, ih, I, N, a, S, TILE_SET, bias, False, room)
        if more_input(w):
            input_rows(w, k, a, normed_ih if w.normal else NULL, rate_ih, False)
        k = 0
        for s in range(start, end):
            n = min(last, course.alive(s)) - first
            if job.interrupted(worker, w.work() * n):
                return
            if course.reset != NULL:
                for r in range(n):
                    if course.resets(s, first + r):
                        b = course.row(first + r)
                        memcpy(h + r * R, h_0 + b * R, R * sizeof(real))
                        if lstm:
                            memcpy(c + r * H, c_0 + b * H, H * sizeof(real))
            a_s = a + k * S
            step(w, n, (s + job.odd) & 1, a_s, h, c, h_t, c_t, mask if course.dropout != NULL else NULL,
                 normed_hh if w.normal else NULL, rate_hh, False, room)
            for r in range(n):
                at = course.at(s, first + r)
                if zoned_h:
                    blend(course.kept_h + at * R if course.kept_h != NULL else NULL, course.zoneout_h, h + r * R,
                          h_t + r * R, R)
                if zoned_c:
                    blend(course.kept_c + at * H if course.kept_c != NULL else NULL, course.zoneout_c, c + r * H,
                          c_t + r * H, H)
                memcpy(<real *> job.y + at * R, h_t + r * R, R * sizeof(real))
                if job.c != NULL:
                    memcpy(<real *> job.c + at * H, c_t + r * H, H * sizeof(real))
                if job.gates != NULL:
                    put_by(job.past, <real *> job.gates + at * S, a_s + r * S, S)
                if job.normed_ih != NULL:
                    put_by(job.past, <real *> job.normed_ih + at * N, normed_ih + (k + r) * N, N)
                    put_by(job.past, <real *> job.normed_hh + at * w.N_hh, normed_hh + r * w.N_hh, w.N_hh)
                    (<real *> job.rate_ih)[at] = rate_ih[k + r]
                    (<real *> job.rate_hh)[at] = rate_hh[r]
            h, h_t = h_t, h
            c, c_t = c_t, c
            k += n
            # rows whose last step this was
            next = max(min(last, course.alive(s + 1)) - first, 0) if s + 1 < T else 0
            for r in range(next, n):
                b = course.row(first + r)
                memcpy(<real *> job.h_n + b * R, h + r * R, R * sizeof(real))
                if lstm:
                    memcpy(<real *> job.c_n + b * H, c + r * H, H * sizeof(real))
        start = end
    course.clear(first, last, job.y, R * sizeof(real))
    course.clear(first, last, job.c, H * sizeof(real))
    course.clear(first, last, job.gates, S * sizeof(real))
