# Counting over what a forward pass has kept.


cdef int row_outside(const real *v, real low, real high, int n) noexcept nogil:
    cdef int k, count = 0
    for k in range(n):
        count += (v[k] < low) | (v[k] > high)
    return count


cdef void steps_outside(
    const char *v, const Py_ssize_t *shape, const Py_ssize_t *strides, real low, real high, int64_t *counts
) noexcept nogil:
    cdef ptrdiff_t t, b
    for t in range(shape[0]):
        counts[t] = 0
        for b in range(shape[1]):
            counts[t] += row_outside(<const real *> (v + t * strides[0] + b * strides[1]), low, high, <int> shape[2])


def count_outside(v, double low, double high):
    """How many numbers of every step are below `low` or above `high`.

    Parameters
    ----------
    v : ndarray (T, B, N)
        Each row's numbers side by side.
    low, high : float

    Returns
    -------
    ndarray (T,) of int64
    """
    cdef Py_buffer view
    cdef Buffers buffers = Buffers.__new__(Buffers)
    counts = empty(v.shape[0], "i8")
    cdef int64_t *to = <int64_t *> buffers.write(counts)
    PyObject_GetBuffer(v, &view, PyBUF_STRIDES)
    try:
        if view.ndim != 3 or (view.shape[2] > 1 and view.strides[2] != view.itemsize) or view.itemsize not in (4, 8):
            raise ValueError("v: expected (T, B, N) of float32 or float64 with adjoining numbers in a row")
        with nogil:
            if view.itemsize == 8:
                steps_outside(<const char *> view.buf, view.shape, view.strides, low, high, to)
            else:
                steps_outside(<const char *> view.buf, view.shape, view.strides, <float> low, <float> high, to)
    finally:
        PyBuffer_Release(&view)
    return counts
