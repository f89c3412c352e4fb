# One time step after another, where the state and the packed weights stay; short calls, which packing would outweigh.

from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_FORMAT
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact


cdef object NDARRAY = ndarray
cdef object DTYPE_F32 = as_dtype("f4")
cdef object DTYPE_F64 = as_dtype("f8")


cdef class Stepper:
    """The state of B sequences, and the packed weights that carry it on by one time step.

    Parameters
    ----------
    cell : str
        One of `CELLS`.
    weights : Weights or Panels
        Weights are packed here; Panels from `pack_weights` are shared.
    state : tuple
        (h_0,), for an LSTM (h_0, c_0): h_0 (B, R), c_0 (B, H), B >= 1; copied.
    tokens : bool
        Whether steps take token ids.
    noise : Noise, optional
        Rates of zoneout, whose mean a step takes.
    """

    cdef Panels weights
    cdef Memory memory  # all of the following
    cdef void *h[2]     # (B, R): h_t, and where h_{t+1} will be
    cdef void *c[2]     # (B, H): c_t of an LSTM, and where c_{t+1} will be
    cdef int now        # which of them is the state
    cdef int64_t *ids   # (B,)
    cdef void *a        # (rows, S), and more that `whole_step` wants; of an Elman cell NULL, h_{t+1} is a
    cdef ptrdiff_t B
    cdef ptrdiff_t rows  # of a block
    cdef ptrdiff_t size  # bytes of h
    cdef ptrdiff_t size_c
    cdef double zoneout_h
    cdef double zoneout_c
    cdef bint large     # worth releasing the GIL for
    cdef share_count busy  # 1 while a thread reads or writes the state
    cdef object dtype
    cdef tuple shape
    cdef tuple row

    def __cinit__(self, str cell, weights, tuple state, *, bint tokens=False, noise=None):
        h_0 = state[0]
        cdef ptrdiff_t apart, apart_c, itemsize = h_0.itemsize, work
        cdef Panels w
        self.dtype = h_0.dtype
        self.weights = w = packed_for(cell, weights, tokens, itemsize, False, 0)
        self.B = h_0.shape[0]
        self.shape, self.row = (self.B, w.R), (w.R,)
        self.size = self.B * w.R * itemsize
        self.size_c = self.B * w.H * itemsize if w.cell == LSTM else 0
        self.rows = ceil_div(self.B, row_blocks(w, self.B, 1))
        self.large = w.work() * self.B >= WORK_TO_RELEASE
        if noise is not None:
            self.zoneout_h, self.zoneout_c = noise.zoneout_h, noise.zoneout_c
        apart = ceil_div(self.size, LINE) * LINE
        apart_c = ceil_div(self.size_c, LINE) * LINE
        work = (0 if w.cell <= IDENTITY else self.rows * w.S) + step_room(w, self.rows, self.rows, False)
        self.memory = take_memory(2 * apart + 2 * apart_c + work * itemsize + LINE + self.B * sizeof(int64_t))
        self.h[0], self.h[1] = self.memory.aligned, self.memory.aligned + apart
        self.c[0], self.c[1] = self.memory.aligned + 2 * apart, self.memory.aligned + 2 * apart + apart_c
        self.a = self.memory.aligned + 2 * apart + 2 * apart_c
        self.ids = <int64_t *> (<char *> self.a + ceil_div(work * itemsize, LINE) * LINE)
        self.state = state

    @property
    def state(self):
        """(h,) with h (B, R), or (h, c) with c (B, H): copies. Others may be assigned."""
        cdef Buffers buffers = Buffers.__new__(Buffers)
        h = empty(self.shape, self.dtype)
        c = empty((self.B, self.weights.H), self.dtype) if self.size_c else None
        cdef void *to_h = buffers.write(h)
        cdef void *to_c = buffers.write(c)
        if share_swap(&self.busy, 1):
            raise RuntimeError("state: expected one thread at a time, got a look at it while a step is under way")
        memcpy(to_h, self.h[self.now], self.size)
        if to_c != NULL:
            memcpy(to_c, self.c[self.now], self.size_c)
        share_set(&self.busy, 0)
        return (h, c) if self.size_c else (h,)

    @state.setter
    def state(self, tuple state):
        cdef Buffers buffers = Buffers.__new__(Buffers)
        cdef void *h = buffers.read(state[0])
        cdef void *c = buffers.read(state[1]) if self.size_c else NULL
        if buffers.views[0].len != self.size or (c != NULL and buffers.views[1].len != self.size_c):
            raise ValueError(f"state: expected {self.size} and {self.size_c} bytes, "
                             f"got {buffers.views[0].len} and {buffers.views[1].len if c != NULL else 0}")
        if share_swap(&self.busy, 1):
            raise RuntimeError("state: expected one thread at a time, got another state while a step is under way")
        memcpy(self.h[self.now], h, self.size)
        if c != NULL:
            memcpy(self.c[self.now], c, self.size_c)
        share_set(&self.busy, 0)

    def step(self, x, out=None):
        """One time step; the bits are those of `unroll` over the whole sequence.

        Parameters
        ----------
        x : ndarray (B, I), or (B,) int64 token ids in [0, I)
            For B = 1 also (I,), or an int.
        out : ndarray (B, R), optional
            Where to put the result; may share memory with x.

        Returns
        -------
        ndarray (B, R) or None
            A new array, or out; (R,) for a frame without a batch axis. None if x or out is anything else than
            contiguous, of these shapes and of the state's dtype, or an id is out of range: then nothing was done.
        """
        cdef Py_buffer frame, into
        cdef int axes
        if share_swap(&self.busy, 1):
            raise RuntimeError("step: expected one thread at a time, got a call while another one is under way")
        memset(&frame, 0, sizeof(frame))
        memset(&into, 0, sizeof(into))
        try:
            axes = self.read_ids(x, &frame) if self.weights.tokens else self.read_numbers(x, &frame)
            if axes == 0:
                return None
            y = empty(self.shape if axes == 2 else self.row, self.dtype) if out is None else out
            if not self.writes(y, &into, axes):
                return None
            if self.large:
                with nogil:
                    self.advance(frame.buf)
            else:
                self.advance(frame.buf)
            memcpy(into.buf, self.h[self.now], self.size)
            return y
        finally:
            share_set(&self.busy, 0)
            PyBuffer_Release(&frame)
            PyBuffer_Release(&into)

    cdef int read_numbers(self, x, Py_buffer *frame) except -1:
        """Axes of the result: 2 for x (B, I), 1 for (I,), 0 for anything else."""
        if not opened(x, frame, 0) or not numbers(frame, self.weights.double):
            return 0
        if frame.ndim == 2:
            return 2 if frame.shape[0] == self.B and frame.shape[1] == self.weights.I else 0
        return 1 if frame.ndim == 1 and self.B == 1 and frame.shape[0] == self.weights.I else 0

    cdef int read_ids(self, x, Py_buffer *frame) except -1:
        """Copy the ids, which somebody may change while the step runs without the GIL."""
        cdef ptrdiff_t b
        cdef int overflow = 0
        cdef const int64_t *ids
        if PyLong_CheckExact(x):
            if self.B > 1:
                return 0
            self.ids[0] = PyLong_AsLongLongAndOverflow(x, &overflow)
            return 1 if not overflow and 0 <= self.ids[0] < self.weights.I else 0
        if not opened(x, frame, 0):
            return 0
        if not ((frame.format[0] == c"l" or frame.format[0] == c"q") and frame.format[1] == 0 and frame.itemsize == 8
                and frame.ndim == 1 and frame.shape[0] == self.B and <uintptr_t> frame.buf % sizeof(int64_t) == 0):
            return 0
        ids = <const int64_t *> frame.buf
        for b in range(self.B):
            self.ids[b] = ids[b]
            if not 0 <= self.ids[b] < self.weights.I:
                return 0
        return 2

    cdef bint writes(self, y, Py_buffer *into, int axes) except -1:
        """Whether y is an array of the result's shape that may be written to."""
        if not opened(y, into, PyBUF_WRITABLE) or not numbers(into, self.weights.double):
            return False
        if into.ndim != axes or into.shape[axes - 1] != self.weights.R:
            return False
        return axes == 1 or into.shape[0] == self.B

    cdef void advance(self, const void *x) noexcept nogil:
        if self.weights.double:
            advance_rows(self, self.weights, <const double *> x)
        else:
            advance_rows(self, self.weights, <const float *> x)


cdef void advance_rows(Stepper stepper, Panels w, const real *x) noexcept nogil:
    cdef ptrdiff_t B = stepper.B, I = 0 if w.tokens else w.I, H = w.H, R = w.R, k, first, last, rows
    cdef ptrdiff_t blocks = row_blocks(w, B, 1)
    cdef const int64_t *ids = stepper.ids if w.tokens else NULL
    cdef bint odd = w.turn(1)
    cdef const real *h_before = <const real *> stepper.h[stepper.now]
    cdef const real *c_before = <const real *> stepper.c[stepper.now]
    cdef real *h = <real *> stepper.h[1 - stepper.now]
    cdef real *c = <real *> stepper.c[1 - stepper.now]
    cdef real *a = <real *> stepper.a
    cdef real *room = a
    if w.cell > IDENTITY:
        room = a + stepper.rows * w.S
    stepper.now = 1 - stepper.now
    for k in range(blocks):
        first, last = block_start(B, blocks, k), block_start(B, blocks, k + 1)
        rows = last - first
        whole_step(w, rows, odd, x + first * I, ids + first if ids != NULL else NULL,
                   a if w.cell > IDENTITY else h + first * R, h_before + first * R, c_before + first * H,
                   h + first * R, c + first * H, room)
        if stepper.zoneout_h > 0:
            blend(NULL, stepper.zoneout_h, h_before + first * R, h + first * R, rows * R)
        if stepper.zoneout_c > 0 and w.cell == LSTM:
            blend(NULL, stepper.zoneout_c, c_before + first * H, c + first * H, rows * H)


cdef bint opened(array, Py_buffer *view, int flags) except -1:
    """Whether array is a plain contiguous one, whose buffer the caller then has to release."""
    if type(array) is not NDARRAY:
        return False
    try:
        PyObject_GetBuffer(array, view, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS | flags)
    except (BufferError, ValueError):  # not contiguous, read-only, or of a dtype without a format
        return False
    return True


cdef inline bint numbers(Py_buffer *view, bint double) noexcept:
    """Whether a buffer holds numbers of this precision, in the processor's byte order and aligned."""
    return (view.format[0] == (c"d" if double else c"f") and view.format[1] == 0
            and <uintptr_t> view.buf % (8 if double else 4) == 0)


def short_call(Panels weights not None, x, h_0, c_0=None):
    """`unroll` by one thread, in a layer's own layout, with 1 us of overhead less.

    Parameters
    ----------
    weights : Panels
    x : ndarray (T, B, I)
    h_0 : ndarray (1, B, R) or None
        None for zeros.
    c_0 : ndarray (1, B, H) or None
        Of an LSTM; None for zeros.

    Returns
    -------
    tuple or None
        y (T, B, R), h_n (1, B, R) and for an LSTM c_n (1, B, H). None if an argument is anything else than a
        contiguous array of such a shape and of the weights' dtype, if there is no step, or so much to do that threads
        should share it: nothing was done then.
    """
    cdef Py_buffer frames, start_h, start_c
    cdef Buffers buffers
    cdef UnrollJob job
    cdef ptrdiff_t T, B, size = 8 if weights.double else 4
    cdef bint lstm = weights.cell == LSTM
    cdef Memory zeros
    cdef double work
    memset(&frames, 0, sizeof(frames))
    memset(&start_h, 0, sizeof(start_h))
    memset(&start_c, 0, sizeof(start_c))
    try:
        if weights.tokens or not opened(x, &frames, 0) or not numbers(&frames, weights.double):
            return None
        if frames.ndim != 3 or frames.shape[2] != weights.I:
            return None
        T, B = frames.shape[0], frames.shape[1]
        work = weights.work() * T * B
        if T * B == 0 or work >= WORK_TO_SHARE or row_blocks(weights, B, 1) > 1:
            return None
        if not initial(h_0, &start_h, weights, B, weights.R):
            return None
        if c_0 is not None and not lstm:
            return None
        if not initial(c_0, &start_c, weights, B, weights.H):
            return None
        buffers, job = Buffers.__new__(Buffers), UnrollJob.__new__(UnrollJob)
        dtype = DTYPE_F64 if weights.double else DTYPE_F32
        y, h_n = new(T * B * weights.R, (T, B, weights.R), dtype, weights.double), empty((1, B, weights.R), dtype)
        c_n = empty((1, B, weights.H), dtype) if lstm else None
        job.weights, job.course, job.odd = weights, course_of(T, B, None, None, False, None), weights.turn(T)
        job.items = 1
        job.make_room(1)
        job.x, job.h_0, job.c_0, job.y = frames.buf, start_h.buf, start_c.buf, buffers.write(y)
        job.h_n, job.c_n = buffers.write(h_n), buffers.write(c_n)
        if h_0 is None or (lstm and c_0 is None):
            zeros = take_memory(B * weights.H * size)  # R is not larger
            memset(zeros.aligned, 0, B * weights.H * size)
            if h_0 is None:
                job.h_0 = zeros.aligned
            if c_0 is None:
                job.c_0 = zeros.aligned
        job.h_begin, job.c_begin = job.h_0, job.c_0
        if work < WORK_TO_RELEASE:
            job.item(0, 0)
        else:
            job.run(1, 0)
        return (y, h_n, c_n) if lstm else (y, h_n)
    finally:
        PyBuffer_Release(&frames)
        PyBuffer_Release(&start_h)
        PyBuffer_Release(&start_c)


cdef bint initial(state, Py_buffer *view, Panels weights, ptrdiff_t B, ptrdiff_t size) except -1:
    """Whether state is None or an array (1, B, size), whose buffer the caller then has to release."""
    if state is None:
        return True
    if not opened(state, view, 0) or not numbers(view, weights.double) or view.ndim != 3:
        return False
    return view.shape[0] == 1 and view.shape[1] == B and view.shape[2] == size


def step_seconds(Stepper stepper not None, x, *, int rounds=1000, int repeats=7):
    """Seconds of one step inside the kernel, without the call: the best of so many repeats of so many steps.

    The steps are made: the state moves on.
    """
    best = float("inf")
    cdef Py_buffer frame
    cdef int axes, r
    memset(&frame, 0, sizeof(frame))
    try:
        axes = stepper.read_ids(x, &frame) if stepper.weights.tokens else stepper.read_numbers(x, &frame)
        if axes == 0:
            raise ValueError("x: expected a frame as `Stepper.step` takes it, got something else")
        for _ in range(repeats):
            start = perf_counter()
            for r in range(rounds):
                stepper.advance(frame.buf)
            best = min(best, (perf_counter() - start) / rounds)
    finally:
        PyBuffer_Release(&frame)
    return best
