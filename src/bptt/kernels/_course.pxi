# How the rows of a batch go through time: lengths, resets, direction, noise.

from numpy import argsort, clip, cumsum, negative


@cython.final
cdef class Course:
    """Which steps a pass makes, and what disturbs them.

    Rows are numbered by descending length, so that those that have a step s are rows 0..alive(s)-1; the steps of a
    row are numbered in the order in which it makes them.
    """

    cdef ptrdiff_t T
    cdef ptrdiff_t B
    cdef bint plain           # every row makes all steps, forwards and undisturbed: row r of step t is at (t, r)
    cdef bint reverse
    cdef Buffers buffers
    cdef const int64_t *length  # (B,) or NULL: T
    cdef const int64_t *order   # (B,) row by number, or NULL: the same
    cdef const int64_t *offset  # (T + 1,) steps of all rows before step s, or NULL: s B
    cdef const char *reset      # IN (T, B) or NULL
    cdef const char *kept_h     # IN (T, B, R) or NULL
    cdef const char *kept_c     # IN (T, B, H) or NULL
    cdef void *dropout          # IN (B, R) or NULL
    cdef double zoneout_h       # where there is no kept_h: the mean over the masks
    cdef double zoneout_c

    cdef ptrdiff_t alive(self, ptrdiff_t s) noexcept nogil:
        """Rows that have step s."""
        return self.B if self.offset == NULL else self.offset[s + 1] - self.offset[s]

    cdef ptrdiff_t before(self, ptrdiff_t s) noexcept nogil:
        """Steps of all rows before step s."""
        return s * self.B if self.offset == NULL else self.offset[s]

    cdef ptrdiff_t row(self, ptrdiff_t r) noexcept nogil:
        """Row with number r."""
        return r if self.order == NULL else self.order[r]

    cdef ptrdiff_t steps(self, ptrdiff_t b) noexcept nogil:
        """Number of steps of row b."""
        return self.T if self.length == NULL else self.length[b]

    cdef ptrdiff_t at(self, ptrdiff_t s, ptrdiff_t r) noexcept nogil:
        """Where step s of the row with number r is, counted in rows of an array (T, B, ...)."""
        cdef ptrdiff_t b = self.row(r)
        return (self.steps(b) - 1 - s if self.reverse else s) * self.B + b

    cdef bint resets(self, ptrdiff_t s, ptrdiff_t r) noexcept nogil:
        """Whether the row with number r goes back to its initial state before step s."""
        return self.reset != NULL and self.reset[self.at(s, r)]

    cdef void clear(self, ptrdiff_t first, ptrdiff_t last, void *array, ptrdiff_t size) noexcept nogil:
        """Zeros past the ends of rows first..last-1 of array (T, B, size bytes)."""
        cdef ptrdiff_t r, b, t
        if array == NULL or self.length == NULL:
            return
        for r in range(first, last):
            b = self.row(r)
            for t in range(self.length[b], self.T):
                memset(<char *> array + (t * self.B + b) * size, 0, size)


cdef Course course_of(ptrdiff_t T, ptrdiff_t B, lengths, reset, bint reverse, noise):
    cdef Course course = Course.__new__(Course)
    cdef Buffers buffers
    course.T, course.B, course.reverse = T, B, reverse
    course.plain = lengths is None and reset is None and not reverse and noise is None
    if course.plain:
        return course
    course.buffers = buffers = Buffers.__new__(Buffers)
    if lengths is not None:
        # those of a piece of a longer sequence may be outside [0, T]: the order is that of the whole
        order = argsort(negative(lengths), kind="stable").astype("i8")
        lengths = clip(lengths, 0, T)
        course.length = <const int64_t *> buffers.read(lengths)
        course.order = <const int64_t *> buffers.read(order)
        # steps before step s: the sum over rows of min(length, s)
        alive = empty(T + 1, "i8")
        count_alive(course.length, B, <int64_t *> buffers.write(alive), T)
        offset = cumsum(alive)
        course.offset = <const int64_t *> buffers.read(offset)
    course.reset = <const char *> buffers.read(reset)
    if noise is not None:
        course.dropout = buffers.read(noise.dropout)
        course.kept_h = <const char *> buffers.read(noise.kept_h)
        course.kept_c = <const char *> buffers.read(noise.kept_c)
        course.zoneout_h, course.zoneout_c = noise.zoneout_h, noise.zoneout_c
    return course


cdef void count_alive(const int64_t *length, ptrdiff_t B, int64_t *alive, ptrdiff_t T) noexcept nogil:
    """OUT alive[s + 1] (T + 1,): rows longer than s."""
    cdef ptrdiff_t b, s
    memset(alive, 0, (T + 1) * sizeof(int64_t))
    for b in range(B):
        alive[length[b]] += 1
    for s in range(T - 1, 0, -1):
        alive[s] += alive[s + 1]
    alive[0] = 0


cdef void blend(
    const char *kept, double rate, const real *before, real *state, ptrdiff_t n
) noexcept nogil:
    """Zoneout: INOUT state (n,): what a step would make of before; where kept, before; without a mask, the mean."""
    cdef ptrdiff_t k
    cdef real share = <real> rate
    if kept != NULL:
        for k in range(n):
            state[k] = before[k] if kept[k] else state[k]
    else:
        for k in range(n):
            state[k] = share * (before[k] - state[k]) + state[k]


cdef void part(const char *kept, real *d, real *through, ptrdiff_t n) noexcept nogil:
    """Zoneout backwards: INOUT d (n,): 0 where kept; OUT through (n,): d there, else 0."""
    cdef ptrdiff_t k
    for k in range(n):
        through[k] = d[k] if kept[k] else 0
        d[k] = 0 if kept[k] else d[k]


cdef void times(const real *a, const real *b, real *out, ptrdiff_t n) noexcept nogil:
    cdef ptrdiff_t k
    for k in range(n):
        out[k] = a[k] * b[k]
