# One time step after another, where the state and the packed weights stay; short calls, which packing would outweigh.

from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_FORMAT
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact


cdef object NDARRAY = ndarray
cdef object DTYPE_F32 = as_dtype("f4")
cdef object DTYPE_F64 = as_dtype("f8")


cdef class Stepper:
    """The state h (B, H) of B sequences, and the packed weights that carry it on by one time step.

    Parameters
    ----------
    cell : {"tanh", "relu", "sigmoid", "identity"}
    weights : Weights or Panels
        Weights are packed here; Panels from `pack_weights` are shared.
    state : tuple
        (h_0,) with h_0 (B, H), B >= 1; copied.
    tokens : bool
        Whether steps take token ids.
    """

    cdef Panels weights
    cdef Memory memory  # the two states, and the ids of a step
    cdef void *h[2]     # (B, H): h_t, and where h_{t+1} will be
    cdef int now        # which of them is h_t
    cdef int64_t *ids   # (B,)
    cdef ptrdiff_t B
    cdef ptrdiff_t size  # bytes of a state
    cdef bint large     # worth releasing the GIL for
    cdef bint busy
    cdef object dtype
    cdef tuple shape
    cdef tuple row

    def __cinit__(self, str cell, weights, tuple state, *, bint tokens=False):
        h_0, = state
        cdef ptrdiff_t apart
        self.dtype = h_0.dtype
        self.weights = packed_for(cell, weights, tokens, h_0.itemsize, False)
        self.B = h_0.shape[0]
        self.shape, self.row = (self.B, self.weights.H), (self.weights.H,)
        self.size = self.B * self.weights.H * <ptrdiff_t> h_0.itemsize
        self.large = 2.0 * self.B * self.weights.H * (self.weights.H + self.weights.I) >= WORK_TO_RELEASE
        apart = ceil_div(self.size, LINE) * LINE
        self.memory = Memory(2 * apart + self.B * sizeof(int64_t))
        self.h[0], self.h[1] = self.memory.aligned, self.memory.aligned + apart
        self.ids = <int64_t *> (self.memory.aligned + 2 * apart)
        self.state = state

    @property
    def state(self):
        """(h,) with h (B, H), a copy. Another may be assigned."""
        cdef Buffers buffers = Buffers()
        h = empty(self.shape, self.dtype)
        memcpy(buffers.write(h), self.h[self.now], self.size)
        return (h,)

    @state.setter
    def state(self, tuple state):
        cdef Buffers buffers = Buffers()
        cdef void *at
        h, = state
        at = buffers.read(h)
        if buffers.views[0].len != self.size:
            raise ValueError(f"state: expected {self.size} bytes, got {buffers.views[0].len}")
        if self.busy:
            raise RuntimeError("state: expected one thread at a time, got another state while a step is under way")
        memcpy(self.h[self.now], at, self.size)

    def step(self, x, out=None):
        """One time step; the bits are those of `unroll` over the whole sequence.

        Parameters
        ----------
        x : ndarray (B, I), or (B,) int64 token ids in [0, I)
            For B = 1 also (I,), or an int.
        out : ndarray (B, H), optional
            Where to put the result; may share memory with x.

        Returns
        -------
        ndarray (B, H) or None
            A new array, or out; (H,) for a frame without a batch axis. None if x or out is anything else than
            contiguous, of these shapes and of the state's dtype, or an id is out of range: then nothing was done.
        """
        cdef Py_buffer frame, into
        cdef int axes
        if self.busy:
            raise RuntimeError("step: expected one thread at a time, got a call while another one is under way")
        memset(&frame, 0, sizeof(frame))
        memset(&into, 0, sizeof(into))
        self.busy = True
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
            self.busy = False
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
        if into.ndim != axes or into.shape[axes - 1] != self.weights.H:
            return False
        return axes == 1 or into.shape[0] == self.B

    cdef void advance(self, const void *x) noexcept nogil:
        if self.weights.double:
            advance_rows(self, <const double *> x)
        else:
            advance_rows(self, <const float *> x)


cdef void advance_rows(Stepper stepper, const real *x) noexcept nogil:
    cdef ptrdiff_t B = stepper.B, I = stepper.weights.I, H = stepper.weights.H, k, first, last
    cdef ptrdiff_t blocks = row_blocks(B, H, 1)
    cdef const int64_t *ids = stepper.ids if stepper.weights.tokens else NULL
    cdef bint odd = stepper.weights.turn(1)
    cdef const real *before = <const real *> stepper.h[stepper.now]
    stepper.now = 1 - stepper.now
    for k in range(blocks):
        first, last = block_start(B, blocks, k), block_start(B, blocks, k + 1)
        step_rows(stepper.weights, last - first, odd, x + first * I, ids + first if ids != NULL else NULL,
                  before + first * H, <real *> stepper.h[stepper.now] + first * H)


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


def short_call(Panels weights, x, h_0):
    """`unroll` of a few steps in a layer's own layout, with 1 us of overhead less.

    Parameters
    ----------
    weights : Panels
    x : ndarray (T, B, I)
    h_0 : ndarray (1, B, H) or None
        None for zeros.

    Returns
    -------
    (y, h_n) or None
        y (T, B, H) and h_n (1, B, H). None if x or h_0 is anything else than a contiguous array of such a shape and
        of the weights' dtype, if there is no step, or so much to do that threads should share it or Ctrl-C be
        looked for: nothing was done then.
    """
    cdef Py_buffer frames, start
    cdef Buffers buffers
    cdef UnrollJob job
    cdef ptrdiff_t T, B, H = weights.H, size
    cdef void *last
    memset(&frames, 0, sizeof(frames))
    memset(&start, 0, sizeof(start))
    try:
        if weights.tokens or not opened(x, &frames, 0) or not numbers(&frames, weights.double):
            return None
        if frames.ndim != 3 or frames.shape[2] != weights.I:
            return None
        T, B = frames.shape[0], frames.shape[1]
        if T * B == 0 or 2.0 * T * B * H * (H + weights.I) >= WORK_TO_RELEASE or row_blocks(B, H, 1) > 1:
            return None
        if h_0 is not None:
            if not opened(h_0, &start, 0) or not numbers(&start, weights.double) or start.ndim != 3:
                return None
            if start.shape[0] != 1 or start.shape[1] != B or start.shape[2] != H:
                return None
        buffers, job = Buffers(), UnrollJob()
        dtype = DTYPE_F64 if weights.double else DTYPE_F32
        y, h_n = empty((T, B, H), dtype), empty((1, B, H), dtype)
        size = B * H * (8 if weights.double else 4)
        job.weights, job.T, job.B, job.odd = weights, T, B, weights.turn(T)
        job.items = 1
        job.x, job.h_0, job.y = frames.buf, start.buf, buffers.write(y)
        last = buffers.write(h_n)
        if h_0 is None:
            memset(last, 0, size)
            job.h_0 = last
        job.item(0, 1)
        memcpy(last, <char *> job.y + (T - 1) * size, size)
        return y, h_n
    finally:
        PyBuffer_Release(&frames)
        PyBuffer_Release(&start)


def step_seconds(Stepper stepper, x, *, int rounds=1000, int repeats=7):
    """Seconds of one step inside the kernel, without the call: the best of so many repeats of so many steps."""
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
