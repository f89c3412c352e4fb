# Products on the AMX unit, see _amx.h.
#
# A row has the same bits wherever it stands, alone or in a batch, so what decides between the unit and the tile is the
# matrix that it is multiplied by, or that row.  Weight gradients are sums over all rows; there it may be anything that
# doesn't depend on the number of threads.

cdef extern from "_amx.h" nogil:
    const bint AMX_BUILT
    const ptrdiff_t AMX_ROWS
    const ptrdiff_t AMX_K
    const ptrdiff_t AMX_DEPTH
    const ptrdiff_t AMX_RING
    ctypedef struct amx_source:
        const float *from_ "from"
        ptrdiff_t ld
        ptrdiff_t k
        int vectors
    ptrdiff_t amx_size(ptrdiff_t vectors, ptrdiff_t K)
    bint amx_row_fits(const float *v, ptrdiff_t n)
    bint amx_panel_fits(const float *panel, ptrdiff_t K, int width)
    void amx_split_left(const float *const *a, ptrdiff_t a_k, ptrdiff_t rows, ptrdiff_t start, ptrdiff_t K, char *out,
                        ptrdiff_t each)
    bint amx_split_right(const float *head, ptrdiff_t head_rows, const float *body, ptrdiff_t ld, ptrdiff_t K,
                         ptrdiff_t N, char *out)
    void amx_cut_step(const amx_source *b, char *to)
    void amx_begin(ptrdiff_t rows)
    void amx_end()
    void amx_panel(const char *left, ptrdiff_t rows, char *right, ptrdiff_t columns, ptrdiff_t each, ptrdiff_t steps,
                   float *c, ptrdiff_t ldc, bint add)
    void amx_strips(const char *left, ptrdiff_t rows, const float *panel, int width, ptrdiff_t K,
                    const amx_source *next, float *const *c, ptrdiff_t column, ptrdiff_t columns, bint add, char *ring,
                    ptrdiff_t *at)

cdef enum:
    # Gradients of smaller matrices, and sums over fewer rows, take longer to split than the unit saves.
    AMX_FROM = 10_000
    AMX_FROM_ROWS = 128
    # A row of dx has its bits in calls of one step too, where the splitting is for that row alone: for a smaller W_ih,
    # or calls of fewer than some 20 rows, it takes longer.
    AMX_INPUT_FROM = 65_000
    # A matrix this large comes from beyond the second-level cache every time.  A row alone then takes about as long
    # as with the tile, from 8 rows on a step is faster; one that is half in cache would have a row alone wait for the
    # splitting (1M numbers: 150 us a step for 95).
    AMX_STEP_FROM = 3_000_000
    AMX_TOGETHER = 192  # rows that read a matrix once
    AMX_LEFT = 48       # AMX_ROWS x AMX_DEPTH of them that are split at once, for all panels
    AMX_OUTER_ROWS = 512  # as OUTER_ROWS: half as many, as the parts take half as much again

cdef bint amx_used = False
cdef ptrdiff_t amx_from = AMX_FROM
cdef ptrdiff_t amx_from_rows = AMX_FROM_ROWS
cdef ptrdiff_t amx_input_from = AMX_INPUT_FROM
cdef ptrdiff_t amx_step_from = AMX_STEP_FROM


def use_amx(
    bint use, *, ptrdiff_t numbers=AMX_FROM, ptrdiff_t rows=AMX_FROM_ROWS, ptrdiff_t input_numbers=AMX_INPUT_FROM,
    ptrdiff_t step_numbers=AMX_STEP_FROM
):
    """Say whether products of large float32 matrices go to the AMX unit, which the process must be allowed to use.

    Parameters
    ----------
    use : bool
    numbers : int
        Of a matrix whose gradient does.
    rows : int
        Of a chunk of time whose weight gradients do.
    input_numbers : int
        Of W_ih if dx does.
    step_numbers : int
        Of a matrix whose other products do: those of the forward pass, and of the recurrence backwards.
    """
    global amx_used, amx_from, amx_from_rows, amx_input_from, amx_step_from
    amx_used, amx_from, amx_from_rows = use and AMX_BUILT, numbers, rows
    amx_input_from, amx_step_from = input_numbers, step_numbers


cdef bint amx_fits(const float *packed, ptrdiff_t K, ptrdiff_t N) noexcept nogil:
    """Whether all columns of a packed matrix do."""
    cdef ptrdiff_t L = LANES_F32, p, first
    for p in range(panel_count(<float *> NULL, N)):
        first = panel_start(<float *> NULL, N, p)
        if not amx_panel_fits(packed + first * L * K, K, <int> (panel_start(<float *> NULL, N, p + 1) - first)):
            return False
    return True


cdef bint amx_pack(
    const float *w, ptrdiff_t late, ptrdiff_t K, ptrdiff_t N, float *packed
) noexcept nogil:
    """`pack_transposed`, and whether all columns fit: looked at while they are in cache."""
    cdef ptrdiff_t L = LANES_F32, p, first, next
    cdef bint fit = True
    for p in range(panel_count(<float *> NULL, N)):
        first, next = panel_start(<float *> NULL, N, p), panel_start(<float *> NULL, N, p + 1)
        pack_panel_transposed(w, K, late, K, N, p, packed + first * L * K)
        fit = fit and amx_panel_fits(packed + first * L * K, K, <int> (next - first))
    return fit


cdef inline ptrdiff_t amx_rows(ptrdiff_t rows) noexcept nogil:
    """Groups of 16."""
    return ceil_div(rows, AMX_ROWS)


cdef inline ptrdiff_t amx_room(ptrdiff_t K) noexcept nogil:
    """Bytes that `amx_product` wants."""
    cdef ptrdiff_t groups = min(<ptrdiff_t> AMX_LEFT, amx_rows(AMX_TOGETHER) * ceil_div(K, AMX_DEPTH))
    return AMX_RING + LINE + groups * amx_size(1, AMX_DEPTH)


cdef void amx_product(
    int chains, const float *a, ptrdiff_t a_row, ptrdiff_t a_k, ptrdiff_t rows, ptrdiff_t sets, ptrdiff_t a_set,
    const float *packed, ptrdiff_t K, ptrdiff_t N, float *c, ptrdiff_t ldc, ptrdiff_t c_set, int start,
    const float *bias, bint backwards, void *room
) noexcept nogil:
    """`product` on the unit, with a matrix that fits; a_k is 1 or -1.  room: see `amx_room`."""
    cdef const float *a_at[AMX_TOGETHER]
    cdef float *c_at[AMX_TOGETHER]
    cdef ptrdiff_t most = ceil_div(rows * sets, ceil_div(rows * sets, <ptrdiff_t> AMX_TOGETHER)), n = 0, s, r
    cdef char *aligned = <char *> (ceil_div(<ptrdiff_t> room, LINE) * LINE)
    cdef bint add = start == TILE_ADD or bias != NULL
    for s in range(sets):
        for r in range(rows):
            a_at[n], c_at[n] = a + s * a_set + r * a_row, c + s * c_set + r * ldc
            if not amx_row_fits(a_at[n] if a_k > 0 else a_at[n] + 1 - K, K):
                product(chains, a_at[n], a_row, a_k, 1, 1, 0, packed, K, N, c_at[n], ldc, 0, start, bias, backwards)
                continue
            if bias != NULL:
                memcpy(c_at[n], bias, N * sizeof(float))
            n += 1
            if n == most:
                amx_some_rows(a_at, a_k, n, packed, K, N, c_at, add, aligned)
                n = 0
    if n:
        amx_some_rows(a_at, a_k, n, packed, K, N, c_at, add, aligned)


cdef void amx_some_rows(
    const float *const *a, ptrdiff_t a_k, ptrdiff_t rows, const float *packed, ptrdiff_t K, ptrdiff_t N,
    float *const *c, bint add, char *ring
) noexcept nogil:
    # always from the first panel on: of a matrix so large hardly any is in cache, and fetching ahead goes on from panel
    # to panel (64 rows, 1024 x 4096 numbers: 10% less than back and forth)
    cdef ptrdiff_t L = LANES_F32, panels = panel_count(<float *> NULL, N), groups = amx_rows(rows)
    cdef ptrdiff_t most = max(AMX_LEFT // groups, <ptrdiff_t> 1) * AMX_DEPTH, each = amx_size(1, AMX_DEPTH)
    cdef ptrdiff_t k = 0, depth, p, j, first = 0, width = 0, column = 0, at = 0
    cdef int wide = 0
    cdef char *left = ring + AMX_RING
    cdef const float *panel = NULL
    cdef amx_source next
    amx_begin(rows)
    while k < K:
        depth = min(K - k, most)
        for j in range(ceil_div(depth, AMX_DEPTH)):
            amx_split_left(a, a_k, rows, k + j * AMX_DEPTH, min(depth - j * AMX_DEPTH, AMX_DEPTH),
                           left + j * groups * each, each)
        for p in range(panels + 1):
            # a panel begins while the one before ends
            if p < panels:
                first = panel_start(<float *> NULL, N, p)
                width = panel_start(<float *> NULL, N, p + 1) - first
                next.from_, next.ld, next.k = packed + first * L * K + k * width * L, width * L, depth
                next.vectors = <int> (width if rows <= AMX_ROWS else min(width, <ptrdiff_t> 2))
            else:
                next.from_ = NULL
            if p == 0:
                amx_cut_step(&next, ring + at)
            else:
                amx_strips(left, rows, panel, wide, depth, &next, c, column, min(wide * L, N - column), add or k > 0,
                           ring, &at)
            panel, wide, column = next.from_, <int> width, first * L
        k += depth
    amx_end()


cdef inline void large_product(
    bint unit, int chains, const real *a, ptrdiff_t a_row, ptrdiff_t a_k, ptrdiff_t rows, const real *packed,
    ptrdiff_t K, ptrdiff_t N, real *c, ptrdiff_t ldc, int start, const real *bias, bint backwards, void *room
) noexcept nogil:
    """`product` of a single set of rows, on the unit if said so."""
    if real is float:
        if unit:
            amx_product(chains, a, a_row, a_k, rows, 1, 0, packed, K, N, c, ldc, 0, start, bias, backwards, room)
            return
    product(chains, a, a_row, a_k, rows, 1, 0, packed, K, N, c, ldc, 0, start, bias, backwards)


cdef bint amx_turn(
    const float *v, ptrdiff_t ld, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t parts, ptrdiff_t part, float *room,
    char *left
) noexcept nogil:
    """A part of v (rows, columns) transposed, as a left operand; whether all of it fits."""
    cdef ptrdiff_t groups = amx_rows(columns), each = amx_size(1, rows), g, first, n, k, depth, i
    cdef const float *turned[16]
    cdef bint fits = True
    check(AMX_ROWS == 16, b"rows of a tile")
    for g in range(block_start(groups, parts, part), block_start(groups, parts, part + 1)):
        first = g * AMX_ROWS
        n = min(AMX_ROWS, columns - first)
        k = 0
        while k < rows:
            depth = min(rows - k, <ptrdiff_t> BLOCK_K)
            turn(v + k * ld + first, ld, depth, n, room)
            for i in range(n):
                turned[i] = room + i * depth
                fits = fits and amx_row_fits(turned[i], depth)
            amx_split_left(turned, 1, n, 0, depth, left + g * each + amx_size(1, k), each)
            k += depth
    return fits


cdef inline void amx_outer(
    const char *left, ptrdiff_t first, ptrdiff_t last, ptrdiff_t K, char *right, ptrdiff_t columns, float *c,
    ptrdiff_t ldc, int start
) noexcept nogil:
    """C (+)= rows first..last-1 of A (M, K) times B (K, columns), both split."""
    check(first % AMX_ROWS == 0, b"row of a left operand")
    amx_panel(left + first // AMX_ROWS * amx_size(1, K), last - first, right, columns, amx_size(1, K),
              ceil_div(K, AMX_K), c, ldc, start == TILE_ADD)
