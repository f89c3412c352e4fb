# A layer's weights, packed: the snapshot that a call, a tape or a stream works from.


@cython.final
cdef class Panels:
    """Packed weights of one direction of one layer.

    A time step of a batch row is a row of S numbers, the pre-activations, which the cell's arithmetic turns into what
    the backward pass needs:

        Elman   z                  S = H
        LSTM    i f g o            S = 4 H
        GRU     n r z q            S = 4 H; q is what r multiplies in n, so that W_ih reaches n r z, W_hh r z q
        GRU, reset before          n r z s: s = r h_{t-1}, which W_hn multiplies

    forward:   W_ih^T (I, N_ih) to columns 0..N_ih-1 with the bias row, or for token input a table whose row v is
               W_ih[:, v] + bias; W_hh^T (R, N_hh) to columns from_hh..; W_hn^T (H, H); W_hr^T (H, R)
    backward:  the same matrices the other way round, and the vectors for whoever asks the tape for them
    """

    cdef Memory forward   # None on a tape: the backward pass has no use for it
    cdef Memory backward  # None but on a tape
    cdef Buffers given    # holds W_ih for a call that packs it as it goes
    cdef int cell
    cdef share_count odd  # 1 where the next time step walks the panels backwards
    cdef bint double
    cdef bint tokens
    cdef bint normal     # layer normalisation
    cdef bint projected  # R < H
    cdef bint has_bias_ih
    cdef bint has_bias_hh
    cdef bint has_ph
    cdef bint fixed_ih      # is packed as whole numbers, see _digits.h
    cdef bint fixed_hh
    cdef bint fixed_back_ih
    cdef bint fixed_back_hh
    cdef ptrdiff_t I
    cdef ptrdiff_t H
    cdef ptrdiff_t R
    cdef ptrdiff_t G
    cdef ptrdiff_t S
    cdef ptrdiff_t N_ih
    cdef ptrdiff_t N_hh
    cdef ptrdiff_t from_hh
    cdef void *counts     # WORK of `fixed_pack`
    cdef void *hh
    cdef void *ih         # NULL where W_ih is not packed yet but lies at given_ih
    cdef const void *given_ih
    cdef ptrdiff_t late  # column j of the panels is row (j + late) mod N_ih of W_ih
    cdef void *hn
    cdef void *hr
    cdef void *bias    # of columns 0..N_ih-1: b_ih + b_hh, of a GRU's n b_in alone; padded
    cdef void *bias_q  # b_hn of a GRU, padded
    cdef void *gain_ih  # N_ih, in the order of the columns; as all below in either memory
    cdef void *gain_hh  # N_hh
    cdef void *ph       # 3 H, or NULL
    # Both are the parameters as they are where what the backward pass multiplies by is packed as whole numbers.
    cdef void *back_hh
    cdef void *back_ih  # see order_ih; for tokens W_ih, in the order of the columns, as it is
    cdef void *back_hn
    cdef void *back_hr
    cdef void *biases  # b_ih, b_hh as they are
    cdef void *digits_back_hh  # those
    cdef void *digits_back_ih

    cdef int set(self, str cell, weights, bint tokens, bint keep, ptrdiff_t rows) except -1:
        """rows: of x that the only call will have, which packs W_ih as it goes if they are few; else 0."""
        cdef Buffers buffers = Buffers.__new__(Buffers)
        cdef void *at[8]
        cdef int k
        cdef tuple arrays = tuple(weights)  # fields of a named tuple cost 100 ns each
        self.cell = CODES[cell]
        at[0], at[1] = buffers.read_shaped(arrays[0]), buffers.read_shaped(arrays[1])
        self.I, self.R = buffers.views[0].shape[1], buffers.views[1].shape[1]
        self.G = 4 if self.cell == LSTM else 3 if self.cell >= GRU else 1
        self.H = buffers.views[0].shape[0] // self.G
        self.S = self.H if self.G == 1 else 4 * self.H
        self.N_ih = self.G * self.H
        self.N_hh = 2 * self.H if self.cell == GRU_BEFORE else self.N_ih
        self.from_hh = self.H if self.cell >= GRU else 0
        self.late = 2 * self.H if self.cell >= GRU else 0  # see `columns`
        self.tokens = tokens
        self.has_bias_ih = arrays[2] is not None
        self.has_bias_hh = arrays[3] is not None
        self.projected = arrays[4] is not None
        self.has_ph = arrays[5] is not None
        self.normal = arrays[6] is not None
        for k in range(2, 8):
            at[k] = buffers.read(arrays[k])
        self.double = buffers.views[0].itemsize == 8
        self.check_sizes(buffers, arrays)
        if not self.double:
            self.fixed_ih = not tokens and fixed_wants(fixed_from, self.I, self.N_ih)
            self.fixed_hh = fixed_wants(fixed_from, self.R, self.N_hh)
        if 0 < rows <= rows_ahead(self) and not tokens and not self.fixed_ih:
            self.given, self.given_ih = buffers, at[0]
        if self.double:
            self.fill[double](<double *> NULL, at, keep)
        else:
            self.fill[float](<float *> NULL, at, keep)
        return 0

    cdef int check_sizes(self, Buffers buffers, tuple arrays) except -1:
        """A layer looks at parameters that are other objects than before; the shape of one may be set in place."""
        cdef ptrdiff_t N = self.N_ih, z = 8 if self.double else 4
        cdef ptrdiff_t *sizes = [N * self.I, N * self.R, N, N, self.R * self.H, 3 * self.H, N, N]
        cdef int k, view = 0
        cdef bint fit = self.projected or self.R == self.H
        for k in range(8):
            if arrays[k] is not None:
                fit = fit and buffers.views[view].len == sizes[k] * z
                view += 1
        if not fit:
            raise ValueError("weights: expected shapes that fit each other, got others: was one set in place?")
        return 0

    cdef bint turn(self, ptrdiff_t T) noexcept nogil:
        """Whether the first of the next T steps walks the panels backwards: every other step ever made does.

        Calls that run at once may both take the same turn; it changes no sum.
        """
        cdef int64_t odd = share_read(&self.odd)
        share_set(&self.odd, (odd + T) & 1)
        return odd != 0

    cdef ptrdiff_t order_ih(self) noexcept nogil:
        """+-1: dx is summed over the columns from the first to the last, or from the last to the first.

        Of a GRU's gates n has the large gradients; summed last, they add half the rounding.
        """
        return -1 if self.cell >= GRU else 1

    cdef ptrdiff_t first_ih(self) noexcept nogil:
        """The column with which the sum begins."""
        return self.N_ih - 1 if self.cell >= GRU else 0

    cdef double work(self) noexcept nogil:
        """Operations of one step of one row."""
        return 2.0 * (self.N_ih * self.I + self.G * self.H * self.R + (self.H * self.R if self.projected else 0))

    cdef void columns(self, const real *w, ptrdiff_t width, real *out) noexcept nogil:
        """Rows of weight_ih, or of a vector like it, in the order of the columns: r z n of a GRU as n r z."""
        cdef ptrdiff_t last = 2 * self.H * width, each = self.H * width
        if self.cell >= GRU:
            memcpy(out, w + last, each * sizeof(real))
            memcpy(out + each, w, last * sizeof(real))
        else:
            memcpy(out, w, self.N_ih * width * sizeof(real))

    cdef void parameters(self, const real *w, ptrdiff_t width, real *out) noexcept nogil:
        """The other way round."""
        cdef ptrdiff_t last = 2 * self.H * width, each = self.H * width
        if self.cell >= GRU:
            memcpy(out + last, w, each * sizeof(real))
            memcpy(out, w + each, last * sizeof(real))
        else:
            memcpy(out, w, self.N_ih * width * sizeof(real))

    cdef int fill(self, real *kind, void **at, bint keep) except -1:
        cdef ptrdiff_t I = self.I, H = self.H, R = self.R, L = lanes_of(kind), N = self.N_ih, Np = padded(kind, N)
        cdef ptrdiff_t hh = packed_size(kind, R, self.N_hh), ih = 0 if self.given_ih != NULL else I * Np
        cdef ptrdiff_t hn = packed_size(kind, H, H) if self.cell == GRU_BEFORE else 0
        cdef ptrdiff_t hr = packed_size(kind, H, R) if self.projected else 0
        cdef ptrdiff_t small = (2 * N if self.normal else 0) + (3 * H if self.has_ph else 0)
        cdef ptrdiff_t j, v, size, counts = 0
        cdef const real *weight_ih = <const real *> at[0]
        cdef const real *weight_hh = <const real *> at[1]
        cdef real *b
        if self.fixed_hh:
            hh = max(hh, ceil_div(fixed_size(R, self.N_hh), LINE) * LINE // sizeof(real))
        if self.fixed_ih:
            ih = max(ih, ceil_div(fixed_size(I, N), LINE) * LINE // sizeof(real))
        if amx_used:
            counts = fixed_counted(max(R, 0 if self.tokens else I), N)
        size = Np + padded(kind, H) + hh + ih + hn + hr + small
        self.forward = take_memory((size + counts) * sizeof(real))
        self.counts = self.forward.aligned + size * sizeof(real)
        b = <real *> self.forward.aligned
        self.bias, self.bias_q = b, b + Np
        self.hh = <real *> self.bias_q + padded(kind, H)
        self.ih = <real *> self.hh + hh if ih else NULL
        self.hn = <real *> self.hh + hh + ih
        self.hr = <real *> self.hn + hn
        self.vectors(<real *> self.hr + hr, at)
        memset(b, 0, (Np + padded(kind, H)) * sizeof(real))
        if self.has_bias_ih:
            self.columns(<const real *> at[2], 1, b)
        if self.has_bias_hh:
            if self.cell == GRU:
                memcpy(self.bias_q, <const real *> at[3] + 2 * H, H * sizeof(real))
                for j in range(2 * H):
                    b[H + j] = b[H + j] + (<const real *> at[3])[j]
            elif self.cell == GRU_BEFORE:
                for j in range(3 * H):
                    b[j] = b[j] + (<const real *> at[3])[j + (2 * H if j < H else -H)]
            else:
                for j in range(N):
                    b[j] = b[j] + (<const real *> at[3])[j]
        if keep:
            self.backward_room(kind, at)
        if self.tokens:
            if keep:
                self.columns(weight_ih, I, <real *> self.back_ih)
            for v in range(Np // L):
                pack_vector(weight_ih, I, self.late, I, N, v * L, <real *> self.ih + v * L, Np)
            if not self.normal:
                for v in range(I):
                    for j in range(N):
                        (<real *> self.ih)[v * Np + j] = b[j] + (<real *> self.ih)[v * Np + j]
        else:
            self.fill_ih(weight_ih, keep)
        # last what every step reads: it is in cache when the first one begins
        if hr:
            pack(<const real *> at[4], H, True, H, R, <real *> self.hr)
            if keep:
                pack(<const real *> at[4], H, False, R, H, <real *> self.back_hr)
        if hn:
            pack(weight_hh + 2 * H * H, H, True, H, H, <real *> self.hn)
            if keep:
                pack(weight_hh + 2 * H * H, H, False, H, H, <real *> self.back_hn)
        self.fill_hh(weight_hh, keep)
        return 0

    cdef void fill_ih(self, const real *weight_ih, bint keep) noexcept nogil:
        cdef ptrdiff_t I = self.I, H = self.H, N = self.N_ih
        if self.fixed_ih or self.fixed_back_ih:
            if real is float:
                fixed_pack(weight_ih, self.late, I, N, &self.fixed_ih, self.ih, &self.fixed_back_ih,
                           self.digits_back_ih, <float *> self.back_ih, <float *> self.counts)
        if keep and not self.fixed_back_ih:
            if self.cell >= GRU:
                # the columns n r z from the last to the first
                pack_rows(weight_ih + (2 * H - 1) * I, -I, 0, 2 * H, N, I, <real *> self.back_ih)
                pack_rows(weight_ih + (N - 1) * I, -I, 2 * H, N, N, I, <real *> self.back_ih)
            else:
                pack(weight_ih, I, False, N, I, <real *> self.back_ih)
        if self.ih != NULL and not self.fixed_ih:
            pack_transposed(weight_ih, I, self.late, I, N, <real *> self.ih)

    cdef void fill_hh(self, const real *weight_hh, bint keep) noexcept nogil:
        if self.fixed_hh or self.fixed_back_hh:
            if real is float:
                fixed_pack(weight_hh, 0, self.R, self.N_hh, &self.fixed_hh, self.hh, &self.fixed_back_hh,
                           self.digits_back_hh, <float *> self.back_hh, <float *> self.counts)
        if keep and not self.fixed_back_hh:
            pack(weight_hh, self.R, False, self.N_hh, self.R, <real *> self.back_hh)
        if not self.fixed_hh:
            pack(weight_hh, self.R, True, self.R, self.N_hh, <real *> self.hh)

    cdef int backward_room(self, real *kind, void **at) except -1:
        """Memory for what a tape keeps, and the biases into it."""
        cdef ptrdiff_t H = self.H, R = self.R, N = self.N_ih
        cdef ptrdiff_t hh = packed_size(kind, self.N_hh, R), ih = packed_size(kind, N, self.I)
        cdef ptrdiff_t hn = packed_size(kind, H, H) if self.cell == GRU_BEFORE else 0
        cdef ptrdiff_t hr = packed_size(kind, R, H) if self.projected else 0
        cdef ptrdiff_t small = (2 * N if self.normal else 0) + (3 * H if self.has_ph else 0)
        cdef ptrdiff_t all = ceil_div((hh + ih + hn + hr + 2 * N + small) * sizeof(real), LINE) * LINE, digits = 0
        self.fixed_back_hh = not self.double and fixed_wants(fixed_back_from, self.N_hh, R)
        self.fixed_back_ih = not self.double and not self.tokens and fixed_wants(fixed_input_from, N, self.I)
        if self.fixed_back_hh:
            digits = ceil_div(fixed_size(self.N_hh, R), LINE) * LINE
        self.backward = take_memory(all + digits + (fixed_size(N, self.I) if self.fixed_back_ih else 0))
        self.digits_back_hh = self.backward.aligned + all
        self.digits_back_ih = self.backward.aligned + all + digits
        self.back_hh = self.backward.aligned
        self.back_ih = <real *> self.back_hh + hh
        self.back_hn = <real *> self.back_ih + ih
        self.back_hr = <real *> self.back_hn + hn
        self.biases = <real *> self.back_hr + hr
        if self.has_bias_ih:
            memcpy(self.biases, at[2], N * sizeof(real))
        if self.has_bias_hh:
            memcpy(<real *> self.biases + N, at[3], N * sizeof(real))
        return 0

    cdef const void *step_back_hh(self) noexcept nogil:
        """W_hh as the recurrence backwards multiplies by it."""
        return self.digits_back_hh if self.fixed_back_hh else self.back_hh

    cdef void vectors(self, real *into, void **at) noexcept nogil:
        """Gains and peepholes."""
        cdef ptrdiff_t N = self.N_ih
        if self.normal:
            self.gain_ih, self.gain_hh = into, into + N
            self.columns(<const real *> at[6], 1, into)
            memcpy(self.gain_hh, at[7], N * sizeof(real))
            into = into + 2 * N
        if self.has_ph:
            self.ph = into
            memcpy(into, at[5], 3 * self.H * sizeof(real))

    cdef void end_forward(self) noexcept:
        """Free what a backward pass doesn't need: a tape may live long."""
        cdef size_t size = 8 if self.double else 4
        cdef char *small = <char *> self.biases + 2 * self.N_ih * size
        if self.normal:
            memcpy(small, self.gain_ih, 2 * self.N_ih * size)
            self.gain_ih, self.gain_hh = small, small + self.N_ih * size
            small = small + 2 * self.N_ih * size
        if self.has_ph:
            memcpy(small, self.ph, 3 * self.H * size)
            self.ph = small
        self.forward = self.given = None
        self.hh = self.ih = self.hn = self.hr = self.bias = self.bias_q = NULL
        self.given_ih = self.counts = NULL

    cdef int unpacked(self, real *kind, void **at) except -1:
        """OUT the weights as they were given, in the order of `Weights`."""
        cdef ptrdiff_t I = self.I, H = self.H, N = self.N_ih
        cdef Memory ordered
        if self.fixed_back_hh:
            memcpy(at[1], self.back_hh, self.N_hh * self.R * sizeof(real))
        else:
            unpack(<const real *> self.back_hh, self.N_hh, self.R, <real *> at[1], self.R)
        if self.cell == GRU_BEFORE:
            unpack(<const real *> self.back_hn, H, H, <real *> at[1] + 2 * H * H, H)
        if self.tokens:
            self.parameters(<const real *> self.back_ih, I, <real *> at[0])
        elif self.fixed_back_ih:
            memcpy(at[0], self.back_ih, N * I * sizeof(real))
        else:
            ordered = take_memory(N * I * sizeof(real))
            unpack(<const real *> self.back_ih, N, I, <real *> ordered.aligned + self.first_ih() * I,
                   self.order_ih() * I)
            self.parameters(<const real *> ordered.aligned, I, <real *> at[0])
        if at[2] != NULL:
            memcpy(at[2], self.biases, N * sizeof(real))
        if at[3] != NULL:
            memcpy(at[3], <real *> self.biases + N, N * sizeof(real))
        if at[4] != NULL:
            unpack(<const real *> self.back_hr, self.R, H, <real *> at[4], H)
        if at[5] != NULL:
            memcpy(at[5], self.ph, 3 * H * sizeof(real))
        if at[6] != NULL:
            self.parameters(<const real *> self.gain_ih, 1, <real *> at[6])
            memcpy(at[7], self.gain_hh, N * sizeof(real))
        return 0

    cdef tuple arrays(self, dtype):
        """New arrays for the weights, or for their gradients, in the order of `Weights`."""
        cdef ptrdiff_t N = self.N_ih, H = self.H
        return (
            new(N * self.I, (N, self.I), dtype, self.double), new(N * self.R, (N, self.R), dtype, self.double),
            empty(N, dtype) if self.has_bias_ih else None, empty(N, dtype) if self.has_bias_hh else None,
            empty((self.R, H), dtype) if self.projected else None,
            empty(3 * H, dtype) if self.has_ph else None,
            empty(N, dtype) if self.normal else None, empty(N, dtype) if self.normal else None,
        )


# From a tuple: a twentieth of the time that the class takes for eight arguments.
as_weights = partial(tuple.__new__, Weights)
cdef Panels new_panels(str cell, weights, bint tokens, bint keep, ptrdiff_t rows):
    cdef Panels panels = Panels.__new__(Panels)
    panels.set(cell, weights, tokens, keep, rows)
    return panels


cdef dict CODES = {
    "tanh": TANH, "relu": RELU, "sigmoid": SIGMOID, "identity": IDENTITY,
    "lstm": LSTM, "gru": GRU, "gru_reset_before": GRU_BEFORE,
}
CELL_CODES = CODES
CELLS = tuple(CODES)
