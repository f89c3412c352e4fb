# Products with a weight matrix in whole numbers, see _digits.h and _fixed.h.
#
# A row has the same bits wherever it stands, alone or in a batch, so what decides between this and the tile is the
# matrix that it is multiplied by.

cdef extern from "_fixed.h" nogil:
    const ptrdiff_t FIXED_TOGETHER
    const ptrdiff_t FIXED_ROWS
    const ptrdiff_t FIXED_TIMES
    const ptrdiff_t FIXED_LONGEST
    ctypedef struct fixed_rows:
        ptrdiff_t count
        ptrdiff_t each
        uint8_t *digits
        float *left
    ctypedef struct fixed_lines:
        const float *head
        const float *body
        ptrdiff_t head_lines
        ptrdiff_t ld
    const float *fixed_line(const fixed_lines *lines, ptrdiff_t k)
    ptrdiff_t fixed_size(ptrdiff_t K, ptrdiff_t N)
    ptrdiff_t fixed_each(ptrdiff_t K)
    bint fixed_add_row(fixed_rows *rows, const float *a, const float *up, ptrdiff_t K, float *c)
    ptrdiff_t fixed_padded(ptrdiff_t K)
    void fixed_count_columns(const float *const *row, ptrdiff_t columns, ptrdiff_t K, char *out)
    void fixed_count_row(const float *row, ptrdiff_t N, ptrdiff_t k, ptrdiff_t K, char *out)
    bint fixed_set_powers(ptrdiff_t K, char *out)
    bint fixed_pack_columns(const float *const *row, ptrdiff_t columns, ptrdiff_t group, ptrdiff_t K, char *out)
    bint fixed_pack_lines(const fixed_lines *lines, ptrdiff_t first, ptrdiff_t columns, ptrdiff_t group, ptrdiff_t K,
                          char *out)
    double fixed_number(const char *packed, ptrdiff_t K, ptrdiff_t n, ptrdiff_t k)
    void fixed_multiply(const fixed_rows *rows, const char *packed, ptrdiff_t K, ptrdiff_t N, bint fine,
                        const float *bias, bint add, bint backwards)

cdef enum:
    # A row alone takes no longer than with the tile from here on: what is smaller is in the nearest cache.
    FIXED_FROM = 16_000
    FIXED_TERMS = 96  # and K; rows of 64 take a fifth longer
    # Backwards a matrix is packed twice: as it is, for whoever asks the tape for it, and as whole numbers.  For dx ...
    FIXED_INPUT_FROM = 65_000
    # ... and in the recurrence, where a row alone takes longer than with the tile if W_hh is in the second-level cache.
    FIXED_BACK_FROM = 500_000

    # All tiles of a product are as high as its highest: 17 rows as 16 and one take three quarters of the time, if
    # reading the matrix again is little work.
    FIXED_TAIL = 4
    FIXED_TAIL_TO = 500_000

cdef ptrdiff_t fixed_from = FIXED_FROM
cdef ptrdiff_t fixed_input_from = FIXED_INPUT_FROM
cdef ptrdiff_t fixed_back_from = FIXED_BACK_FROM
cdef ptrdiff_t fixed_terms = FIXED_TERMS


cdef bint fixed_wants(ptrdiff_t least, ptrdiff_t K, ptrdiff_t N) noexcept nogil:
    """Whether a matrix of that size is for here, if its numbers are."""
    return amx_used and K * N >= least and fixed_terms <= K <= FIXED_LONGEST


cdef bint fixed_pack(const float *w, ptrdiff_t late, ptrdiff_t K, ptrdiff_t N, void *out) noexcept nogil:
    """w^T, w (N, K); column j is row (j + late) mod N. Returns whether it is for here; if not, out holds anything."""
    cdef const float *row[16]
    cdef ptrdiff_t way, n, columns, j
    memset(out, 0, 3 * fixed_padded(K) * sizeof(float))
    for way in range(2):
        for n in range(0, N, 16):
            columns = min(N - n, <ptrdiff_t> 16)
            for j in range(columns):
                row[j] = w + (n + j + late) % N * K
            if way == 0:
                fixed_count_columns(row, columns, K, <char *> out)
            elif not fixed_pack_columns(row, columns, n // 16, K, <char *> out):
                return False
        if way == 0 and not fixed_set_powers(K, <char *> out):
            return False
    return True


cdef bint fixed_pack_back(const float *w, ptrdiff_t late, ptrdiff_t K, ptrdiff_t N, void *out) noexcept nogil:
    """W (K, N), row k of which is row (k + late) mod K of w.  Returns as `fixed_pack`."""
    cdef fixed_lines lines
    cdef ptrdiff_t k, n
    lines.head, lines.head_lines, lines.body, lines.ld = w + late * N, K - late, w, N
    memset(out, 0, 3 * fixed_padded(K) * sizeof(float))
    for k in range(K):
        fixed_count_row(fixed_line(&lines, k), N, k, K, <char *> out)
    if not fixed_set_powers(K, <char *> out):
        return False
    for n in range(0, N, 16):
        if not fixed_pack_lines(&lines, n, min(N - n, <ptrdiff_t> 16), n // 16, K, <char *> out):
            return False
    return True


cdef inline ptrdiff_t fixed_room(ptrdiff_t K, ptrdiff_t rows) noexcept nogil:
    """Bytes that `fixed_product` wants."""
    cdef ptrdiff_t most = FIXED_TIMES * rows
    most = most if most <= 16 else min(ceil_div(most, 32) * 32, FIXED_ROWS)
    return fixed_padded(K) * sizeof(float) + fixed_each(K) * most + LINE


cdef void fixed_product(
    const float *a, ptrdiff_t a_row, ptrdiff_t rows, ptrdiff_t sets, ptrdiff_t a_set, const void *packed, ptrdiff_t K,
    ptrdiff_t N, bint fine, float *c, ptrdiff_t ldc, ptrdiff_t c_set, int start, const float *bias, bint backwards,
    void *room
) noexcept nogil:
    """`product` with a matrix that `fixed_pack` has packed; fine: see _digits.h. room: see `fixed_room`."""
    cdef fixed_rows some
    cdef ptrdiff_t all = rows * sets, most = ceil_div(all, ceil_div(all, FIXED_TOGETHER)), s, r
    if 16 < all <= FIXED_TOGETHER and all % 16 <= FIXED_TAIL and N * K < FIXED_TAIL_TO:
        most = all - all % 16
    some.count, some.each = 0, fixed_each(K)
    some.left = <float *> (ceil_div(<ptrdiff_t> room, LINE) * LINE)
    some.digits = <uint8_t *> (some.left + fixed_padded(K))
    for s in range(sets):
        for r in range(rows):
            if not fixed_add_row(&some, a + s * a_set + r * a_row, <const float *> packed, K, c + s * c_set + r * ldc):
                fixed_one_by_one(a + s * a_set + r * a_row, packed, K, N, c + s * c_set + r * ldc, start, bias)
            elif some.count >= most:
                fixed_multiply(&some, <const char *> packed, K, N, fine, bias, start == TILE_ADD, backwards)
                some.count = 0
    if some.count:
        fixed_multiply(&some, <const char *> packed, K, N, fine, bias, start == TILE_ADD, backwards)


cdef void fixed_one_by_one(
    const float *a, const void *packed, ptrdiff_t K, ptrdiff_t N, float *c, int start, const float *bias
) noexcept nogil:
    """`fixed_product` of a row with inf or NaN, or one near the upper end of float32's range."""
    cdef ptrdiff_t n, k
    cdef double sum_
    for k in range(K):
        if a[k] != a[k]:
            for n in range(N):
                c[n] = a[k]
            return
    for n in range(N):
        sum_ = c[n] if start == TILE_ADD else bias[n] if bias != NULL else 0
        for k in range(K):
            sum_ += a[k] * fixed_number(<const char *> packed, K, n, k)
        c[n] = <float> sum_


cdef inline void step_product(
    bint fixed, bint fine, int chains, const real *a, ptrdiff_t a_row, ptrdiff_t rows, const void *packed, ptrdiff_t K,
    ptrdiff_t N, real *c, ptrdiff_t ldc, int start, const real *bias, bint backwards, void *room
) noexcept nogil:
    """`product` of a single set of rows, in whole numbers if said so."""
    if real is float:
        if fixed:
            fixed_product(a, a_row, rows, 1, 0, packed, K, N, fine, c, ldc, 0, start, bias, backwards, room)
            return
    product(chains, a, a_row, 1, rows, 1, 0, <const real *> packed, K, N, c, ldc, 0, start, bias, backwards)
