# Weight gradients on the AMX unit, see _amx.h.  They are sums over all rows: what decides between it and the tile may
# be anything that doesn't depend on the number of threads.

cdef extern from "_amx.h" nogil:
    const bint AMX_BUILT
    const ptrdiff_t AMX_ROWS
    const ptrdiff_t AMX_DEEP
    ptrdiff_t amx_size(ptrdiff_t vectors, ptrdiff_t K)
    void amx_split_left(const float *v, ptrdiff_t ld, ptrdiff_t rows, ptrdiff_t K, char *out, ptrdiff_t each,
                        char *unfit)
    bint amx_split_right(const float *head, ptrdiff_t head_rows, const float *body, ptrdiff_t ld, ptrdiff_t K,
                         ptrdiff_t N, char *out)
    void amx_panel(const char *left, ptrdiff_t rows, const char *right, ptrdiff_t columns, ptrdiff_t K, float *c,
                   ptrdiff_t ldc, bint add)

cdef enum:
    # Gradients of smaller matrices, and sums over fewer rows, take longer to split than the unit saves.
    AMX_FROM = 10_000
    AMX_FROM_ROWS = 64
    AMX_TURNED = 4  # groups of 16 columns of da split at once: neighbouring cache lines of each row

cdef bint amx_used = False
cdef ptrdiff_t amx_from = AMX_FROM
cdef ptrdiff_t amx_from_rows = AMX_FROM_ROWS


def use_amx(
    bint use, *, ptrdiff_t numbers=AMX_FROM, ptrdiff_t rows=AMX_FROM_ROWS, ptrdiff_t forward_numbers=FIXED_FROM,
    ptrdiff_t input_numbers=FIXED_INPUT_FROM, ptrdiff_t back_numbers=FIXED_BACK_FROM, ptrdiff_t terms=FIXED_TERMS
):
    """Say whether products of large float32 matrices go to the AMX unit, which the process must be allowed to use.

    Parameters
    ----------
    use : bool
    numbers : int
        Of a matrix whose gradient does.
    rows : int
        Of a chunk of time whose weight gradients do.
    forward_numbers : int
        Of a matrix whose products in the forward pass do.
    input_numbers : int
        Of W_ih if dx does.
    back_numbers : int
        Of W_hh if dL/dh does.
    terms : int
        Of a sum of those in the last three.
    """
    global amx_used, amx_from, amx_from_rows, fixed_from, fixed_input_from, fixed_back_from, fixed_terms
    amx_used, amx_from, amx_from_rows = use and AMX_BUILT, numbers, rows
    fixed_from, fixed_input_from, fixed_back_from, fixed_terms = forward_numbers, input_numbers, back_numbers, terms


cdef inline ptrdiff_t amx_rows(ptrdiff_t rows) noexcept nogil:
    """Groups of 16."""
    return ceil_div(rows, AMX_ROWS)


cdef void amx_turn(
    const float *v, ptrdiff_t ld, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t parts, ptrdiff_t part, char *left,
    char *unfit
) noexcept nogil:
    """Part of v (rows, columns) transposed, as a left operand.  unfit: of each 16 columns, whether they don't fit."""
    cdef ptrdiff_t groups = amx_rows(columns), each = amx_size(1, rows), g, last, first, n, k, depth
    check(AMX_ROWS == 16 and BLOCK_K == AMX_DEEP, b"size of a tile")
    g, last = block_start(groups, parts, part), block_start(groups, parts, part + 1)
    memset(unfit + g, 0, last - g)
    while g < last:
        first = g * AMX_ROWS
        n = min(min(last - g, <ptrdiff_t> AMX_TURNED) * AMX_ROWS, columns - first)
        k = 0
        while k < rows:
            depth = min(rows - k, <ptrdiff_t> BLOCK_K)
            amx_split_left(v + k * ld + first, ld, n, depth, left + g * each + amx_size(1, k), each, unfit + g)
            k += depth
        g += AMX_TURNED


cdef inline void amx_outer(
    const char *left, ptrdiff_t first, ptrdiff_t last, ptrdiff_t K, const char *right, ptrdiff_t columns, float *c,
    ptrdiff_t ldc, int start
) noexcept nogil:
    """C (+)= rows first..last-1 of A (M, K) times B (K, columns), both split."""
    check(first % AMX_ROWS == 0, b"row of a left operand")
    amx_panel(left + first // AMX_ROWS * amx_size(1, K), last - first, right, columns, K, c, ldc, start == TILE_ADD)
