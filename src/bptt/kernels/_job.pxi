# Memory, buffers, and a call shared out over threads.

import os
import threading

from cpython.buffer cimport (
    PyBUF_ND, PyBUF_SIMPLE, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcmp, memcpy, memset

cdef extern from "_share.h" nogil:
    ctypedef long long share_count
    int64_t share_add(share_count *c)
    int64_t share_read(share_count *c)
    void share_set(share_count *c, int64_t value)
    int64_t share_swap(share_count *c, int64_t value)
    void share_wait(int spins)
    double share_clock()

cdef extern from "_memory.h" nogil:
    const size_t MEMORY_LARGE
    void *memory_take(size_t *size)
    void memory_give(void *block, size_t size)
    void memory_after_fork()
    void memory_release()

cdef extern from "_past.h" nogil:
    void past_copy(void *to, const void *from_, size_t bytes)
    void past_done()
    void past_announce(const void *p, size_t bytes)

cdef enum:
    MOST_BUFFERS = 32
    LINE = 64  # bytes in a cache line; panels start on one, so that no vector load straddles two
    WORK_BETWEEN_CLOCKS = 1 << 26  # operations between looks at the clock: 7 ms at 10 GFLOP/s ...
    WORK_OF_A_LOOK = 20_000  # ... with a small call counted as this many, since it is mostly overhead

cdef double SECONDS_BETWEEN_SIGNALS = 0.03


cdef extern from "pythread.h" nogil:
    unsigned long PyThread_get_thread_ident()

# Python runs signal handlers in this thread only; a fork makes its own thread the main one.
cdef unsigned long main_thread = threading.main_thread().ident


def _after_fork():
    global main_thread
    main_thread = PyThread_get_thread_ident()
    memory_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def release_memory():
    """Free the blocks, of 256 MiB at most, that are kept for the next call."""
    memory_release()


@cython.final
@cython.freelist(8)  # of these and of the next every call makes a few
cdef class Memory:
    """Uninitialised memory that starts on a cache line; also as a buffer, for an array."""

    cdef void *start
    cdef size_t taken  # bytes
    cdef char *aligned
    cdef Py_ssize_t size

    def __dealloc__(self):
        memory_give(self.start, self.taken)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.aligned, self.size, 0, flags)


cdef Memory take_memory(size_t size):
    cdef Memory m = Memory.__new__(Memory)
    m.taken = size + LINE
    m.start = memory_take(&m.taken)
    if m.start is NULL:
        raise MemoryError(f"bptt: could not allocate {size} bytes of working memory")
    m.aligned = <char *> ((<uintptr_t> m.start + LINE - 1) & ~(<uintptr_t> LINE - 1))
    m.size = size
    return m


def large_empty(tuple shape, dtype):
    """Like `empty`; a large array is in a block of memory that is used again."""
    cdef ptrdiff_t numbers = 1, size
    for size in shape:
        numbers *= size
    return new(numbers, shape, dtype, dtype.itemsize == 8)


cdef new(ptrdiff_t numbers, tuple shape, dtype, bint double):
    """`large_empty` where their number and size are known already."""
    if numbers * (8 if double else 4) < MEMORY_LARGE:
        return empty(shape, dtype)
    return ndarray(shape, dtype, take_memory(numbers * (8 if double else 4)))


@cython.final
@cython.freelist(8)
cdef class Buffers:
    """Addresses of contiguous arrays, which stay in place until this object goes."""

    cdef Py_buffer views[MOST_BUFFERS]
    cdef int count

    def __dealloc__(self):
        cdef int i
        for i in range(self.count):
            PyBuffer_Release(&self.views[i])

    cdef void *read(self, array) except? NULL:
        """Address of array's numbers; NULL for None."""
        if array is None:
            return NULL
        check(self.count < MOST_BUFFERS, b"buffer")
        PyObject_GetBuffer(array, &self.views[self.count], PyBUF_SIMPLE)
        self.count += 1
        return self.views[self.count - 1].buf

    cdef void *read_shaped(self, array) except? NULL:
        """And its shape, in the view."""
        check(self.count < MOST_BUFFERS, b"buffer")
        PyObject_GetBuffer(array, &self.views[self.count], PyBUF_ND)
        self.count += 1
        return self.views[self.count - 1].buf

    cdef void *write(self, array) except? NULL:
        if array is None:
            return NULL
        check(self.count < MOST_BUFFERS, b"buffer")
        PyObject_GetBuffer(array, &self.views[self.count], PyBUF_WRITABLE)
        self.count += 1
        return self.views[self.count - 1].buf


cdef class Job:
    """One call's work as a sequence of items that threads claim in order.

    Item k may start once it is ready(k), for which it may want items before it, but none after it, to be done; which
    thread does an item changes no number.  The caller works too, and returns when all is done; helpers that come after
    that find nothing to claim.
    """

    cdef share_count claimed
    cdef share_count finished
    cdef share_count stop
    cdef share_count workers
    cdef int64_t items
    cdef int helpers
    cdef bint signals  # the caller is the thread that has to look for them
    cdef double work_since_clock
    cdef double clock
    cdef object error

    cdef void item(self, int64_t k, int worker) noexcept nogil:
        pass

    cdef bint ready(self, int64_t k) noexcept nogil:
        return True

    cdef void count(self, int64_t k) noexcept nogil:
        """Item k is done."""
        share_add(&self.finished)

    @cython.final
    cdef bint interrupted(self, int worker, double operations) noexcept nogil:
        """True when the call should end early; the main thread looks for Ctrl-C now and then."""
        if worker == 0 and self.signals:
            self.work_since_clock += operations + WORK_OF_A_LOOK
            if self.work_since_clock > WORK_BETWEEN_CLOCKS:
                self.work_since_clock = 0
                self.look_at_clock()
        return share_read(&self.stop) != 0

    cdef void look_at_clock(self) noexcept nogil:
        cdef double now = share_clock()
        if now - self.clock > SECONDS_BETWEEN_SIGNALS:
            self.clock = now
            with gil:
                self.look_for_signals()

    cdef void look_for_signals(self) noexcept:
        try:
            PyErr_CheckSignals()
        except BaseException as error:  # noqa: BLE001  kept and raised by run
            self.end(error)

    cdef void end(self, error) noexcept:
        """No item begins any more; `run` raises the error once those that have begun are done."""
        self.error = error
        share_set(&self.stop, 1)

    cdef void work(self, int worker) noexcept nogil:
        cdef int64_t k
        cdef int spins
        while True:
            k = share_add(&self.claimed)
            if k >= self.items:
                return
            spins = 0
            while not self.ready(k):
                spins += 1
                self.wait(worker, spins)
            if not share_read(&self.stop):
                self.item(k, worker)
            self.count(k)

    @cython.final
    cdef void wait(self, int worker, int spins) noexcept nogil:
        share_wait(spins)
        if worker == 0 and self.signals and spins % 256 == 0:
            self.look_at_clock()

    def help(self):
        """Run by a thread of the pool."""
        cdef int worker
        with nogil:
            worker = <int> share_add(&self.workers) + 1
            check(worker <= self.helpers, b"worker")
            self.work(worker)

    cdef void run_alone(self, int64_t items) noexcept:
        """`run` for so little work that the caller does it all, and keeps the GIL."""
        cdef int64_t k
        self.items = items
        for k in range(items):
            self.item(k, 0)

    cdef int run(self, int64_t items, int helpers) except -1:
        cdef int spins = 0
        self.items, self.helpers = items, helpers
        self.signals = PyThread_get_thread_ident() == main_thread
        if self.signals:
            self.clock = share_clock()
        if helpers > 0:
            try:
                submit(self.help, helpers)
            except BaseException as error:  # noqa: BLE001  Ctrl-C: a helper may already write where the caller says
                self.end(error)
        with nogil:
            self.work(0)
            while share_read(&self.finished) < items:
                spins += 1
                self.wait(0, spins)
        if self.error is not None:
            raise self.error
        return 0
