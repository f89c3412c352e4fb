# Products with a weight matrix in whole numbers, see _digits.h and _fixed.h.
#
# A row has the same bits wherever it stands, alone or in a batch, so what decides between this and the tile is the
# matrix that it is multiplied by.

cdef extern from "_fixed.h" nogil:
    const ptrdiff_t FIXED_TOGETHER
    const ptrdiff_t FIXED_ROWS
    const ptrdiff_t FIXED_TIMES
    const ptrdiff_t FIXED_LONGEST
    const ptrdiff_t FIXED_K
    ctypedef struct fixed_rows:
        ptrdiff_t count
        ptrdiff_t each
        uint8_t *digits
        float *left
    ptrdiff_t fixed_size(ptrdiff_t K, ptrdiff_t N)
    ptrdiff_t fixed_each(ptrdiff_t K)
    bint fixed_add_row(fixed_rows *rows, const float *a, const float *up, ptrdiff_t K, float *c)
    ptrdiff_t fixed_padded(ptrdiff_t K)
    ctypedef struct fixed_counts:
        float *most_n
        float power_k
        float power_n
    ptrdiff_t fixed_counted(ptrdiff_t K, ptrdiff_t N)
    fixed_counts fixed_no_counts(float *room, ptrdiff_t K, ptrdiff_t N)
    void fixed_count(const float *const *row, ptrdiff_t count, ptrdiff_t n, ptrdiff_t K, fixed_counts *counts)
    void fixed_set_alike(fixed_counts *counts, ptrdiff_t K, ptrdiff_t N)
    void fixed_set_power(float power, ptrdiff_t K, char *out)
    void fixed_set_lines(const fixed_counts *counts, ptrdiff_t K, ptrdiff_t N, char *out)
    void fixed_count_columns(const float *const *row, ptrdiff_t columns, ptrdiff_t K, char *out)
    bint fixed_count_lines(const float *const *line, ptrdiff_t k, ptrdiff_t K, ptrdiff_t N, char *out)
    bint fixed_set_units(ptrdiff_t K, ptrdiff_t N, char *out)
    bint fixed_set_powers(ptrdiff_t K, char *out)
    bint fixed_pack_columns(const float *const *row, ptrdiff_t columns, ptrdiff_t group, const float *most, ptrdiff_t K,
                            char *out, const float *w, float *copy)
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

    # All tiles of a product are as high as its highest: 17 rows as 16 and one take nine tenths of the time that 9 and 9
    # take, if reading the matrix again is little work.
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
    float *copy,  # OUT (N, K) w as it is, if `backward`
    float *room,  # WORK (fixed_counted,)
) noexcept nogil:
    """w packed as whole numbers in one of two ways or both, each if the flag says so; False where it is not for here.

    Mostly it is read twice: to count and to pack.
    """
    cdef const float *row[64]
    cdef const float *most = NULL
    cdef ptrdiff_t n, count, j
    cdef fixed_counts counts = fixed_no_counts(room, K, N)
    check(FIXED_K == 64, b"lines at a time")
    for n in range(0, N, 16):
        count = rows_from(w, late, n, 16, K, N, row)
        fixed_count(row, count, n, K, &counts)
    fixed_set_alike(&counts, K, N)
    if forward[0] and counts.power_k != 0:
        fixed_set_power(counts.power_k, K, <char *> out)
        most = counts.most_n
    elif forward[0]:
        forward[0] = powers_of_columns(w, late, K, N, <char *> out)
    if backward[0] and counts.power_n != 0:
        fixed_set_lines(&counts, K, N, <char *> out_back)
    elif backward[0]:
        backward[0] = powers_of_lines(w, late, K, N, <char *> out_back)
    backward[0] = backward[0] and fixed_set_units(N, K, <char *> out_back)
    for n in range(0, N, 64):
        count = rows_from(w, late, n, 64, K, N, row)
        for j in range(0, count, 16):
            if forward[0]:
                forward[0] = fixed_pack_columns(row + j, min(16, count - j), (n + j) // 16,
                                                most + n + j if most != NULL else NULL, K, <char *> out, w,
                                                copy if backward[0] else NULL)
        if backward[0]:
            fixed_pack_lines(row, n, N, K, <char *> out_back)
    if backward[0] and not forward[0]:
        past_copy(copy, w, N * K * sizeof(float))
    past_done()


cdef inline ptrdiff_t rows_from(
    const float *w, ptrdiff_t late, ptrdiff_t n, ptrdiff_t most, ptrdiff_t K, ptrdiff_t N, const float **row
) noexcept nogil:
    """Where rows n.. of `fixed_pack` are, and how many they are."""
    cdef ptrdiff_t count = min(N - n, most), j
    for j in range(count):
        row[j] = w + (n + j + late) % N * K
    return count


cdef bint powers_of_columns(const float *w, ptrdiff_t late, ptrdiff_t K, ptrdiff_t N, char *out) noexcept nogil:
    """The powers of two of `fixed_pack` forward; False where w is not for here."""
    cdef const float *row[16]
    cdef ptrdiff_t n, count
    memset(out, 0, 3 * fixed_padded(K) * sizeof(float))
    for n in range(0, N, 16):
        count = rows_from(w, late, n, 16, K, N, row)
        fixed_count_columns(row, count, K, out)
    return fixed_set_powers(K, out)


cdef bint powers_of_lines(const float *w, ptrdiff_t late, ptrdiff_t K, ptrdiff_t N, char *out) noexcept nogil:
    """The powers of two of `fixed_pack` backward; False where w is not for here."""
    cdef const float *row[16]
    cdef ptrdiff_t n
    for n in range(0, fixed_padded(N), 16):
        rows_from(w, late, n, 16, K, N, row)
        if not fixed_count_lines(row, n, N, K, out):
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
