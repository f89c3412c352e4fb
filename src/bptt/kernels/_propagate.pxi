# The backward pass as Python calls it.


def bptt(
    str cell, Saved saved not None, dy, dfinal_state, depth=None, int threads=1, *, squares=None, add_to=None,
    tuple initial_to=None, bint input_grad=True, dx_to=None
):
    """Backward loop over time of one direction of one layer: gradients of a scalar loss.

    Parameters
    ----------
    cell : str
        As in the forward call.
    saved : Saved
        From `unroll`.
    dy : ndarray (T, B, R) or None
        Gradient with respect to y; None for zeros. Past a row's end it is not looked at.
    dfinal_state : tuple or None
        Gradients with respect to the final state, (dh_n,) or (dh_n, dc_n); None for zeros, here or in it.
    depth : int or None
        Keep the terms (i, k) with i - k < depth only; None for all.
    threads : int
    add_to : Weights, optional
        Gradients of the steps that follow these, as an earlier call returned them: this call goes on with their sums,
        in place.  If these steps begin where one of `chunk_bounds` is, counted from the end of the last call's, the
        result has the bits of a single call over all steps.
    squares : ndarray (T, B) of float64, optional
        Where to put the squared norm of dL/dh_t; nothing is written past a row's end.
    initial_to : tuple, optional
        (dh_0,) or (dh_0, dc_0): what goes to the initial state at resets is added there, in place, not to dstate.
        For a piece of a longer sequence; not with a depth.
    input_grad : bool
        Whether dx is wanted.
    dx_to : ndarray (T, B, I), optional
        Where to put it; C-contiguous.

    Returns
    -------
    dx : ndarray (T, B, I) or None
        None for token input or without `input_grad`; zero past a row's end.
    dstate : tuple
        (dh_0,) or (dh_0, dc_0), of the state before the first step.
    dweights : Weights
        The parameters' gradients, None where a parameter is; with `add_to` the arrays in it.
    """
    if saved.panels.double:
        return back_propagate(saved, dy, dfinal_state, depth, threads, add_to, squares, initial_to, input_grad, dx_to,
                              <double *> NULL)
    return back_propagate(saved, dy, dfinal_state, depth, threads, add_to, squares, initial_to, input_grad, dx_to,
                          <float *> NULL)


def chunk_bounds(ptrdiff_t T, ptrdiff_t B, lengths=None):
    """Steps at which the sums of `bptt` over time are cut, from T down to 0.

    Parameters
    ----------
    T, B : int
    lengths : ndarray, optional
        (B,) int64.

    Returns
    -------
    list of int
        Some layers' sums are cut between these steps, too.
    """
    cdef BpttJob job = BpttJob.__new__(BpttJob)
    job.course = course_of(T, B, lengths, None, False, None)
    cut_into_chunks(job, False)
    return [job.bounds[k] for k in range(job.chunks + 1)]


def step_back(Saved saved not None, ptrdiff_t s, dh, dc=None, *, bint together=False):
    """One time step backwards, for N gradients at once.

    Parameters
    ----------
    saved : Saved
    s : int
        The step, counted in the order in which a row makes its steps.
    dh : ndarray (N, B, R)
        Gradients with respect to h after the step; C-contiguous.
    dc : ndarray (N, B, H), optional
        Of an LSTM: gradients with respect to c after the step that don't come through h.
    together : bool
        In reverse, whether all rows are at time T - 1 - s, instead of at step s of their own.

    Returns
    -------
    dh, dc : ndarray (N, B, R) and (N, B, H) or None
        Gradients with respect to the state before the step; zero where a reset cuts the row from it, and
        with `together` before a row's first step if another row has made steps by then.
    da_ih, da_hh : ndarray (N, B, G * H)
        Gradients with respect to p and q of docs/equations.md, the two halves of the pre-activations: those of the
        biases, before the sum over the batch.
    d_ih, d_hh : ndarray (N, B, G * H)
        Gradients with respect to W_ih x and W_hh h; without layer normalisation the same arrays.

    Notes
    -----
    Zeros for rows that don't have the step.
    """
    cdef ptrdiff_t B = dh.shape[1]
    rows = arange(B, dtype="i8")
    if saved.lengths is not None:
        rows = flatnonzero(saved.lengths > (saved.course.T - 1 - s if together and saved.course.reverse else s))
    if len(rows) < B:
        dh, dc = dh[:, rows], None if dc is None else dc[:, rows]
    if saved.panels.double:
        found = several_back(saved, s, rows, dh, dc, together, <double *> NULL)
    else:
        found = several_back(saved, s, rows, dh, dc, together, <float *> NULL)
    if len(rows) == B:
        return found
    return tuple([spread(part, rows, B) for part in found])


cdef object spread(part, rows, ptrdiff_t B):
    """Rows (N, n, ...) among B, zeros between them; None stays."""
    if part is None:
        return None
    whole = zeros((part.shape[0], B, part.shape[2]), part.dtype)
    whole[:, rows] = part
    return whole


cdef Course course_back(Saved saved, rows, ptrdiff_t N, bint together):
    """The course of N gradients at once in each of these rows; `together` as for `step_back`."""
    cdef ptrdiff_t T = saved.course.T, B = saved.course.B
    cdef Course course
    lengths, reset = saved.lengths, saved.reset
    if together and saved.course.reverse and lengths is not None:
        # a row's first step, the last in time, is then one before which it is reset
        reset = zeros((T, B), "?") if reset is None else reset.copy()
        rows_with_steps = flatnonzero(lengths)
        reset[lengths[rows_with_steps] - 1, rows_with_steps] = True
        lengths = None
    course = course_of(T, B, lengths, reset, saved.course.reverse, saved.noise)
    course.plain = False
    order = tile_rows(rows, N)
    course.order = <const int64_t *> course_buffers(course).read(order)
    return course


cdef several_back(Saved saved, ptrdiff_t s, rows, dh, dc, bint together, real *kind):
    """Of the rows given, which all have the step; dh (N, n, R), dc (N, n, H) or None."""
    cdef Panels w = saved.panels
    cdef BpttJob job = BpttJob.__new__(BpttJob)
    cdef Buffers buffers = Buffers.__new__(Buffers)
    cdef ptrdiff_t N = dh.shape[0], B = dh.shape[1], H = w.H
    cdef Course course = course_back(saved, rows, N, together)
    cdef Memory scratch
    prepare_steps(job, saved, course, N * B, buffers, kind)
    scratch = take_memory((back_room(w, N * B) + 1) * sizeof(real))
    before = dh.copy()
    before_c = None if w.cell != LSTM else zeros((N, B, H), saved.dtype) if dc is None else dc.copy()
    da = empty((N, B, w.S), saved.dtype)
    job.da, job.carry_h, job.carry_c = buffers.write(da), buffers.write(before), buffers.write(before_c)
    d_ih = d_hh = None
    if w.normal:
        d_ih, d_hh = empty((N, B, w.N_ih), saved.dtype), empty((N, B, w.N_hh), saved.dtype)
        job.d_ih, job.d_hh = buffers.write(d_ih), buffers.write(d_hh)
    with nogil:
        back_step(job, w, course, s, 0, N * B, 0, False, False, <real *> job.carry_h, <real *> job.carry_c,
                  <real *> scratch.aligned, NULL)
    da_ih = da_hh = da
    if w.cell >= GRU:
        # n r z q -> r z n, r z q
        da_ih = concatenate([da[:, :, H:3 * H], da[:, :, :H]], axis=2)
        da_hh = da[:, :, H:] if w.cell == GRU else da_ih
    if w.normal:
        if w.cell == GRU:
            d_ih = concatenate([d_ih[:, :, H:], d_ih[:, :, :H]], axis=2)
    else:
        d_ih, d_hh = da_ih, da_hh
    return before, before_c, da_ih, da_hh, d_ih, d_hh


cdef Buffers course_buffers(Course course):
    """The buffers that live as long as the course."""
    if course.buffers is None:
        course.buffers = Buffers.__new__(Buffers)
    return course.buffers


cdef int point_at(BpttJob job, Saved saved, Buffers buffers) except -1:
    """What the forward pass saved."""
    cdef bint lstm = job.weights.cell == LSTM
    job.x, job.y, job.c = buffers.read(saved.x), buffers.read(saved.y), buffers.read(saved.c)
    job.h_0, job.c_0 = buffers.read(saved.state[0]), buffers.read(saved.state[1]) if lstm else NULL
    job.h_begin, job.c_begin = job.h_0, job.c_0
    if saved.begin is not None:
        job.h_begin, job.c_begin = buffers.read(saved.begin[0]), buffers.read(saved.begin[1]) if lstm else NULL
    job.gates = buffers.read(saved.rows)
    job.normed_ih, job.rate_ih = buffers.read(saved.normed[0]), buffers.read(saved.normed[1])
    job.normed_hh, job.rate_hh = buffers.read(saved.normed[2]), buffers.read(saved.normed[3])
    return 0


cdef int prepare_steps(
    BpttJob job, Saved saved, Course course, ptrdiff_t rows, Buffers buffers, real *kind
) except -1:
    """For `back_step` of so many rows at once, by itself: no weight gradient wants x and h_{t-1} side by side."""
    job.weights, job.course, job.capacity, job.blocks, job.sets = saved.panels, course, rows, 1, 1
    point_at(job, saved, buffers)
    make_room(job, 1, kind)
    job.xs = NULL
    if job.weights.cell != GRU_BEFORE:  # whose step reads h_{t-1} there itself
        job.h_before = NULL
    return 0


cdef int plan_fixed(BpttJob job, Panels w, bint input_grad) except -1:
    """Which products of a chunk are made in whole numbers."""
    if not amx_used or w.double or job.capacity == 0:
        return 0
    job.input_fixed = input_grad and w.fixed_back_ih
    # of a bounded cell da is of one size
    job.coarse = (w.cell == TANH or w.cell == SIGMOID) and not w.normal
    # the gates of a GRU begin where a tile does, or it is not worth the trouble
    job.sum_fixed = (job.capacity >= amx_from_rows and (w.H % AMX_ROWS == 0 or w.cell < GRU)
                     and max(w.N_hh * w.R, 0 if w.tokens else w.N_ih * w.I) >= amx_from)
    return 0


cdef back_propagate(
    Saved saved, dy, dfinal_state, depth, int threads, add_to, squares, tuple initial_to, bint input_grad, dx_to,
    real *kind
):
    cdef Panels w = saved.panels
    cdef Course course = saved.course
    cdef BpttJob job = BpttJob.__new__(BpttJob)
    cdef DepthJob truncated
    cdef Buffers buffers = Buffers.__new__(Buffers)
    cdef ptrdiff_t T = course.T, B = course.B
    cdef bint lstm = w.cell == LSTM
    cdef int workers, k
    cdef Memory table = None
    cdef void *at
    cdef void *dweight_ih
    dtype = saved.dtype
    job.weights, job.course, job.whole = w, course, True
    cdef double operations = 2.0 * T * B * w.work()
    cdef int64_t items
    if operations < WORK_TO_SHARE:
        threads = 1
    workers = max(threads, 1)
    input_grad = input_grad and not w.tokens
    dx = None if not input_grad else dx_to if dx_to is not None else new(T * B * w.I, (T, B, w.I), dtype, w.double)
    dh_0, dc_0 = empty((B, w.R), dtype), empty((B, w.H), dtype) if lstm else None
    cdef tuple dweights = w.arrays(dtype) if add_to is None else tuple(add_to)
    point_at(job, saved, buffers)
    job.dy, job.adds, job.squares = buffers.read(dy), add_to is not None, <double *> buffers.write(squares)
    job.dx, job.dh_begin, job.dc_begin = buffers.write(dx), buffers.write(dh_0), buffers.write(dc_0)
    memset(job.dh_begin, 0, B * w.R * sizeof(real))
    if lstm:
        memset(job.dc_begin, 0, B * w.H * sizeof(real))
    job.dh_0, job.dc_0 = job.dh_begin, job.dc_begin
    if initial_to is not None:
        job.dh_0, job.dc_0 = buffers.write(initial_to[0]), buffers.write(initial_to[1]) if lstm else NULL
    cut_into_chunks(job, halves_chunks(w))
    for k in range(8):
        at = buffers.write(dweights[k])
        job.dw[k] = at
        if at != NULL and job.capacity == 0 and not job.adds:
            memset(at, 0, buffers.views[buffers.count - 1].len)
    dweight_ih = job.dw[0]

    job.deep = depth is not None and depth <= T
    job.blocks = row_blocks(w, max(B, <ptrdiff_t> 1), workers)
    plan_fixed(job, w, input_grad)
    job.turns = workers if w.S > DIRECT_ROWS or job.sum_fixed else 0
    job.sets = 2 if workers > 1 else 1
    if job.input_fixed:
        job.input_groups = max(ceil_div(job.capacity, BLOCK_K), min(workers, ceil_div(job.capacity, AMX_ROWS)))
    elif input_grad:
        # few rows at a time let W_ih stay in cache and threads share the work; a larger one is read for all at once
        job.input_groups = ceil_div(job.capacity, ROWS_TOGETHER if workers > 1 or w.I * w.N_ih < DEEP_FROM else BLOCK_K)
    make_room(job, workers, kind)
    if dfinal_state is None:
        first_carry(job, job.course, <const real *> NULL, <const real *> NULL)
    else:
        first_carry(job, job.course, <const real *> buffers.read(dfinal_state[0]),
                    <const real *> buffers.read(dfinal_state[1]) if lstm else <const real *> NULL)
    if job.capacity == 0:
        # no step: the state's gradient passes through, and every sum is empty
        for k in range(B):
            to_begin(job, k, <real *> job.carry_h + k * w.R, row_of(job.carry_c, k, w.H, kind))
    else:
        if w.tokens:
            table = take_memory(w.I * padded(kind, w.N_ih) * sizeof(real))
            memset(table.aligned, 0, w.I * padded(kind, w.N_ih) * sizeof(real))
            job.dw[0] = table.aligned
        if job.adds:
            take_sums(job, <const real *> dweight_ih, kind)
        if job.deep:
            truncated = DepthJob.__new__(DepthJob)
            truncated.into, truncated.depth = job, depth
            truncated.run(job.blocks, min(workers, <int> B) - 1)
        job.products = job.gradient_items()
        items = job.chunks * (job.blocks + job.turns + job.products)
        if workers == 1 and operations < WORK_TO_RELEASE:
            job.run_alone(items)
        else:
            job.run(items, workers - 1)
        if w.tokens:
            job.dw[0] = dweight_ih
            finish(job, <const real *> table.aligned, kind)
        else:
            finish(job, <const real *> NULL, kind)
    course.clear(0, B, job.dx, w.I * sizeof(real))
    return dx, (dh_0, dc_0) if lstm else (dh_0,), as_weights(dweights) if add_to is None else add_to
