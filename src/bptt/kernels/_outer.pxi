# Sums over the rows of a chunk: weight gradients with the tile, those of vectors in double.


cdef enum:
    # Row lengths up to which the weight gradients read h and x, and da, in place.  Rows further apart fall on few
    # cache sets: then h and x are copied, and da is transposed.
    DIRECT_COLUMNS = 64
    DIRECT_ROWS = 256
    # Rows of a weight gradient summed at once: BLOCK_K rows of da, so many wide, stay in cache from panel to panel.
    OUTER_ROWS = 1024
    DEEP_FROM = 500_000  # numbers of a W_ih that stays in no cache while rows of da go through it


cdef inline ptrdiff_t outer_groups(ptrdiff_t M) noexcept nogil:
    return ceil_div(M, OUTER_ROWS)


cdef inline ptrdiff_t outer_items(real *kind, ptrdiff_t M, ptrdiff_t N) noexcept nogil:
    """Items of `outer_panel` in all."""
    return panel_count(kind, N) * outer_groups(M)


cdef inline ptrdiff_t outer_start(ptrdiff_t M, ptrdiff_t groups, ptrdiff_t k) noexcept nogil:
    """Row of dW where group k begins: one that a tile of the AMX unit begins with."""
    return min(M, AMX_ROWS * block_start(amx_rows(M), groups, k))


cdef void turn(const real *v, ptrdiff_t ld, ptrdiff_t rows, ptrdiff_t columns, real *out) noexcept nogil:
    """out (columns, rows) = v (rows, columns) transposed."""
    cdef ptrdiff_t L = lanes_of(<real *> NULL)
    cdef ptrdiff_t whole = rows // L * L, r, j
    for r in range(rows // L):
        pack_turned(v + r * L * ld, ld, L, columns, out + r * L, rows)
    for j in range(columns):
        for r in range(whole, rows):
            out[j * rows + r] = v[r * ld + j]


cdef void turn_columns(
    const real *v, ptrdiff_t ld, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t parts, ptrdiff_t k, real *out
) noexcept nogil:
    """Part k of `turn`."""
    cdef ptrdiff_t first = block_start(columns, parts, k)
    turn(v + first, ld, rows, block_start(columns, parts, k + 1) - first, out + first * rows)


cdef void put_rows(
    Course course, ptrdiff_t start, ptrdiff_t end, ptrdiff_t first, ptrdiff_t last, const real *rows, ptrdiff_t width,
    real *array
) noexcept nogil:
    """Rows first..last-1 of a chunk to where they belong in array (T, B, width)."""
    cdef ptrdiff_t base = course.before(start), s, r, k
    for s in range(start, end):
        for r in range(course.alive(s)):
            k = course.before(s) - base + r
            if first <= k < last:
                memcpy(array + course.at(s, r) * width, rows + k * width, width * sizeof(real))


ctypedef struct LeftOperand:
    const char *digits  # of da^T for the AMX unit, or NULL; see _split.h
    const char *unfit   # whether 16 of its rows don't fit, for each of them

cdef LeftOperand no_left
no_left.digits = no_left.unfit = NULL


cdef void outer_panel(
    const real *da, ptrdiff_t a_row, ptrdiff_t a_k, LeftOperand left, ptrdiff_t M, ptrdiff_t late, ptrdiff_t rows,
    const real *head, ptrdiff_t head_rows, const real *body, ptrdiff_t N, ptrdiff_t item, real *scratch, char *right,
    real *dw, int start
) noexcept nogil:
    """dW (M, N) (+)= da^T v for one group of rows and the columns of one panel; see `outer_items`.

    da^T[i, k] = da[i * a_row + k * a_k]; the first `late` of its rows are the last ones of dW.  v (rows, N) is
    head_rows rows of head, then body.  right: room for a panel of v as digits.
    """
    cdef ptrdiff_t L = lanes_of(<real *> NULL)
    cdef ptrdiff_t panels = panel_count(<real *> NULL, N), p = item % panels, groups = outer_groups(M)
    cdef ptrdiff_t first = outer_start(M, groups, item // panels), end = outer_start(M, groups, item // panels + 1)
    cdef ptrdiff_t column = panel_start(<real *> NULL, N, p) * L
    cdef ptrdiff_t columns = min(N, panel_start(<real *> NULL, N, p + 1) * L) - column, last
    cdef bint fits = False
    cdef real *to
    if real is float:
        fits = left.digits != NULL and amx_split_right(head + column if head_rows else NULL, head_rows, body + column,
                                                       N, rows, columns, right)
    while first < end:
        last = min(late, end) if first < late else end
        if fits:
            last = alike_until(left.unfit, first, last)
        to = dw + (first - late + (M if first < late else 0)) * N + column
        if not fits or left.unfit[first // AMX_ROWS]:
            outer_tile(da + first * a_row, a_row, a_k, last - first, rows, head, head_rows, body, N, p, scratch, to,
                       start)
        elif real is float:
            amx_outer(left.digits, first, last, rows, right, columns, to, N, start)
        first = last


cdef inline ptrdiff_t alike_until(const char *unfit, ptrdiff_t first, ptrdiff_t end) noexcept nogil:
    """Up to where all rows fit, or none of them."""
    cdef ptrdiff_t last = first + AMX_ROWS
    while last < end and unfit[last // AMX_ROWS] == unfit[first // AMX_ROWS]:
        last += AMX_ROWS
    return min(last, end)


cdef void outer_tile(
    const real *da, ptrdiff_t a_row, ptrdiff_t a_k, ptrdiff_t M, ptrdiff_t rows, const real *head, ptrdiff_t head_rows,
    const real *body, ptrdiff_t N, ptrdiff_t p, real *scratch, real *dw, int start
) noexcept nogil:
    """`outer_panel` of M rows with the tile."""
    cdef ptrdiff_t L = lanes_of(<real *> NULL), first = panel_start(<real *> NULL, N, p)
    cdef ptrdiff_t width = panel_start(<real *> NULL, N, p + 1) - first
    cdef ptrdiff_t tail = min(L, N - (first + width - 1) * L)
    cdef ptrdiff_t k = 0, depth, from_head, panel_k = N
    cdef const real *panel
    # Rows of v close together and whole vectors: the tile reads them where they lie, else from a copy.
    cdef bint direct = head_rows == 0 and tail == L and N <= DIRECT_COLUMNS
    while k < rows:
        depth = min(rows - k, <ptrdiff_t> BLOCK_K)
        panel = body + k * N + first * L
        if not direct:
            from_head = min(depth, max(<ptrdiff_t> 0, head_rows - k))
            if from_head:
                pack_panel(head + k * N, N, from_head, N, p, scratch)
            if from_head < depth:
                pack_panel(body + (k + from_head - head_rows) * N, N, depth - from_head, N, p,
                           scratch + from_head * width * L)
            panel, panel_k = scratch, width * L
        panel_product(1, <int> width, da + k * a_k, a_row, a_k, M, panel, panel_k, depth, dw, N, tail,
                      start if k == 0 else TILE_ADD, <const real *> NULL, <const real *> NULL)
        k += depth


cdef void scatter_rows(
    const real *da, ptrdiff_t ld, ptrdiff_t N, ptrdiff_t rows, const int64_t *tokens, real *table, ptrdiff_t ld_table
) noexcept nogil:
    cdef ptrdiff_t r, j
    cdef real *into
    for r in range(rows):
        into = table + tokens[r] * ld_table
        for j in range(N):
            into[j] = into[j] + da[r * ld + j]


cdef enum:
    # Columns summed at once, in double: a float32 sum of hundreds of rows would be the least accurate result. They are
    # whole rows of most layers: 64 at a time took 4 ms of 57 (LSTM, 100 steps, 32 rows, 256 units).
    SUMS = 1024


cdef void column_sums(
    const real *v, ptrdiff_t N, ptrdiff_t ld, ptrdiff_t rows, real *total, bint add
) noexcept nogil:
    """total (N,) (+)= sum of v (rows, N) over its rows."""
    cdef ptrdiff_t fours = rows // 4, r, k, j = 0, width
    cdef double s[SUMS]
    cdef const real *at
    while j < N:
        width = min(N - j, <ptrdiff_t> SUMS)
        memset(s, 0, width * sizeof(double))
        at = v + j
        # four at a time: making doubles is most of the work, and a sum of four loses little
        for r in range(fours):
            for k in range(width):
                s[k] = s[k] + ((at[k] + at[ld + k]) + (at[2 * ld + k] + at[3 * ld + k]))
            at = at + 4 * ld
        for r in range(4 * fours, rows):
            for k in range(width):
                s[k] = s[k] + at[k]
            at = at + ld
        put_sums(s, total + j, width, add)
        j += width


cdef void put_sums(const double *s, real *total, ptrdiff_t n, bint add) noexcept nogil:
    cdef ptrdiff_t k
    for k in range(n):
        total[k] = <real> ((total[k] if add else 0) + s[k])


cdef inline ptrdiff_t summed_together(ptrdiff_t B) noexcept nogil:
    """Rows of a batch whose sums are one: of threads that share the rows each has whole groups of them."""
    return 8 if B >= 32 else 4


cdef inline ptrdiff_t sum_groups(ptrdiff_t B) noexcept nogil:
    return ceil_div(B, summed_together(B))


cdef inline ptrdiff_t row_sums(Panels w) noexcept nogil:
    """Numbers of such sums: of da, and of da times what is normalised."""
    return w.S + w.N_ih + w.N_hh


cdef inline void add_double(const real *v, ptrdiff_t n, double *sums) noexcept nogil:
    """sums (n,) += v."""
    cdef ptrdiff_t k
    for k in range(n):
        sums[k] = sums[k] + v[k]


cdef void put_row_sums(BpttJob job, Panels w, double *sums, bint add, real *kind) noexcept nogil:
    """A chunk's sums of rows, see `BpttJob.sums`, to the gradients; they begin anew."""
    cdef ptrdiff_t width = row_sums(w), groups = sum_groups(job.course.B), g, k
    for g in range(1, groups):
        for k in range(width):
            sums[k] = sums[k] + sums[g * width + k]
    if job.dbias != NULL:
        put_sums(sums, <real *> job.dbias, w.S, add)
    put_sums(sums + w.S, <real *> job.dgain, w.N_ih, add)
    put_sums(sums + w.S + w.N_ih, <real *> job.dw[7], w.N_hh, add)
    memset(sums, 0, groups * width * sizeof(double))


cdef void peephole_sums(
    BpttJob job, Course course, ptrdiff_t start, ptrdiff_t end, const real *da, real *total, bint add
) noexcept nogil:
    """total (3 H,) (+)= sums over the rows of a chunk of da_i c_{t-1}, da_f c_{t-1} and da_o (f c_{t-1} + i g)."""
    cdef ptrdiff_t H = job.weights.H, S = job.weights.S, s, r, k, j = 0, width, row, at, gate
    cdef ptrdiff_t back = course.B if course.reverse else -course.B
    cdef const real *a
    cdef const real *d
    cdef const real *c
    cdef double sums[3][SUMS]
    while j < H:
        width = min(H - j, <ptrdiff_t> SUMS)
        for gate in range(3):
            memset(sums[gate], 0, width * sizeof(double))
        row = 0
        for s in range(start, end):
            for r in range(course.alive(s)):
                at = course.at(s, r)
                a, d = <const real *> job.gates + at * S + j, da + row * S + j
                if course.resets(s, r):
                    c = <const real *> job.c_0 + course.row(r) * H + j
                elif s == 0:
                    c = <const real *> job.c_begin + course.row(r) * H + j
                else:
                    c = <const real *> job.c + (at + back) * H + j
                for k in range(width):
                    sums[0][k] = sums[0][k] + <double> d[k] * c[k]
                    sums[1][k] = sums[1][k] + <double> d[H + k] * c[k]
                    sums[2][k] = sums[2][k] + <double> d[3 * H + k] * (a[H + k] * c[k] + a[k] * a[2 * H + k])
                row += 1
        for gate in range(3):
            put_sums(sums[gate], total + gate * H + j, width, add)
        j += width
