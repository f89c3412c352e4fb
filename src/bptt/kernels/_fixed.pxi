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
    ptrdiff_t fixed_size(ptrdiff_t K, ptrdiff_t N)
    ptrdiff_t fixed_each(ptrdiff_t K)
    bint fixed_add_row(fixed_rows *rows, const float *a, const float *up, ptrdiff_t K, float *c)
    ptrdiff_t fixed_padded(ptrdiff_t K)
    void fixed_count_columns(const float *const *row, ptrdiff_t columns, ptrdiff_t K, char *out)
    bint fixed_count_lines(const float *const *line, ptrdiff_t k, ptrdiff_t K, ptrdiff_t N, char *out)
    bint fixed_set_units(ptrdiff_t K, ptrdiff_t N, char *out)
    bint fixed_set_powers(ptrdiff_t K, char *out)
    bint fixed_pack_columns(const float *const *row, ptrdiff_t columns, ptrdiff_t group, ptrdiff_t K, char *out)
    void fixed_pack_lines(const float *const *line, ptrdiff_t k, ptrdiff_t K, ptrdiff_t N, char *out)
    double fixed_number(const char *packed, ptrdiff_t K, ptrdiff_t n, ptrdiff_t k)
    void fixed_multiply(const fixed_rows *rows, const char *packed, ptrdiff_t K, ptrdiff_t N, bint fine,
                        const float *bias, bint add, bint backwards)

cdef enum:
    # A row alone takes no longer than with the tile from here on: what is smaller is in the nearest cache.
    FIXED_FROM = 16_000
    FIXED_TERMS = 96  # and K; rows of 64 take a fifth longer
    # Backwards W_hh is packed in two ways, and a row alone takes up to 4% of a forward and a backward pass longer than
    # with the tile; 32 rows take 5 to 20% less.
    FIXED_BACK_FROM = 16_000
    FIXED_INPUT_FROM = 65_000  # of W_ih, for dx: there 32 rows gain less from a smaller one, and a row loses more

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


cdef void fixed_pack(
    const float *w, ptrdiff_t late, ptrdiff_t K, ptrdiff_t N,
    bint *forward, void *out,  # w^T, w (N, K): column n is row (n + late) mod N
    bint *backward, void *out_back,  # w: line n is row (n + late) mod N
    float *copy, bint turned,  # w again, in panels as `pack_rows` makes them; line N - 1 - n is that row where turned
) noexcept nogil:
    """w packed as whole numbers in one of two ways or both, each if the flag says so; False where it is not for here.

    All of it is read twice: to count, with the copy if that isn't NULL, and to pack.
    """
    cdef const float *row[16]
    cdef ptrdiff_t way, n, columns, j
    if forward[0]:
        memset(out, 0, 3 * fixed_padded(K) * sizeof(float))
    for way in range(2):
        for n in range(0, fixed_padded(N) if backward[0] else N, 16):
            columns = min(N - n, <ptrdiff_t> 16)
            for j in range(columns):
                row[j] = w + (n + j + late) % N * K
            if way == 0 and copy != NULL:
                copy_rows(row, columns, n, turned, N, K, copy, backward[0])
            if forward[0] and columns > 0:
                if way == 0:
                    fixed_count_columns(row, columns, K, <char *> out)
                elif not fixed_pack_columns(row, columns, n // 16, K, <char *> out):
                    forward[0] = False
            if backward[0]:
                if way == 1:
                    fixed_pack_lines(row, n, N, K, <char *> out_back)
                elif not fixed_count_lines(row, n, N, K, <char *> out_back):
                    backward[0] = False
        if way == 0:
            forward[0] = forward[0] and fixed_set_powers(K, <char *> out)
            backward[0] = backward[0] and fixed_set_units(N, K, <char *> out_back)
    past_done()


cdef void copy_rows(
    const float **row, ptrdiff_t count, ptrdiff_t k, bint turned, ptrdiff_t K, ptrdiff_t N, float *packed, bint past
) noexcept nogil:
    """Rows k.. of W (K, N) to its panels, see `fixed_pack`; past the caches, if only a tape's user will read them."""
    cdef ptrdiff_t p, first, width, j, line, L = LANES_F32
    cdef float *panel
    for p in range(panel_count(<float *> NULL, N)):
        first = panel_start(<float *> NULL, N, p)
        width = (panel_start(<float *> NULL, N, p + 1) - first) * L
        panel = packed + first * L * K
        for j in range(count):
            line = K - 1 - k - j if turned else k + j
            if past and first * L + width <= N:
                past_copy(panel + line * width, row[j] + first * L, width * sizeof(float))
            else:
                pack_straight(row[j] + first * L, 0, min(N - first * L, width), 1, panel + line * width)


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
