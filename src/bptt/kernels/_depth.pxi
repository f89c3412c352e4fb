# The truncated gradient: what of the loss of step i reaches a step k with i - k < K.


cdef class DepthJob(Job):
    """dL/dh_t truncated to depth K, for all steps: K sweeps of  s_t <- dy_t + (s_{t+1} one step back)  from s = 0.

    s_t is dL/dh_t, of an LSTM also dL/dc_t.  After sweep j it holds the terms (i, t) with i - t < j.  A sweep goes
    forward in time, so that s_{t+1} is still the one of the sweep before.
    """

    cdef BpttJob into
    cdef int64_t depth

    cdef void item(self, int64_t k, int worker) noexcept nogil:
        cdef ptrdiff_t B = self.into.course.B
        cdef ptrdiff_t first = block_start(B, self.items, k), last = block_start(B, self.items, k + 1)
        if self.into.weights.double:
            depth_rows(self, self.into, self.into.weights, self.into.course, worker, first, last, <double *> NULL)
        else:
            depth_rows(self, self.into, self.into.weights, self.into.course, worker, first, last, <float *> NULL)


cdef void depth_rows(
    DepthJob job, BpttJob into, Panels w, Course course, int worker, ptrdiff_t first, ptrdiff_t last, real *kind
) noexcept nogil:
    cdef ptrdiff_t T = course.T, H = w.H, R = w.R, s, n, on, r, k
    cdef int64_t sweep
    cdef bint lstm = w.cell == LSTM
    cdef real *room = back_scratch(into, worker, kind)
    cdef real *carry = room + back_room(w, last - first)
    cdef real *carry_c = carry + (last - first) * R if lstm else <real *> NULL
    cdef real *to
    cdef const real *dy
    check(back_fits(into, worker, carry + (last - first) * (R + H)), b"room")
    for sweep in range(job.depth):
        for s in range(T):
            n = min(last, course.alive(s)) - first
            on = max(<ptrdiff_t> 0, min(last, course.alive(s + 1)) - first) if s + 1 < T else 0
            if n <= 0:
                break
            if job.interrupted(worker, 2.0 * n * w.N_hh * R):
                return
            # rows that end here begin with the final state's gradient
            memcpy(carry + on * R, <const real *> into.carry_h + (first + on) * R, (n - on) * R * sizeof(real))
            if lstm:
                memcpy(carry_c + on * H, <const real *> into.carry_c + (first + on) * H, (n - on) * H * sizeof(real))
            if sweep == 0:
                memset(carry, 0, on * R * sizeof(real))
                if lstm:
                    memset(carry_c, 0, on * H * sizeof(real))
            elif on > 0:
                k = course.before(s + 1) + first
                memcpy(carry, <const real *> into.deep_h + k * R, on * R * sizeof(real))
                if lstm:
                    memcpy(carry_c, <const real *> into.deep_c + k * H, on * H * sizeof(real))
                # h_0 stands one step before the step it starts: its terms are those of one sweep less
                back_step(into, into.weights, into.course, s + 1, first, on, first, False, sweep == job.depth - 1,
                          carry, carry_c, room, NULL)
            k = course.before(s) + first
            for r in range(n):
                to = <real *> into.deep_h + (k + r) * R
                memcpy(to, carry + r * R, R * sizeof(real))
                if into.dy != NULL:
                    dy = <const real *> into.dy + course.at(s, first + r) * R
                    add_to(to, dy, R)
            if lstm:
                memcpy(<real *> into.deep_c + k * H, carry_c, n * H * sizeof(real))
        n = min(last, course.alive(0)) - first
        if sweep == job.depth - 2 and n > 0:
            k = course.before(0) + first
            memcpy(carry, <const real *> into.deep_h + k * R, n * R * sizeof(real))
            if lstm:
                memcpy(carry_c, <const real *> into.deep_c + k * H, n * H * sizeof(real))
            back_step(into, into.weights, into.course, 0, first, n, first, False, False, carry, carry_c, room, NULL)
            for r in range(n):
                to_begin(into, first + r, carry + r * R, carry_c + r * H if lstm else <real *> NULL)
    # rows without a step: the state's gradient passes through
    for r in range(max(first, min(last, course.alive(0))), last):
        to_begin(into, r, <real *> into.carry_h + r * R, row_of(into.carry_c, r, H, kind))


cdef void add_to(real *total, const real *v, ptrdiff_t n) noexcept nogil:
    cdef ptrdiff_t k
    for k in range(n):
        total[k] = total[k] + v[k]
