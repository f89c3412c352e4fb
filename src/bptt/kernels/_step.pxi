# One time step of any cell: what is the same whether a whole sequence is at hand or a frame of a stream.


cdef ptrdiff_t digits_room(Panels w, ptrdiff_t rows, ptrdiff_t at_once) noexcept nogil:
    """Numbers of working memory for products in whole numbers: of so many rows, and of W_ih of so many at once."""
    return ceil_div(max(fixed_room(w.I, at_once) if w.fixed_ih else 0, fixed_room(w.R, rows) if w.fixed_hh else 0),
                    sizeof(float))


cdef ptrdiff_t step_room(Panels w, ptrdiff_t rows, ptrdiff_t at_once, bint masked) noexcept nogil:
    """Numbers of working memory that `step` wants, and input products of so many rows at once."""
    cdef ptrdiff_t row = (w.R if masked else 0) + (w.H if w.projected else 0) + (w.N_hh if w.normal else 0)
    return digits_room(w, rows, at_once) + rows * row


cdef inline bint bare(Panels w) noexcept nogil:
    """Whether a step is h = f(a + W_hh h) and nothing else, where nothing disturbs it."""
    return w.cell <= IDENTITY and not w.normal


cdef void bare_step(
    Panels w, ptrdiff_t rows, bint backwards, real *a, const real *h_before, real *h, real *room,  # as in `step`
) noexcept nogil:
    """`step` of a bare cell: what all cells need would cost as much as a step of a few units."""
    cdef ptrdiff_t R = w.R
    step_product(w.fixed_hh, False, chains_for(<real *> NULL, R, R), h_before, R, rows, w.hh, R, R, a, R, TILE_ADD,
                 <const real *> NULL, backwards, room)
    cell_forward(w.cell, a, h, rows * R)


cdef void step(
    Panels w, ptrdiff_t rows, bint backwards,
    real *a,               # INOUT (rows, S): p, as `input_rows` leaves it, in; what the backward pass needs out
    const real *h_before,  # IN (rows, R): h_{t-1}
    const real *c_before,  # IN (rows, H): c_{t-1} of an LSTM
    real *h,               # OUT (rows, R): h_t; may be a
    real *c,               # OUT (rows, H): c_t of an LSTM; may be c_before
    const real *mask,      # IN (rows, R) or NULL: recurrent dropout
    real *normed,          # OUT (rows, N_hh) or NULL: LN(W_hh h_{t-1})
    real *rate,            # OUT (rows,) or NULL: its 1 / sqrt(variance + 1e-5)
    bint past,             # `normed` is to go past the caches
    real *room,            # WORK, see `step_room`
) noexcept nogil:
    cdef ptrdiff_t H = w.H, R = w.R, S = w.S, r
    cdef int chains = chains_for(<real *> NULL, R, w.N_hh)
    cdef const real *masked = h_before
    cdef const real *ph = <const real *> w.ph
    cdef real *m = h
    cdef double scale
    cdef real *digits
    cdef real *q
    if mask != NULL:
        times(h_before, mask, room, rows * R)
        masked = room
        room = room + rows * R
    if w.projected:
        m = room
        room = room + rows * H
    digits = room + (rows * w.N_hh if w.normal else 0)
    # a_t += W_hh h_{t-1}
    if w.normal:
        step_product(w.fixed_hh, False, chains, masked, R, rows, w.hh, R, w.N_hh, room, w.N_hh, TILE_SET,
                     <const real *> NULL, backwards, digits)
        for r in range(rows):
            q = a + r * S + w.from_hh
            scale = normalise(room + r * w.N_hh, <const real *> w.gain_hh, q,
                              normed + r * w.N_hh if normed != NULL else NULL, past, q, w.N_hh)
            if rate != NULL:
                rate[r] = scale
    else:
        step_product(w.fixed_hh, False, chains, masked, R, rows, w.hh, R, w.N_hh, a + w.from_hh, S, TILE_ADD,
                     <const real *> NULL, backwards, digits)
    # h_t from a_t
    if w.cell <= IDENTITY:
        cell_forward(w.cell, a, h, rows * H)
    elif w.cell == LSTM:
        for r in range(rows):
            lstm_forward(a + r * S, ph, c_before + r * H, c + r * H, m + r * H, H)
        if w.projected:
            # h_t = W_hr m_t
            product(chains_for(<real *> NULL, H, R), m, H, 1, rows, 1, 0, <const real *> w.hr, H, R, h, R, 0, TILE_SET,
                    <const real *> NULL, backwards)
    elif w.cell == GRU:
        for r in range(rows):
            gru_forward(GRU_ALL, a + r * S, h_before + r * H, h + r * H, H)
    else:
        for r in range(rows):
            gru_forward(GRU_RESET, a + r * S, masked + r * H, <real *> NULL, H)
        # a_n += W_hn s
        product(chains_for(<real *> NULL, H, H), a + 3 * H, S, 1, rows, 1, 0, <const real *> w.hn, H, H, a, S, 0,
                TILE_ADD, <const real *> NULL, backwards)
        for r in range(rows):
            gru_forward(GRU_UPDATE, a + r * S, h_before + r * H, h + r * H, H)


cdef inline void put_by(bint past, real *to, const real *numbers, ptrdiff_t n) noexcept nogil:
    """Copy what is kept for the backward pass."""
    if past:
        past_copy(to, numbers, n * sizeof(real))
    else:
        memcpy(to, numbers, n * sizeof(real))


cdef void input_rows(
    Panels w, ptrdiff_t rows,
    real *a,       # INOUT (rows, S): W_ih x in, without bias where the layer is normalised; p out
    real *normed,  # OUT (rows, N_ih) or NULL: LN(W_ih x)
    real *rate,    # OUT (rows,) or NULL
    bint past,     # `normed` is to go past the caches
) noexcept nogil:
    """What is left to do for p, once the input product is there."""
    cdef ptrdiff_t H = w.H, S = w.S, N = w.N_ih, r
    cdef double scale
    if w.normal:
        for r in range(rows):
            scale = normalise(a + r * S, <const real *> w.gain_ih, <const real *> w.bias,
                              normed + r * N if normed != NULL else NULL, past, a + r * S, N)
            if rate != NULL:
                rate[r] = scale
    if w.cell == GRU:
        for r in range(rows):
            # q = b_hn + ...
            memcpy(a + r * S + 3 * H, w.bias_q, H * sizeof(real))


cdef inline bint more_input(Panels w) noexcept nogil:
    """Whether `input_rows` has anything to do."""
    return w.normal or w.cell == GRU


cdef void whole_step(
    Panels w, ptrdiff_t rows, bint backwards,
    const real *x,          # IN (rows, I), or NULL
    const int64_t *tokens,  # IN (rows,), or NULL
    real *a,                # WORK (rows, S); may be h of an Elman cell
    const real *h_before, const real *c_before, real *h, real *c, real *room,  # as in `step`
) noexcept nogil:
    """One time step by itself: the same sums as in `unroll_rows`.

    Here every step reads W_ih too. Its panels and those of W_hh are read column group by column group, so that the
    way back over both begins with what was used last: of twice what a cache holds, half is still there (H = 640,
    float32, 3.3 MB of weights and 2 MB of cache: 86 us become 58).
    """
    cdef ptrdiff_t I = w.I, N = w.N_ih, R = w.R, L = lanes_of(<real *> NULL), Np = padded(<real *> NULL, N)
    cdef ptrdiff_t panels = panel_count(<real *> NULL, N), groups, g, k, b, first, width
    cdef int chains = chains_for(<real *> NULL, R, N)
    cdef const real *hh = <const real *> w.hh
    cdef const real *ih = <const real *> w.ih
    cdef const real *bias = <const real *> w.bias
    if tokens != NULL:
        for b in range(rows):
            check(0 <= tokens[b] < I, b"token")
            memcpy(a + b * w.S, ih + tokens[b] * Np, N * sizeof(real))
    # Enough rows hide the reading; a group of TILE_ROW_PANELS panels is cut into panels as the whole matrix is.
    if (rows >= 4 or w.cell > IDENTITY or tokens != NULL or w.normal or panels <= TILE_ROW_PANELS or w.fixed_ih
            or w.fixed_hh):
        if tokens == NULL:
            if w.normal:
                bias = NULL
            step_product(w.fixed_ih, False, 1, x, I, rows, ih, I, N, a, w.S, TILE_SET, bias, backwards, room)
        if more_input(w):
            input_rows(w, rows, a, <real *> NULL, <real *> NULL, False)
        step(w, rows, backwards, a, h_before, c_before, h, c, <const real *> NULL, <real *> NULL, <real *> NULL,
             False, room)
        return
    groups = ceil_div(panels, TILE_ROW_PANELS)
    for k in range(groups):
        g = groups - 1 - k if backwards else k
        first = panel_start(<real *> NULL, N, g * TILE_ROW_PANELS) * L
        width = N - first if g == groups - 1 else panel_start(<real *> NULL, N, (g + 1) * TILE_ROW_PANELS) * L - first
        # a_t = W_ih x_t + b_ih + b_hh + W_hh h_{t-1}
        product(1, x, I, 1, rows, 1, 0, ih + first * I, I, width, a + first, N, 0, TILE_SET, bias + first, backwards)
        product(chains, h_before, R, 1, rows, 1, 0, hh + first * R, R, width, a + first, N, 0, TILE_ADD,
                <const real *> NULL, backwards)
    # h_t = f(a_t)
    cell_forward(w.cell, a, h, rows * N)
