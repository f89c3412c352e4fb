# The forward pass as Python calls it.


cdef class Saved:
    """What a forward pass keeps for the backward pass: x, state and y by reference, the weights as a snapshot."""

    cdef Panels panels
    cdef Course course
    cdef readonly object x
    cdef readonly tuple state
    cdef tuple begin       # the state before the first step, where it isn't that
    cdef readonly object y
    cdef readonly object c
    cdef object rows       # (T, B, S), or None
    cdef tuple normed      # normed_ih, rate_ih, normed_hh, rate_hh, or four times None
    cdef object noise      # and lengths and reset: arrays that the course reads
    cdef object lengths
    cdef object reset
    cdef object dtype

    @property
    def weights(self):
        """The weights at the forward pass, copied from the snapshot."""
        cdef Buffers buffers = Buffers.__new__(Buffers)
        cdef void *at[8]
        cdef int i
        cdef tuple copies = self.panels.arrays(self.dtype)
        for i in range(8):
            at[i] = buffers.write(copies[i])
        if self.panels.double:
            self.panels.unpacked(<double *> NULL, at)
        else:
            self.panels.unpacked(<float *> NULL, at)
        return as_weights(copies)

    @property
    def gates(self):
        """Views of the gates by name, (T, B, H)."""
        H = self.panels.H
        return {name: self.rows[:, :, k * H:(k + 1) * H] for k, name in enumerate(GATES.get(self.panels.cell, ()))}


GATES = {LSTM: ("i", "f", "g", "o"), GRU: ("n", "r", "z"), GRU_BEFORE: ("n", "r", "z")}


def unroll(
    str cell, x, tuple state, weights, bint keep=True, int threads=1, *, lengths=None, reset=None,
    bint reverse=False, noise=None, tuple begin=None, y_to=None, tuple final=None
):
    """Forward loop over time of one direction of one layer.

    Parameters
    ----------
    cell : str
        One of `CELLS`.
    x : ndarray
        (T, B, I) of the weights' dtype, or (T, B) int64 token ids in [0, I); C-contiguous.
    state : tuple
        (h_0,), for an LSTM (h_0, c_0): h_0 (B, R), c_0 (B, H).
    weights : Weights or Panels
        Panels are what `pack_weights` made for this cell and kind of x.
    keep : bool
        Keep what `bptt` needs.  With Panels not made for a backward pass a TypeError.
    threads : int
    lengths : ndarray, optional
        (B,) int64: each row's number of steps. Of a piece of a longer sequence, the number that it has from this
        piece's first step on; less than 0 is 0, more than T is T.
    reset : ndarray, optional
        (T, B) bool: True where a row starts this step from its initial state.
    reverse : bool
        Each row goes through its steps from the last to the first.
    noise : Noise, optional
    begin : tuple, optional
        As `state`: that before the first step, where the steps are a piece of a longer sequence; `state` is then
        where resets go back to, at the first step too.
    y_to : ndarray (T, B, R), optional
        Where to put y; C-contiguous.
    final : tuple, optional
        As `state`: that after the last step, where it is known. An Elman layer's last step is then left out where
        nothing else would come of it.

    Returns
    -------
    y : ndarray (T, B, R)
        Zero past a row's end.
    final_state : tuple
        As `state`, after each row's last step.
    saved : Saved or None
    """
    h_0 = state[0]
    dtype = h_0.dtype
    cdef Panels panels
    cdef UnrollJob job = UnrollJob.__new__(UnrollJob)
    cdef Buffers buffers = Buffers.__new__(Buffers)
    cdef Saved saved = None
    cdef Course course
    cdef ptrdiff_t T, B, size
    cdef bint lstm
    cdef double work
    cdef tuple normed = (None, None, None, None)
    job.x = buffers.read_shaped(x)
    T, B = buffers.views[0].shape[0], buffers.views[0].shape[1]
    job.course = course = course_of(T, B, lengths, reset, reverse, noise)
    job.weights = panels = packed_for(cell, weights, x.dtype is not dtype and x.dtype.kind == "i", dtype.itemsize, keep,
                                      T * B if job.course.plain and T > 1 and B <= ROWS_TOGETHER else 0)
    if not panels.tokens and buffers.views[0].shape[2] != panels.I:
        raise ValueError(f"x: expected {panels.I} numbers a row, as weight_ih has, got {buffers.views[0].shape[2]}")
    lstm = panels.cell == LSTM
    job.odd = panels.turn(T)
    y = y_to if y_to is not None else new(T * B * panels.R, (T, B, panels.R), dtype, panels.double)
    h_n = empty((B, panels.R), dtype)
    c_n = empty((B, panels.H), dtype) if lstm else None
    c = new(T * B * panels.H, (T, B, panels.H), dtype, panels.double) if lstm and keep else None
    rows = new(T * B * panels.S, (T, B, panels.S), dtype, panels.double) if panels.cell > IDENTITY and keep else None
    if panels.normal and keep:
        normed = (new(T * B * panels.N_ih, (T, B, panels.N_ih), dtype, panels.double), empty((T, B), dtype),
                  new(T * B * panels.N_hh, (T, B, panels.N_hh), dtype, panels.double), empty((T, B), dtype))
    job.h_0, job.c_0 = buffers.read(h_0), buffers.read(state[1]) if lstm else NULL
    job.h_begin, job.c_begin = job.h_0, job.c_0
    if begin is not None:
        job.h_begin, job.c_begin = buffers.read(begin[0]), buffers.read(begin[1]) if lstm else NULL
    job.y, job.h_n, job.c_n = buffers.write(y), buffers.write(h_n), buffers.write(c_n)
    job.c, job.gates = buffers.write(c), buffers.write(rows)
    job.normed_ih, job.rate_ih = buffers.write(normed[0]), buffers.write(normed[1])
    job.normed_hh, job.rate_hh = buffers.write(normed[2]), buffers.write(normed[3])
    size = 8 if panels.double else 4
    job.past = (rows is not None or normed[0] is not None) and T * B * panels.S * size >= PAST_FROM
    if final is not None and course.plain and T > 1 and panels.cell <= IDENTITY and not panels.normal:
        # h is all that there is of a step
        memcpy(<char *> job.y + (T - 1) * B * panels.R * size, buffers.read(final[0]), B * panels.R * size)
        job.course = course_of(T - 1, B, None, None, False, None)
    if T * B:
        work = panels.work() * job.course.T * B
        if work < WORK_TO_SHARE:
            threads = 1
        job.items = row_blocks(panels, B, threads)
        job.make_room(max(1, min(threads, <int> B)))
        if job.items == 1 and work < WORK_TO_RELEASE:
            job.item(0, 0)
        else:
            job.run(job.items, min(threads, <int> B) - 1)
    else:
        memcpy(job.h_n, job.h_begin, B * panels.R * size)
        if lstm:
            memcpy(job.c_n, job.c_begin, B * panels.H * size)
    if job.course is not course:
        memcpy(job.h_n, <char *> job.y + (T - 1) * B * panels.R * size, B * panels.R * size)
    if keep:
        if panels is not weights:
            panels.end_forward()
        saved = Saved.__new__(Saved)
        saved.panels, saved.course, saved.x, saved.state, saved.y = panels, course, x, state, y
        saved.c, saved.rows, saved.normed, saved.dtype = c, rows, normed, dtype
        saved.lengths, saved.reset, saved.noise, saved.begin = lengths, reset, noise, begin
    return y, (h_n, c_n) if lstm else (h_n,), saved
