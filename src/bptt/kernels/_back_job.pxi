# The backward pass as items of work that threads share, and all that they read and write.


cdef enum:
    RECURRENCE = 0
    TURN = 1
    PRODUCTS = 2


ctypedef struct ChunkItem:
    int phase
    ptrdiff_t chunk
    ptrdiff_t item  # of that phase


cdef class BpttJob(Job):
    """The backward pass: see _bptt.pxi for how its items follow each other."""

    cdef Panels weights
    cdef Course course
    cdef Memory bounds_memory
    cdef int64_t *bounds        # (chunks + 1,): chunk k is steps bounds[k + 1] .. bounds[k] - 1
    cdef ptrdiff_t chunks
    cdef ptrdiff_t capacity     # rows of the largest chunk
    cdef ptrdiff_t sets         # of its arrays: 2 where threads share the work
    cdef share_count[3] done    # items of each phase, which follow one another within it
    cdef ptrdiff_t blocks       # items of a chunk's recurrence, then ...
    cdef ptrdiff_t turns        # items that transpose da, then ...
    cdef ptrdiff_t products     # ... the products, once it is known how they are cut:
    cdef ptrdiff_t input_groups  # among them groups of rows of dx
    cdef Memory scratch         # a panel, and what `back_step` wants, for each worker; split operands of a chunk
    cdef size_t scratch_each
    cdef size_t scratch_right   # where in it a worker's split operands are
    cdef bint input_fixed       # dx in whole numbers
    cdef bint coarse            # that and dL/dh without their lowest digits, see _digits.h
    cdef bint sum_fixed         # weight gradients too, which is why da is split as it is transposed
    cdef char *left_ih          # WORK d_ih transposed, see _split.h
    cdef char *left_hh          # WORK d_hh transposed
    cdef char *unfit_ih         # WORK: whether 16 rows of d_ih transposed don't fit, for each of them
    cdef char *unfit_hh
    cdef Memory work            # all that is WORK below
    cdef bint deep              # truncated: dh_t and dc_t are given by DepthJob
    cdef void *x                # IN (T, B, I) or tokens (T, B)
    cdef void *h_0              # IN (B, R): where a reset goes back to
    cdef void *c_0              # IN (B, H)
    cdef void *h_begin          # IN (B, R): before the first step
    cdef void *c_begin          # IN (B, H)
    cdef void *y                # IN (T, B, R)
    cdef void *c                # IN (T, B, H)
    cdef void *gates            # IN (T, B, S)
    cdef void *normed_ih        # IN (T, B, N_ih), and so on: see UnrollJob
    cdef void *normed_hh
    cdef void *rate_ih
    cdef void *rate_hh
    cdef void *dy               # IN (T, B, R) or NULL
    cdef double *squares        # OUT (T, B) or NULL: squared norm of dL/dh_t
    cdef bint adds              # to gradients that are there already
    cdef bint whole             # a whole backward pass with its sums, not single steps
    # by number of the row
    cdef void *carry_h          # WORK (B, R): dL/dh_t but for dy_t
    cdef void *carry_c          # WORK (B, H)
    cdef void *deep_h           # WORK (steps of all rows, R): dL/dh_t truncated
    cdef void *deep_c           # WORK (steps of all rows, H)
    # of one chunk, or of `sets`, rows (s, r) side by side
    cdef void *da               # WORK (capacity, S); with layer normalisation NULL, unless something else wants it
    cdef void *d_ih             # WORK (capacity, N_ih): gradient of W_ih x; without layer normalisation in da
    cdef void *d_hh             # WORK (capacity, N_hh): gradient of W_hh h_{t-1}
    cdef void *turned_ih        # WORK (N_ih, capacity): d_ih transposed (where turns > 0)
    cdef void *turned_hh        # WORK (N_hh, capacity)
    cdef void *h_before         # WORK (capacity, R): h_{t-1} as W_hh sees it; NULL where nobody wants it
    cdef void *xs               # WORK (capacity, I) or tokens (capacity,); NULL where x is that
    cdef void *dxs              # WORK (capacity, I); NULL where dx is that
    cdef void *dh               # WORK (capacity, R): dL/dh_t of a projected LSTM
    cdef void *m                # WORK (capacity, H): m_t of a projected LSTM, s_t of a GRU that resets before
    cdef void *dx               # OUT (T, B, I)
    cdef void *dh_0             # INOUT (B, R): of what resets go back to
    cdef void *dc_0             # INOUT (B, H)
    cdef void *dh_begin         # INOUT (B, R), zeros at first: dh_0, or that of the state before the first step
    cdef void *dc_begin         # INOUT (B, H)
    cdef void *dw[8]            # OUT as Weights; of tokens dw[0] is INOUT (I, padded N_ih) of zeros
    cdef void *dbias            # OUT (S,)
    cdef void *dgain            # OUT (N_ih,), in the order of the columns
    # of layers with normalisation, for each of `sets` chunks: WORK (groups of rows, S + N_ih + N_hh), sums over those
    # rows of da, da LN(W_ih x), da LN(W_hh h), while that is at hand
    cdef double *sums

    cdef ptrdiff_t gradient_items(self) noexcept nogil:
        if self.weights.double:
            return gradient_count(self, self.weights, <double *> NULL)
        return gradient_count(self, self.weights, <float *> NULL)

    cdef ChunkItem find(self, int64_t k) noexcept nogil:
        """What item k is.

        In each chunk the recurrence comes first, then the transposition, then the products.  Of several threads the
        one that is first with its part of a recurrence would wait for the others: so with two sets of a chunk's arrays
        the recurrence of the next chunk comes before the products, which all share in the meantime.
        """
        cdef ChunkItem found
        cdef ptrdiff_t each = self.blocks + self.turns + self.products, ahead = 0
        found.phase = RECURRENCE
        found.chunk = 0
        found.item = k
        if k < self.blocks:
            return found
        if self.sets > 1:
            k -= self.blocks
            found.chunk = k // each
            found.phase = TURN
            found.item = k % each
            ahead = self.blocks if found.chunk + 1 < self.chunks else 0
        else:
            found.chunk = k // each
            found.item = k % each
            if found.item < self.blocks:
                return found
            found.phase = TURN
            found.item -= self.blocks
        if found.item < self.turns:
            return found
        found.item -= self.turns
        if found.item < ahead:
            found.phase = RECURRENCE
            found.chunk += 1
            return found
        found.phase = PRODUCTS
        found.item -= ahead
        return found

    cdef bint ready(self, int64_t k) noexcept nogil:
        cdef ChunkItem what = self.find(k)
        cdef int64_t chunks = what.chunk
        if what.phase == RECURRENCE:
            # the state that it goes on from; the products of the chunk that was last in the same arrays
            return (share_read(&self.done[RECURRENCE]) >= chunks * self.blocks
                    and share_read(&self.done[PRODUCTS]) >= (chunks + 1 - self.sets) * self.products)
        # what is transposed is in the same memory as that of the chunk before, and goes into the same sums
        return (share_read(&self.done[RECURRENCE]) >= (chunks + 1) * self.blocks
                and share_read(&self.done[PRODUCTS]) >= chunks * self.products
                and (what.phase == TURN or share_read(&self.done[TURN]) >= (chunks + 1) * self.turns))

    cdef void count(self, int64_t k) noexcept nogil:
        share_add(&self.done[self.find(k).phase])
        share_add(&self.finished)

    cdef void item(self, int64_t k, int worker) noexcept nogil:
        if self.weights.double:
            bptt_item(self, self.weights, self.course, self.find(k), worker, <double *> NULL)
        else:
            bptt_item(self, self.weights, self.course, self.find(k), worker, <float *> NULL)

    cdef ptrdiff_t set_row(self, ptrdiff_t chunk) noexcept nogil:
        """Where in the arrays of `sets` chunks its rows are."""
        return chunk % self.sets * self.capacity

    cdef double *set_sums(self, ptrdiff_t chunk) noexcept nogil:
        if self.sums == NULL:
            return NULL
        return self.sums + chunk % self.sets * sum_groups(self.course.B) * row_sums(self.weights)

    cdef ptrdiff_t first_row(self, ptrdiff_t block) noexcept nogil:
        """Where a part of the recurrence begins: one with sums, where a group of rows does."""
        cdef ptrdiff_t B = self.course.B
        if not self.weights.normal:
            return block_start(B, self.blocks, block)
        return min(B, summed_together(B) * block_start(sum_groups(B), self.blocks, block))
