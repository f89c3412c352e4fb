# Weights that may be those of the last call, which then need not be packed again.

cdef extern from "_digest.h" nogil:
    const ptrdiff_t DIGEST
    bint digest_quick()
    void digest(char *to, const char *p, ptrdiff_t size)

cdef enum:
    # Bytes of weights beyond which they are packed in every call: what is kept is held for as long as the layer lives.
    # With a copy to compare them with, which is as large again, fewer.
    REMEMBERED = 1 << 26
    REMEMBERED_COPIED = 1 << 22
    SAMPLES = 16
    # Bytes of weights up to which they are compared with a copy: in the nearest cache, and no digest takes less time.
    COPIED = 1 << 13

cdef bint digest_used = digest_quick()


@cython.final
cdef class Remembered:
    """Weights of one direction of one layer, for calls that may come again with the same numbers.

    A user may edit them between any two calls.  So that layers in training, whose weights never stay, pay for no copy:
    a call takes a few samples of the numbers; one that finds them as they were keeps what it packs, and a copy or a
    digest of all numbers, which later ones compare theirs with.
    """

    cdef readonly object weights
    cdef Panels panels      # packed for a forward pass, or None
    cdef Memory mark        # of the numbers that they were packed from, see `mark_of`
    cdef ptrdiff_t size     # of those, in bytes
    cdef uint64_t samples   # of the last call
    cdef bint called        # there was one

    @property
    def held(self):
        """Bytes of the weights whose packed copy is kept; 0 while there is none."""
        with cython.critical_section(self):
            return self.size

    cdef Panels packed(self, str cell, bint tokens, ptrdiff_t rows):
        """As `new_panels` for a forward pass."""
        cdef Buffers buffers = Buffers.__new__(Buffers)
        cdef ptrdiff_t size = 0, marked
        cdef uint64_t samples
        cdef bint again
        cdef Panels panels
        cdef Memory mark
        cdef int k
        buffers.read_shaped(self.weights[0])
        buffers.read_shaped(self.weights[1])
        for k in range(2, len(self.weights)):
            buffers.read(self.weights[k])
        for k in range(buffers.count):
            size += buffers.views[k].len
        if size > (REMEMBERED if digest_used else REMEMBERED_COPIED):
            return new_panels(cell, self.weights, tokens, False, rows)
        # calls of several threads at once, without a GIL
        with cython.critical_section(self):
            panels, mark, marked = self.panels, self.mark, self.size
        if (panels is not None and panels.tokens == tokens and size == marked
                and is_as_marked(buffers, panels, mark, size)):
            return panels
        samples = some_of(buffers)
        with cython.critical_section(self):
            again = self.called and samples == self.samples
            self.samples, self.called = samples, True
        if not again:
            self.keep(None, None, 0)
            return new_panels(cell, self.weights, tokens, False, rows)
        # The mark first: numbers that another thread changes meanwhile are not those of the next comparison.
        mark = mark_of(buffers, size)
        panels = new_panels(cell, self.weights, tokens, False, 0)
        if is_as_marked(buffers, panels, mark, size):
            self.keep(panels, mark, size)
        return panels

    cdef Panels packed_for_tape(self, str cell, bint tokens, ptrdiff_t rows):
        """As `new_panels`: a tape's snapshot is its own.  What is kept goes if the weights have been trained since."""
        cdef Buffers buffers
        cdef bint changed
        cdef int k
        if self.panels is not None:
            buffers = Buffers.__new__(Buffers)
            for k in range(len(self.weights)):
                buffers.read(self.weights[k])
            with cython.critical_section(self):
                changed = some_of(buffers) != self.samples
            if changed:
                self.keep(None, None, 0)
        return new_panels(cell, self.weights, tokens, True, rows)

    cdef int keep(self, Panels panels, Memory mark, ptrdiff_t size) except -1:
        with cython.critical_section(self):
            self.panels, self.mark, self.size = panels, mark, size
        return 0


cdef Memory mark_of(Buffers buffers, ptrdiff_t size):
    """What tells these numbers, so many bytes, from others: a copy of few, of many a digest where that is quick."""
    cdef bint digested = digest_used and size > COPIED
    cdef Memory mark = take_memory(DIGEST if digested else size)
    cdef ptrdiff_t at = 0
    cdef int k
    if digested:
        digest_all(buffers, mark.aligned)
        return mark
    for k in range(buffers.count):
        memcpy(mark.aligned + at, buffers.views[k].buf, buffers.views[k].len)
        at += buffers.views[k].len
    return mark


cdef void digest_all(Buffers buffers, char *to) noexcept:
    cdef int k
    memset(to, 0, DIGEST)
    for k in range(buffers.count):
        digest(to, <const char *> buffers.views[k].buf, buffers.views[k].len)


cdef bint is_as_marked(Buffers buffers, Panels panels, Memory mark, ptrdiff_t size) noexcept:
    """Whether so many bytes of numbers are those that the panels were packed from, and still of that shape."""
    cdef char now[DIGEST]
    cdef ptrdiff_t at = 0
    cdef int k
    if (buffers.views[0].itemsize != (8 if panels.double else 4) or buffers.views[0].shape[1] != panels.I
            or buffers.views[1].shape[1] != panels.R):
        return False
    if digest_used and size > COPIED:
        digest_all(buffers, now)
        return memcmp(now, mark.aligned, DIGEST) == 0
    for k in range(buffers.count):
        if memcmp(mark.aligned + at, buffers.views[k].buf, buffers.views[k].len) != 0:
            return False
        at += buffers.views[k].len
    return True


cdef uint64_t some_of(Buffers buffers) noexcept:
    """A number that is most likely another one for weights that have been trained meanwhile."""
    cdef uint64_t samples = 0
    cdef uint32_t word
    cdef ptrdiff_t words, j
    cdef int k
    for k in range(buffers.count):
        words = buffers.views[k].len // 4
        for j in range(0, words, words // SAMPLES + 1):
            memcpy(&word, <const char *> buffers.views[k].buf + 4 * j, 4)
            samples = (samples ^ word) * <uint64_t> 0x9e3779b97f4a7c15
    return samples


def remember(weights):
    """What `unroll` and `pack_weights` take in place of weights, see `Remembered`.

    Parameters
    ----------
    weights : Weights

    Returns
    -------
    Remembered
        For as many threads at once as there are.
    """
    cdef Remembered remembered = Remembered.__new__(Remembered)
    remembered.weights = weights
    return remembered


def pack_weights(str cell, weights, *, bint tokens=False, bint backward=False):
    """Weights packed once for many forward passes: a snapshot that `unroll` and `Stepper` take instead of them.

    Parameters
    ----------
    cell : str
        One of `CELLS`.
    weights : Weights or Remembered
    tokens : bool
        For token ids instead of numbers.
    backward : bool
        For `unroll` with ``keep`` too.

    Returns
    -------
    Panels
        May be used by several threads at once.
    """
    return unpacked_for(cell, weights, tokens, backward, 0)


cdef Panels unpacked_for(str cell, weights, bint tokens, bint keep, ptrdiff_t rows):
    """Weights packed that are not packed yet, or are so from the last call; see `Panels.set`."""
    cdef Remembered remembered
    if not isinstance(weights, Remembered):
        return new_panels(cell, weights, tokens, keep, rows)
    remembered = weights
    if keep:
        return remembered.packed_for_tape(cell, tokens, rows)
    return remembered.packed(cell, tokens, rows)


cdef Panels packed_for(str cell, weights, bint tokens, ptrdiff_t itemsize, bint keep, ptrdiff_t rows):
    """Weights packed, or those that are already, if they fit: others would be read outside their bounds."""
    cdef Panels panels
    if not isinstance(weights, Panels):
        panels = unpacked_for(cell, weights, tokens, keep, rows)
        if itemsize != (8 if panels.double else 4):
            raise ValueError(f"weights: expected numbers of {itemsize} bytes, got others: was a dtype set in place?")
        return panels
    panels = weights
    if keep and panels.backward is None:
        raise TypeError("weights: expected Weights for keep=True, got packed ones, which are for the forward pass only")
    if (panels.hh == NULL or panels.cell != CODES[cell] or panels.tokens != tokens
            or itemsize != (8 if panels.double else 4)):
        raise ValueError("weights: expected ones packed for this cell, dtype and kind of x, got others")
    return panels
