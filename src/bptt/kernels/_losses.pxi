# Softmax and cross entropy of a row while it is in cache: the one loss whose cost shows beside the kernels.


cdef enum:
    LOSS_BLOCK = 1 << 17  # logits that one thread takes at a time: some 0.2 ms


cdef double cross_entropy_row(
    const real *s,      # IN (O,)
    ptrdiff_t O, int64_t target,
    real *ds,           # OUT (O,)
) noexcept nogil:
    """-log softmax(s)[target];  ds = softmax(s) - onehot(target)."""
    cdef ptrdiff_t j
    cdef real top = s[0], total = 0, scale
    cdef real lane[16]
    for j in range(1, O):
        top = s[j] if s[j] > top else top
    exp_row(s, top, ds, O)
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


cdef class LossJob(Job):
    """Blocks of rows; their sums are added in order afterwards."""

    cdef bint double, ignoring
    cdef ptrdiff_t N, O
    cdef int64_t ignored
    cdef void *s            # IN (N, O)
    cdef const int64_t *targets  # IN (N,)
    cdef void *ds           # OUT (N, O)
    cdef double *losses     # OUT (items,)
    cdef int64_t *counts    # OUT (items,)

    cdef void item(self, int64_t k, int worker) noexcept nogil:
        if self.interrupted(worker, 20.0 * self.N // self.items * self.O):
            return
        if self.double:
            cross_entropy_block(self, k, <double *> NULL)
        else:
            cross_entropy_block(self, k, <float *> NULL)


cdef void cross_entropy_block(LossJob job, int64_t k, real *kind) noexcept nogil:
    cdef ptrdiff_t O = job.O, r
    cdef const real *s = <const real *> job.s
    cdef real *ds = <real *> job.ds
    job.losses[k] = 0
    job.counts[k] = 0
    for r in range(block_start(job.N, job.items, k), block_start(job.N, job.items, k + 1)):
        if job.ignoring and job.targets[r] == job.ignored:
            memset(ds + r * O, 0, O * sizeof(real))
        else:
            check(0 <= job.targets[r] < O, b"target")
            job.losses[k] += cross_entropy_row(s + r * O, O, job.targets[r], ds + r * O)
            job.counts[k] += 1


def softmax_cross_entropy(logits, targets, *, ignore_index=None, int threads=1):
    """Sum over rows of -log softmax(logits)[target], and its gradient.

    Parameters
    ----------
    logits : ndarray (N, O)
    targets : ndarray (N,) int64
        Class ids in [0, O), or ignore_index.
    ignore_index : int or None
    threads : int

    Returns
    -------
    loss : float
    count : int
        Rows not ignored.
    dlogits : ndarray (N, O)
        softmax - onehot; 0 in ignored rows.
    """
    cdef Buffers buffers = Buffers.__new__(Buffers)
    cdef LossJob job = LossJob.__new__(LossJob)
    cdef Memory sums
    cdef ptrdiff_t blocks, k
    cdef double loss = 0
    cdef int64_t count = 0
    job.N, job.O = logits.shape
    job.double, job.ignoring = logits.itemsize == 8, ignore_index is not None
    job.ignored = ignore_index if job.ignoring else 0
    dlogits = empty((job.N, job.O), logits.dtype)
    job.s, job.ds = buffers.read(logits), buffers.write(dlogits)
    job.targets = <const int64_t *> buffers.read(targets)
    if job.N:
        blocks = ceil_div(job.N, max(<ptrdiff_t> 1, LOSS_BLOCK // job.O))
        sums = take_memory(2 * blocks * sizeof(double))
        job.losses, job.counts = <double *> sums.aligned, <int64_t *> sums.aligned + blocks
        job.run(blocks, threads - 1 if blocks > 1 else 0)
        for k in range(blocks):
            loss += job.losses[k]
            count += job.counts[k]
    return loss, count, dlogits
