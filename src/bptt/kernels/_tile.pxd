"""Products with a packed operand: the loops around the register tile of _tile.h, and packing.

A packed matrix of K rows and N columns is a sequence of panels.  Its columns are cut into whole vectors (the last
one zero-padded), the vectors into panels of TILE_WIDTH or one fewer, split evenly (5 vectors: 3 + 2); a panel
holds its vectors for k = 0..K-1.  packed_size says how many numbers that takes.
"""

from libc.stddef cimport ptrdiff_t

ctypedef fused real:
    float
    double

cdef extern from "_checked.h" nogil:
    void check(bint ok, const char *what)  # in a checked build only

cdef extern from "_lanes.h" nogil:
    ctypedef float lanes_f32
    ctypedef double lanes_f64
    const int LANES_F32
    const int LANES_F64

cdef extern from "_tile.h" nogil:
    const int TILE_WIDTH
    const int TILE_HEIGHT
    const int TILE_ROW_PANELS
    const int TILE_SET
    const int TILE_ADD
    int tile_height(int chains, int width)
    int tile_chains(ptrdiff_t vectors, ptrdiff_t K)
    ptrdiff_t tile_depth(ptrdiff_t K)
    void f32_tile(int chains, int width, int rows, const float *a, ptrdiff_t a_row, ptrdiff_t a_k,
                  const float *panel, ptrdiff_t panel_k, ptrdiff_t K, float *c, ptrdiff_t ldc, ptrdiff_t tail,
                  int start, const float *bias, const float *ahead)
    void f64_tile(int chains, int width, int rows, const double *a, ptrdiff_t a_row, ptrdiff_t a_k,
                  const double *panel, ptrdiff_t panel_k, ptrdiff_t K, double *c, ptrdiff_t ldc, ptrdiff_t tail,
                  int start, const double *bias, const double *ahead)
    void f32_tile_row(const float *a, ptrdiff_t a_k, const float *panel, ptrdiff_t apart, ptrdiff_t K, float *c,
                      int start, const float *bias)
    void f64_tile_row(const double *a, ptrdiff_t a_k, const double *panel, ptrdiff_t apart, ptrdiff_t K, double *c,
                      int start, const double *bias)

    bint f32_tile_pair(ptrdiff_t vectors, const float *a, const float *panel, ptrdiff_t K, float *c, int start,
                       const float *bias)
    bint f64_tile_pair(ptrdiff_t vectors, const double *a, const double *panel, ptrdiff_t K, double *c, int start,
                       const double *bias)

cdef extern from "_pack.h" nogil:
    void f32_pack_turned(const float *w, ptrdiff_t ldw, ptrdiff_t rows, ptrdiff_t K, float *out, ptrdiff_t out_k)
    void f64_pack_turned(const double *w, ptrdiff_t ldw, ptrdiff_t rows, ptrdiff_t K, double *out, ptrdiff_t out_k)
    void f32_pack_straight(const float *w, ptrdiff_t ldw, ptrdiff_t columns, ptrdiff_t K, float *out)
    void f64_pack_straight(const double *w, ptrdiff_t ldw, ptrdiff_t columns, ptrdiff_t K, double *out)

cdef enum:
    # Rows of a batch or of time taken together in the backward pass.
    BLOCK_K = 256
    # A packed matrix of this many numbers is not in the second-level cache when its turn comes again: blocks are
    # fetched while the one before is used.  Where it is, fetching costs 4%.
    FETCH_FROM = 200_000
    # Rows that go to all panels before the next ones: a matrix read panel by panel, a few lines of each row at a
    # time, takes two to three times as long (1024 x 256 and 2048 x 512 numbers).
    PACK_ROWS = 16


cdef inline ptrdiff_t lanes_of(real *kind) noexcept nogil:
    if real is float:
        return LANES_F32
    else:
        return LANES_F64


cdef inline ptrdiff_t ceil_div(ptrdiff_t a, ptrdiff_t b) noexcept nogil:
    return (a + b - 1) // b


cdef inline ptrdiff_t padded(real *kind, ptrdiff_t N) noexcept nogil:
    """N rounded up to whole vectors."""
    return ceil_div(N, lanes_of(kind)) * lanes_of(kind)


cdef inline ptrdiff_t packed_size(real *kind, ptrdiff_t K, ptrdiff_t N) noexcept nogil:
    return K * padded(kind, N)


cdef inline ptrdiff_t block_size(real *kind) noexcept nogil:
    """Numbers of a panel of the full width and BLOCK_K rows."""
    return BLOCK_K * TILE_WIDTH * lanes_of(kind)


cdef inline ptrdiff_t panel_count(real *kind, ptrdiff_t N) noexcept nogil:
    return ceil_div(ceil_div(N, lanes_of(kind)), TILE_WIDTH)


cdef inline ptrdiff_t panel_start(real *kind, ptrdiff_t N, ptrdiff_t p) noexcept nogil:
    """First vector of panel p; panel_start(panel_count) is the number of vectors."""
    cdef ptrdiff_t vectors = ceil_div(N, lanes_of(kind))
    cdef ptrdiff_t panels = ceil_div(vectors, TILE_WIDTH)
    check(0 <= p <= panels, b"panel")
    if panels == 1:
        return p * vectors  # divisions count in small products
    return p * (vectors // panels) + min(p, vectors % panels)


cdef inline ptrdiff_t panel_width(real *kind, ptrdiff_t N) noexcept nogil:
    """Columns of the widest panel, padded."""
    return panel_start(kind, N, 1) * lanes_of(kind)


cdef inline int chains_for(real *kind, ptrdiff_t K, ptrdiff_t N) noexcept nogil:
    """Interleaved sums of a recurrent product (see _tile.h): a matter of the matrix, not of the rows."""
    return tile_chains(ceil_div(N, lanes_of(kind)), K)


cdef inline void tile(int chains, int width, int rows, const real *a, ptrdiff_t a_row, ptrdiff_t a_k,
                      const real *panel, ptrdiff_t panel_k, ptrdiff_t K, real *c, ptrdiff_t ldc, ptrdiff_t tail,
                      int start, const real *bias, const real *ahead) noexcept nogil:
    if real is float:
        f32_tile(chains, width, rows, a, a_row, a_k, panel, panel_k, K, c, ldc, tail, start, bias, ahead)
    else:
        f64_tile(chains, width, rows, a, a_row, a_k, panel, panel_k, K, c, ldc, tail, start, bias, ahead)


cdef inline void tile_row(const real *a, ptrdiff_t a_k, const real *panel, ptrdiff_t apart, ptrdiff_t K, real *c,
                          int start, const real *bias) noexcept nogil:
    if real is float:
        f32_tile_row(a, a_k, panel, apart, K, c, start, bias)
    else:
        f64_tile_row(a, a_k, panel, apart, K, c, start, bias)


cdef inline bint tile_pair(
    ptrdiff_t vectors, const real *a, const real *panel, ptrdiff_t K, real *c, int start, const real *bias
) noexcept nogil:
    if real is float:
        return f32_tile_pair(vectors, a, panel, K, c, start, bias)
    else:
        return f64_tile_pair(vectors, a, panel, K, c, start, bias)


cdef inline void panel_product(
    int chains, int width, const real *a, ptrdiff_t a_row, ptrdiff_t a_k, ptrdiff_t rows, const real *panel,
    ptrdiff_t panel_k, ptrdiff_t K, real *c, ptrdiff_t ldc, ptrdiff_t tail, int start, const real *bias,
    const real *ahead
) noexcept nogil:
    """C[:, one panel] (+)= A (rows, K) panel (K, width vectors), rows split evenly over tiles.

    ahead: the block that comes next, or NULL; each of the first tiles fetches one vector column of it.
    """
    cdef ptrdiff_t L = lanes_of(<real *> NULL)
    cdef ptrdiff_t groups = 1 if rows == 1 else ceil_div(rows, tile_height(chains, width))
    cdef ptrdiff_t g, row = 0, height = rows
    check(rows >= 0 and K > 0 and 0 < width <= TILE_WIDTH and 0 < tail <= L, b"size of a panel")
    for g in range(groups):
        # 32 rows are 6 + 6 + 5 + 5 + 5 + 5: five sixes and a two would leave the last tile waiting on latency
        if groups > 1:
            height = rows // groups + (1 if g < rows % groups else 0)
        check(0 < height <= tile_height(chains, width) and row + height <= rows, b"row of a tile")
        tile(chains, width, <int> height, a + row * a_row, a_row, a_k, panel, panel_k, K, c + row * ldc, ldc, tail,
             start, bias, ahead + g * L if ahead != NULL and g < width else NULL)
        row += height


cdef inline void product(
    int chains, const real *a, ptrdiff_t a_row, ptrdiff_t a_k, ptrdiff_t rows, ptrdiff_t sets, ptrdiff_t a_set,
    const real *packed, ptrdiff_t K, ptrdiff_t N, real *c, ptrdiff_t ldc, ptrdiff_t c_set, int start,
    const real *bias, bint backwards
) noexcept nogil:
    """C (rows, N) = bias + A (rows, K) W (K, N)  or  C += A W, W packed.  bias: padded row or NULL for 0.

    The rows come in sets (time steps) that lie a_set and c_set apart.  backwards walks the panels from the last to
    the first, so that every other time step finds the panels that the step before used last still in cache; it
    changes no sum.
    """
    cdef ptrdiff_t L = lanes_of(<real *> NULL)
    cdef ptrdiff_t panels = panel_count(<real *> NULL, N)
    cdef ptrdiff_t i = 0, p, first, width, k, depth, tail, together, s
    cdef const real *panel
    cdef const real *initial
    cdef const real *ahead
    if panels == 1 and sets == 1 and K <= BLOCK_K:
        # what the loop comes to, at less cost: it counts in a small step
        width = panel_start(<real *> NULL, N, 1)
        panel_product(chains, <int> width, a, a_row, a_k, rows, packed, width * L, K, c, ldc, N - (width - 1) * L,
                      start, bias, <const real *> NULL)
        return
    if (panels == 2 and rows == 1 and sets == 1 and chains == 2 and a_k == 1 and K <= BLOCK_K and N % L == 0
            and tile_pair(N // L, a, packed, K, c, start, bias)):
        return
    while i < panels:
        together = 1
        if rows == 1 and sets == 1 and chains == 1 and panels - i >= TILE_ROW_PANELS:
            # all panels of the group of full width and no part vector at the end
            p = panels - i - TILE_ROW_PANELS if backwards else i
            first = panel_start(<real *> NULL, N, p)
            if (panel_start(<real *> NULL, N, p + TILE_ROW_PANELS) - first == TILE_ROW_PANELS * TILE_WIDTH
                    and (first + TILE_ROW_PANELS * TILE_WIDTH) * L <= N):
                together = TILE_ROW_PANELS
        if together == 1:
            p = panels - 1 - i if backwards else i
            first = panel_start(<real *> NULL, N, p)
        i += together
        width = panel_start(<real *> NULL, N, p + 1) - first
        tail = min(L, N - (first + width - 1) * L)
        check((first + width - 1) * L < N <= padded(<real *> NULL, N), b"column of a panel")
        panel = packed + first * L * K
        k = 0
        while k < K:
            depth = min(K - k, tile_depth(K))
            initial = bias + first * L if bias != NULL and k == 0 else NULL
            if together > 1:
                tile_row(a + k * a_k, a_k, panel + k * width * L, width * L * K, depth, c + first * L,
                         start if k == 0 else TILE_ADD, initial)
            else:
                ahead = NULL
                if K * N < FETCH_FROM:
                    pass
                elif k + depth < K:
                    ahead = panel + (k + depth) * width * L
                elif i < panels:
                    ahead = packed + panel_start(<real *> NULL, N, panels - 1 - i if backwards else i) * L * K
                for s in range(sets):
                    panel_product(chains, <int> width, a + s * a_set + k * a_k, a_row, a_k, rows,
                                  panel + k * width * L, width * L, depth, c + s * c_set + first * L, ldc, tail,
                                  start if k == 0 else TILE_ADD, initial,
                                  ahead if s == 0 else NULL)
            k += depth


cdef inline void deep_product(
    const real *a, ptrdiff_t a_row, ptrdiff_t a_k, ptrdiff_t rows, const real *packed, ptrdiff_t K, ptrdiff_t N,
    real *c, ptrdiff_t ldc
) noexcept nogil:
    """C (rows, N) = A (rows, K) W (K, N) with the sums of `product`, for A and W too large for the caches.

    All panels take part of A's columns before the next part is read: a part of A stays in cache, and W is read once
    for all rows.
    """
    cdef ptrdiff_t L = lanes_of(<real *> NULL), panels = panel_count(<real *> NULL, N)
    cdef ptrdiff_t k = 0, p, depth, first, next, width
    cdef const real *ahead
    while k < K:
        depth = min(K - k, tile_depth(K))
        for p in range(panels):
            first, next = panel_start(<real *> NULL, N, p), panel_start(<real *> NULL, N, p + 1)
            width = next - first
            ahead = packed + next * L * K + k * width * L if p + 1 < panels else NULL
            panel_product(1, <int> width, a + k * a_k, a_row, a_k, rows, packed + first * L * K + k * width * L,
                          width * L, depth, c + first * L, ldc, min(L, N - (next - 1) * L),
                          TILE_SET if k == 0 else TILE_ADD, <const real *> NULL, ahead)
        k += depth


cdef inline void pack_turned(
    const real *w, ptrdiff_t ldw, ptrdiff_t rows, ptrdiff_t K, real *out, ptrdiff_t out_k
) noexcept nogil:
    """One vector column: out[k * out_k + n] = w[n * ldw + k] for n < rows <= lanes, 0 in the other lanes."""
    if real is float:
        f32_pack_turned(w, ldw, rows, K, out, out_k)
    else:
        f64_pack_turned(w, ldw, rows, K, out, out_k)


cdef inline void pack_straight(
    const real *w, ptrdiff_t ldw, ptrdiff_t columns, ptrdiff_t K, real *out
) noexcept nogil:
    """Rows of a panel: out[k * width + n] = w[k * ldw + n] for n < columns, 0 in the rest of its last vector."""
    if real is float:
        f32_pack_straight(w, ldw, columns, K, out)
    else:
        f64_pack_straight(w, ldw, columns, K, out)


cdef inline void pack_vector(
    const real *w, ptrdiff_t ldw, ptrdiff_t late, ptrdiff_t K, ptrdiff_t N, ptrdiff_t n, real *out, ptrdiff_t out_k
) noexcept nogil:
    """One vector of the columns of w^T, w (N, K), from column n on; column j is row (j + late) mod N of w."""
    cdef ptrdiff_t L = lanes_of(<real *> NULL), columns = min(L, N - n), first = (n + late) % N, j, k
    cdef const real *row
    check(0 <= n < N, b"column to pack")
    if first + columns <= N:
        pack_turned(w + first * ldw, ldw, columns, K, out, out_k)
        return
    for j in range(L):
        row = w + (first + j if first + j < N else first + j - N) * ldw
        for k in range(K):
            out[k * out_k + j] = row[k] if j < columns else 0


cdef inline void pack_panel_transposed(
    const real *w, ptrdiff_t ldw, ptrdiff_t late, ptrdiff_t K, ptrdiff_t N, ptrdiff_t p, real *out
) noexcept nogil:
    """Panel p of w^T; as `pack_vector`."""
    cdef ptrdiff_t L = lanes_of(<real *> NULL), first = panel_start(<real *> NULL, N, p), j
    cdef ptrdiff_t width = panel_start(<real *> NULL, N, p + 1) - first
    for j in range(width):
        pack_vector(w, ldw, late, K, N, (first + j) * L, out + j * L, width * L)


cdef inline void pack_panel(
    const real *w, ptrdiff_t ldw, ptrdiff_t K, ptrdiff_t N, ptrdiff_t p, real *out
) noexcept nogil:
    """K rows of panel p of a matrix with N columns; the first one is w."""
    cdef ptrdiff_t L = lanes_of(<real *> NULL), first = panel_start(<real *> NULL, N, p)
    pack_straight(w + first * L, ldw, min(panel_start(<real *> NULL, N, p + 1) * L, N) - first * L, K, out)


cdef inline void pack_rows(
    const real *w, ptrdiff_t ldw, ptrdiff_t start, ptrdiff_t end, ptrdiff_t K, ptrdiff_t N, real *packed
) noexcept nogil:
    """Rows start..end-1 of W (K, N): the first one is w, the next w + ldw."""
    cdef ptrdiff_t L = lanes_of(<real *> NULL), p, first, width, k = start
    while k < end:
        for p in range(panel_count(<real *> NULL, N)):
            first = panel_start(<real *> NULL, N, p)
            width = panel_start(<real *> NULL, N, p + 1) - first
            pack_panel(w + (k - start) * ldw, ldw, min(<ptrdiff_t> PACK_ROWS, end - k), N, p,
                       packed + (first * K + k * width) * L)
        k += PACK_ROWS


cdef inline void pack_transposed(
    const real *w, ptrdiff_t ldw, ptrdiff_t late, ptrdiff_t K, ptrdiff_t N, real *packed
) noexcept nogil:
    """w^T; as `pack_vector`."""
    cdef ptrdiff_t L = lanes_of(<real *> NULL), p
    for p in range(panel_count(<real *> NULL, N)):
        pack_panel_transposed(w, ldw, late, K, N, p, packed + panel_start(<real *> NULL, N, p) * L * K)


cdef inline void pack(
    const real *w, ptrdiff_t ldw, bint turned, ptrdiff_t K, ptrdiff_t N, real *packed
) noexcept nogil:
    """W (K, N): W[k, n] = w[k * ldw + n], or w[n * ldw + k] where turned."""
    if turned:
        pack_transposed(w, ldw, 0, K, N, packed)
    else:
        pack_rows(w, ldw, 0, K, K, N, packed)


cdef inline void packing_product(
    const real *a, ptrdiff_t a_row, ptrdiff_t rows, ptrdiff_t sets, ptrdiff_t a_set, const real *w, ptrdiff_t late,
    ptrdiff_t K, ptrdiff_t N, real *c, ptrdiff_t ldc, ptrdiff_t c_set, const real *bias, real *panel
) noexcept nogil:
    """C (rows, N) = bias + A (rows, K) w^T with the sums of `product`, for a w that no other product needs.

    Each panel is packed where the one before was, still in cache: packed all at once, they would go to memory and
    come back.  w and late as in `pack_vector`; panel: K rows of `panel_width` to work in.
    """
    cdef ptrdiff_t L = lanes_of(<real *> NULL), p, first, columns
    for p in range(panel_count(<real *> NULL, N)):
        first = panel_start(<real *> NULL, N, p) * L
        columns = min(panel_start(<real *> NULL, N, p + 1) * L, N) - first
        pack_panel_transposed(w, K, late, K, N, p, panel)
        product(1, a, a_row, 1, rows, sets, a_set, panel, K, columns, c + first, ldc, c_set, TILE_SET,
                bias + first if bias != NULL else NULL, False)


cdef inline void unpack(const real *packed, ptrdiff_t K, ptrdiff_t N, real *w, ptrdiff_t ldw) noexcept nogil:
    """w (K, N) from its panels."""
    cdef ptrdiff_t L = lanes_of(<real *> NULL)
    cdef ptrdiff_t p, first, width, k, n
    for p in range(panel_count(<real *> NULL, N)):
        first = panel_start(<real *> NULL, N, p)
        width = panel_start(<real *> NULL, N, p + 1) - first
        for k in range(K):
            for n in range(first * L, min(N, (first + width) * L)):
                w[k * ldw + n] = packed[first * L * K + k * width * L + n - first * L]
