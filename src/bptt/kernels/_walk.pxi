# The norms of the terms (i, k) of a gradient: the losses of many steps taken back by themselves, in one layer and
# direction.


cdef enum:
    ROWS_AT_A_TIME = 6   # factors that a vector of d is multiplied by while it is in a register
    LOOKED_AT_EVERY = 4  # steps after which gradients that have gone far from 1 are brought back ...
    NEAR = 24            # ... which is beyond 2^-NEAR or 2^NEAR


cdef double[2] NEAR_SQUARED = [2.0 ** -48, 2.0 ** 48]


cdef class WalkJob(BpttJob):
    """Items are groups of sources, each of which has the loss of one step; the gradient of each by itself goes back.

    A source's gradients are kept times a power of two, so that none underflows on its way.
    """

    cdef ptrdiff_t sources
    cdef ptrdiff_t each         # sources of an item at most, N
    cdef ptrdiff_t M
    cdef Memory room_memory
    cdef ptrdiff_t room_each
    cdef const int64_t *steps   # IN (sources,): ascending, where each has its loss
    cdef const int64_t *spans   # IN (M, 2): first and last + 1 of the columns of da that a factor is for
    cdef void *losses           # IN (sources, B, R)
    cdef void *factors          # IN (T, M, B), at the index into time
    cdef double *totals         # OUT (sources, T, M), zeros at first
    cdef int64_t *exponents     # OUT (sources, T)
    cdef const int64_t *lengths  # IN (B,) or NULL: T

    cdef bint ready(self, int64_t k) noexcept nogil:
        return True

    cdef void count(self, int64_t k) noexcept nogil:
        share_add(&self.finished)

    cdef void item(self, int64_t k, int worker) noexcept nogil:
        # late steps, which have the longest way, first
        k = ceil_div(self.sources, self.each) - 1 - k
        if self.weights.double:
            walk_group(self, self.weights, self.course, k, worker, <double *> NULL)
        else:
            walk_group(self, self.weights, self.course, k, worker, <float *> NULL)


cdef void walk_group(WalkJob job, Panels w, Course course, int64_t group, int worker, real *kind) noexcept nogil:
    cdef ptrdiff_t B = course.B, R = w.R, H = w.H, N = job.each, base = group * N
    cdef ptrdiff_t count = min(N, job.sources - base), low = count, s = job.steps[base + count - 1], n, t, r
    cdef ptrdiff_t at_chunk = worker * N * B
    cdef real *carry = <real *> job.carry_h + at_chunk * R
    cdef real *carry_c = row_of(job.carry_c, at_chunk, H, kind)
    cdef real *room = <real *> job.room_memory.aligned + worker * job.room_each
    cdef const real *loss = <const real *> job.losses
    cdef const real *factors
    cdef const real *da
    cdef int64_t *exponents
    for s in range(s, -1, -1):
        t = course.T - 1 - s if course.reverse else s
        while low > 0 and job.steps[base + low - 1] == s:
            low -= 1
            memcpy(carry + low * B * R, loss + (base + low) * B * R, B * R * sizeof(real))
            if carry_c != NULL:
                memset(carry_c + low * B * H, 0, B * H * sizeof(real))
            job.exponents[(base + low) * course.T + t] = 0
        if job.interrupted(worker, 2.0 * (count - low) * B * w.N_hh * R):
            return
        back_step(job, w, course, s, low * B, (count - low) * B, at_chunk, False, False, carry + low * B * R,
                  row_of(carry_c, low * B, H, kind), room, NULL)
        factors = <const real *> job.factors + t * job.M * B
        for n in range(low, count):
            # da of the first source that is on its way stands first
            da = <const real *> job.da + (at_chunk + (n - low) * B) * w.S
            if job.lengths != NULL:
                # past a row's end what was saved is anything
                for r in range(B):
                    if job.lengths[r] <= t:
                        memset(<real *> job.da + (at_chunk + (n - low) * B + r) * w.S, 0, w.S * sizeof(real))
                        memset(carry + (n * B + r) * R, 0, R * sizeof(real))
                        if carry_c != NULL:
                            memset(carry_c + (n * B + r) * H, 0, H * sizeof(real))
            term_squares(job, da, B, w.S, factors, job.totals + ((base + n) * course.T + t) * job.M)
            exponents = job.exponents + (base + n) * course.T + t
            if s > 0:
                r = -1 if not course.reverse else 1
                exponents[r] = exponents[0]
                if s % LOOKED_AT_EVERY == 0:
                    exponents[r] += brought_near(carry + n * B * R, B * R, row_of(carry_c, n * B, H, kind), B * H)


cdef void term_squares(
    WalkJob job, const real *da, ptrdiff_t B, ptrdiff_t S, const real *factors, double *totals
) noexcept nogil:
    """Sums over the columns of (f d)^2 for every row f of the factors (M, B)."""
    cdef ptrdiff_t m = 0, rows, j, k, b
    cdef const int64_t *span
    cdef double most = 1e37 if sizeof(real) == 4 else 1e300, least = 1e-28 if sizeof(real) == 4 else 1e-270, one, sum_
    while m < job.M:
        span = job.spans + 2 * m
        rows = 1
        while (rows < ROWS_AT_A_TIME and m + rows < job.M
               and span[2 * rows] == span[0] and span[2 * rows + 1] == span[1]):
            rows += 1
        if real is float:
            six_squares(<const lanes_f32 *> NULL, da + span[0], B, S, (span[1] - span[0]) // LANES_F32,
                        (span[1] - span[0]) % LANES_F32, factors + m * B, rows, totals + m)
        else:
            six_squares(<const lanes_f64 *> NULL, da + span[0], B, S, (span[1] - span[0]) // LANES_F64,
                        (span[1] - span[0]) % LANES_F64, factors + m * B, rows, totals + m)
        for k in range(m, m + rows):
            if not (least < totals[k] < most):
                # squares that under- or overflow, or none
                sum_ = 0
                for j in range(span[0], span[1]):
                    one = 0
                    for b in range(B):
                        one += <double> factors[k * B + b] * da[b * S + j]
                    sum_ += one * one
                totals[k] = sum_
        m += rows


cdef inline void six_squares(
    const lanes *kind, const real *d, ptrdiff_t B, ptrdiff_t S, ptrdiff_t whole, ptrdiff_t tail, const real *f,
    ptrdiff_t rows, double *totals,
) noexcept nogil:
    """Of up to six rows f (rows, B); d is (B, S), and from each of its rows so many vectors are taken."""
    cdef lanes a0, a1, a2, a3, a4, a5, x
    cdef lanes zero = splat(<lanes *> NULL, 0.0)
    cdef lanes s0 = zero, s1 = zero, s2 = zero, s3 = zero, s4 = zero, s5 = zero
    cdef const real *f1 = f + B * min(1, rows - 1)
    cdef const real *f2 = f + B * min(2, rows - 1)
    cdef const real *f3 = f + B * min(3, rows - 1)
    cdef const real *f4 = f + B * min(4, rows - 1)
    cdef const real *f5 = f + B * min(5, rows - 1)
    cdef ptrdiff_t k, b
    cdef double found[ROWS_AT_A_TIME]
    for k in range(whole + (1 if tail else 0)):
        a0 = a1 = a2 = a3 = a4 = a5 = zero
        for b in range(B):
            if k < whole:
                x = (<const lanes *> (d + b * S))[k]
            else:
                x = get(<const lanes *> (d + b * S) + k, tail)
            a0 = x * splat(<lanes *> NULL, f[b]) + a0
            a1 = x * splat(<lanes *> NULL, f1[b]) + a1
            a2 = x * splat(<lanes *> NULL, f2[b]) + a2
            a3 = x * splat(<lanes *> NULL, f3[b]) + a3
            a4 = x * splat(<lanes *> NULL, f4[b]) + a4
            a5 = x * splat(<lanes *> NULL, f5[b]) + a5
        s0 = a0 * a0 + s0
        s1 = a1 * a1 + s1
        s2 = a2 * a2 + s2
        s3 = a3 * a3 + s3
        s4 = a4 * a4 + s4
        s5 = a5 * a5 + s5
    found[0], found[1], found[2] = across(s0), across(s1), across(s2)
    found[3], found[4], found[5] = across(s3), across(s4), across(s5)
    for k in range(rows):
        totals[k] = found[k]


cdef int brought_near(real *h, ptrdiff_t n, real *c, ptrdiff_t nc) noexcept nogil:
    """Scale h (n,) and c (nc,) or NULL so that the largest is near 1, if it is far from it; the power of two."""
    cdef double largest = 0, size
    cdef ptrdiff_t k
    cdef int power
    cdef real factor
    # one pass of vectors tells that all is well
    size = square_sum(h, <const real *> NULL, n) + (0 if c == NULL else square_sum(c, <const real *> NULL, nc))
    if NEAR_SQUARED[0] < size < NEAR_SQUARED[1]:
        return 0
    for k in range(n):
        size = fabs(h[k])
        if not size <= largest:  # NaN too
            largest = size
    if c != NULL:
        for k in range(nc):
            size = fabs(c[k])
            if not size <= largest:
                largest = size
    if not (0 < largest < INFINITY):
        return 0
    frexp(largest, &power)
    if -NEAR < power < NEAR:
        return 0
    factor = <real> ldexp(1, -power)
    for k in range(n):
        h[k] = h[k] * factor
    if c != NULL:
        for k in range(nc):
            c[k] = c[k] * factor
    return power


def walk(Saved saved not None, losses, steps, ptrdiff_t each, factors, spans, totals, exponents, *, int threads=1):
    """Squared norms of the terms of a gradient.

    Parameters
    ----------
    saved : Saved
        Of a layer without normalisation.
    losses : ndarray (sources, B, R)
        Gradients with respect to h after ...
    steps : ndarray (sources,) of int64
        ... these steps, ascending: indices into time, in reverse T - 1 less those; zero past the ends of rows.
    each : int
        How many sources to take back side by side.
    factors : ndarray (T, M, B)
        At the index into time; zero past the ends of rows.
    spans : ndarray (M, 3) of int64
        For every factor 0 or 1, whether it is for da_ih or for da_hh, and first and last + 1 of the columns: all of
        them, for a GRU also those of r and z, or those of n.
    totals : ndarray (sources, T, M) of float64, zeros
        OUT: the sums over columns of (f d)^2, d being those columns of da (B, G * H) and f the factor, ...
    exponents : ndarray (sources, T) of int64
        OUT: ... of gradients that are too small by two to this power.
    threads : int
    """
    if saved.panels.double:
        walk_back(saved, losses, steps, each, factors, spans, totals, exponents, threads, <double *> NULL)
    else:
        walk_back(saved, losses, steps, each, factors, spans, totals, exponents, threads, <float *> NULL)


cdef walk_back(
    Saved saved, losses, steps, ptrdiff_t each, factors, spans, totals, exponents, int threads, real *kind
):
    cdef Panels w = saved.panels
    cdef WalkJob job = WalkJob.__new__(WalkJob)
    cdef Buffers buffers = Buffers.__new__(Buffers)
    cdef ptrdiff_t B = losses.shape[1], H = w.H, sources = losses.shape[0], groups = ceil_div(sources, each)
    cdef int workers = <int> max(1, min(threads, groups))
    cdef Course course
    cdef Memory carry, carry_c
    if sources == 0 or B == 0:
        return
    course = course_back(saved, arange(B, dtype="i8"), each, True)
    prepare_steps(job, saved, course, workers * each * B, buffers, kind)
    job.sources, job.each, job.M, job.lengths = sources, each, factors.shape[1], saved.course.length
    job.room_each = ceil_div(back_room(w, each * B) * sizeof(real), LINE) * LINE // sizeof(real)
    job.room_memory = take_memory(workers * job.room_each * sizeof(real))
    carry = take_memory(workers * each * B * w.R * sizeof(real))
    job.carry_h = carry.aligned
    if w.cell == LSTM:
        carry_c = take_memory(workers * each * B * H * sizeof(real))
        job.carry_c = carry_c.aligned
    native_spans = columns_of_rows(w, spans)
    job.steps, job.spans = <const int64_t *> buffers.read(steps), <const int64_t *> buffers.read(native_spans)
    job.losses, job.factors = buffers.read(losses), buffers.read(factors)
    job.totals, job.exponents = <double *> buffers.write(totals), <int64_t *> buffers.write(exponents)
    job.run(groups, workers - 1)


cdef object columns_of_rows(Panels w, spans):
    """Where columns of da_ih or da_hh are in the rows of da, n r z q for a GRU."""
    cdef ptrdiff_t H = w.H
    native = []
    for side, first, last in spans.tolist():
        if side and w.cell == GRU:
            first, last = first + H, last + H
        elif w.cell >= GRU and last - first < 3 * H:
            first, last = 0 if first else H, H if first else 3 * H
        native.append((first, last))
    return asarray(native, "i8")
