# Products of the backward pass on the AMX unit, see _amx.h.
#
# A row of dx has the same bits wherever it stands, alone or in a batch, so what decides between the unit and the tile
# is W_ih, or that row.  Weight gradients are sums over all rows; there it may be anything that doesn't depend on the
# number of threads.

cdef extern from "_amx.h" nogil:
    const bint AMX_BUILT
    const ptrdiff_t AMX_ROWS
    const ptrdiff_t AMX_K
    ptrdiff_t amx_size(ptrdiff_t vectors, ptrdiff_t K)
    bint amx_row_fits(const float *v, ptrdiff_t n)
    void amx_split_left(const float *a, ptrdiff_t a_row, ptrdiff_t a_k, ptrdiff_t rows, ptrdiff_t K, char *out,
                        ptrdiff_t each)
    bint amx_split_right(const float *head, ptrdiff_t head_rows, const float *body, ptrdiff_t ld, ptrdiff_t K,
                         ptrdiff_t N, char *out, ptrdiff_t each)
    void amx_begin()
    void amx_end()
    void amx_panel(const char *left, ptrdiff_t left_each, ptrdiff_t rows, const char *right, ptrdiff_t right_each,
                   ptrdiff_t columns, ptrdiff_t steps, float *c, ptrdiff_t ldc, bint add)

cdef enum:
    # Smaller matrices, and sums over fewer rows, take longer to split than the unit saves; an Elman layer of 256 units
    # would gain 8%, and calls of a few steps of it lose as much.
    AMX_FROM = 100_000
    AMX_FROM_ROWS = 64
    AMX_DEPTH = 128  # columns of da that go to all panels of W_ih before the next ones
    AMX_OUTER_ROWS = 512  # as OUTER_ROWS: half as many, as the parts take half as much again

cdef bint amx_used = False
cdef ptrdiff_t amx_from = AMX_FROM
cdef ptrdiff_t amx_from_rows = AMX_FROM_ROWS


def use_amx(bint use, *, ptrdiff_t numbers=AMX_FROM, ptrdiff_t rows=AMX_FROM_ROWS):
    """Say whether products of large float32 matrices go to the AMX unit, which the process must be allowed to use.

    Parameters
    ----------
    use : bool
    numbers : int
        Of a matrix that is large.
    rows : int
        Of a chunk of time whose weight gradients do.
    """
    global amx_used, amx_from, amx_from_rows
    amx_used, amx_from, amx_from_rows = use and AMX_BUILT, numbers, rows


cdef inline ptrdiff_t amx_rows(ptrdiff_t rows) noexcept nogil:
    """Groups of 16."""
    return ceil_div(rows, AMX_ROWS)


cdef void amx_product(
    const float *a, ptrdiff_t a_row, ptrdiff_t a_k, ptrdiff_t rows, const float *packed, ptrdiff_t K, ptrdiff_t N,
    float *c, ptrdiff_t ldc, char *right, char *left
) noexcept nogil:
    """C (rows, N) = A (rows, K) W (K, N), W packed; a_k is 1 or -1.

    right, left: room for AMX_DEPTH of a panel and of A.
    """
    cdef ptrdiff_t L = LANES_F32, panels = panel_count(<float *> NULL, N), k = 0, p, depth, first, width, each, end
    cdef const float *panel
    while k < K:
        depth = min(K - k, <ptrdiff_t> AMX_DEPTH)
        each = amx_size(1, depth)
        amx_split_left(a + k * a_k, a_row, a_k, rows, depth, left, each)
        for p in range(panels):
            first = panel_start(<float *> NULL, N, p)
            width = panel_start(<float *> NULL, N, p + 1) - first
            panel = packed + first * L * K + k * width * L
            if amx_split_right(NULL, 0, panel, width * L, depth, width * L, right, each):
                amx_panel(left, each, rows, right, each, min(width * L, N - first * L), ceil_div(depth, AMX_K),
                          c + first * L, ldc, k > 0)
            else:
                panel_product(1, <int> width, a + k * a_k, a_row, a_k, rows, panel, width * L, depth, c + first * L,
                              ldc, min(L, N - (first + width - 1) * L), TILE_SET if k == 0 else TILE_ADD,
                              <const float *> NULL, <const float *> NULL)
        k += depth
    # rows that don't fit
    k = 0
    while k < rows:
        end = k
        while end < rows and not amx_row_fits(a + end * a_row + (0 if a_k > 0 else 1 - K), K):
            end += 1
        if end > k:
            product(1, a + k * a_row, a_row, a_k, end - k, 1, 0, packed, K, N, c + k * ldc, ldc, 0, TILE_SET,
                    <const float *> NULL, False)
        k = end + 1


cdef bint amx_turn(
    const float *v, ptrdiff_t ld, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t parts, ptrdiff_t part, float *room,
    char *left
) noexcept nogil:
    """A part of v (rows, columns) transposed, as a left operand; whether all of it fits."""
    cdef ptrdiff_t groups = amx_rows(columns), each = amx_size(1, rows), g, first, n, k, depth, i
    cdef bint fits = True
    for g in range(block_start(groups, parts, part), block_start(groups, parts, part + 1)):
        first = g * AMX_ROWS
        n = min(AMX_ROWS, columns - first)
        k = 0
        while k < rows:
            depth = min(rows - k, <ptrdiff_t> BLOCK_K)
            turn(v + k * ld + first, ld, depth, n, room)
            for i in range(n):
                fits = fits and amx_row_fits(room + i * depth, depth)
            amx_split_left(room, depth, 1, n, depth, left + g * each + amx_size(1, k), each)
            k += depth
    return fits


cdef inline void amx_outer(
    const char *left, ptrdiff_t first, ptrdiff_t last, ptrdiff_t K, const char *right, ptrdiff_t columns, float *c,
    ptrdiff_t ldc, int start
) noexcept nogil:
    """C (+)= rows first..last-1 of A (M, K) times B (K, columns), both split."""
    check(first % AMX_ROWS == 0, b"row of a left operand")
    amx_panel(left + first // AMX_ROWS * amx_size(1, K), amx_size(1, K), last - first, right, amx_size(1, K), columns,
              ceil_div(K, AMX_K), c, ldc, start == TILE_ADD)
