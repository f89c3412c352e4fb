# Softmax and cross entropy of a row while it is in cache: the one loss whose cost shows beside the kernels.


cdef double cross_entropy_row(
    const real *s,      # IN (O,)
    ptrdiff_t O, int64_t target,
    real *ds,           # OUT (O,)
) noexcept nogil:
    """-log softmax(s)[target];  ds = softmax(s) - onehot(target)."""
    cdef ptrdiff_t L = lanes_of(<real *> NULL), j = 0
    cdef real top = s[0], total = 0, scale
    cdef real lane[16]
    for j in range(1, O):
        # a NaN stays the maximum, so that it shows in the loss
        top = s[j] if not (s[j] <= top) else top
    j = 0
    while j < O:
        if real is float:
            if j + L <= O:
                f32_store(ds + j, exp_f32(f32_load(s + j) - f32_splat(top)))
            else:
                f32_store_part(ds + j, exp_f32(f32_load_part(s + j, O - j) - f32_splat(top)), O - j)
        else:
            if j + L <= O:
                f64_store(ds + j, exp_f64(f64_load(s + j) - f64_splat(top)))
            else:
                f64_store_part(ds + j, exp_f64(f64_load_part(s + j, O - j) - f64_splat(top)), O - j)
        j += L
    for j in range(16):
        lane[j] = 0
    for j in range(O // 16 * 16):
        lane[j & 15] = lane[j & 15] + ds[j]
    for j in range(O // 16 * 16, O):
        lane[0] = lane[0] + ds[j]
    for j in range(16):
        total = total + lane[j]
    scale = 1 / total
    for j in range(O):
        ds[j] = ds[j] * scale
    ds[target] = ds[target] - 1
    return log(<double> total) - (<double> s[target] - <double> top)


cdef double cross_entropy_rows(
    const real *s, ptrdiff_t N, ptrdiff_t O, const int64_t *targets, bint ignoring, int64_t ignored, real *ds,
    int64_t *count
) noexcept nogil:
    cdef double total = 0
    cdef ptrdiff_t r
    count[0] = 0
    for r in range(N):
        if ignoring and targets[r] == ignored:
            memset(ds + r * O, 0, O * sizeof(real))
        else:
            total += cross_entropy_row(s + r * O, O, targets[r], ds + r * O)
            count[0] += 1
    return total


def softmax_cross_entropy(logits, targets, *, ignore_index=None):
    """Sum over rows of -log softmax(logits)[target], and its gradient.

    Parameters
    ----------
    logits : ndarray (N, O)
    targets : ndarray (N,) int64
        Class ids in [0, O), or ignore_index.
    ignore_index : int or None

    Returns
    -------
    loss : float
    count : int
        Rows not ignored.
    dlogits : ndarray (N, O)
        softmax - onehot; 0 in ignored rows.
    """
    cdef Buffers buffers = Buffers()
    cdef ptrdiff_t N, O
    cdef int64_t count, ignored = 0 if ignore_index is None else ignore_index
    cdef bint ignoring = ignore_index is not None, double = logits.itemsize == 8
    cdef double loss
    N, O = logits.shape
    dlogits = empty((N, O), logits.dtype)
    cdef void *s = buffers.read(logits)
    cdef void *ds = buffers.write(dlogits)
    cdef const int64_t *y = <const int64_t *> buffers.read(targets)
    with nogil:
        if double:
            loss = cross_entropy_rows(<const double *> s, N, O, y, ignoring, ignored, <double *> ds, &count)
        else:
            loss = cross_entropy_rows(<const float *> s, N, O, y, ignoring, ignored, <float *> ds, &count)
    return loss, count, dlogits
