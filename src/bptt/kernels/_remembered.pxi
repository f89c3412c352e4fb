# Weights that may be those of the last call, which then need not be packed again.

cdef enum:
    # Bytes of weights beyond which they are packed in every call, which is little beside what such a layer's steps
    # take: what is kept would be held for as long as the layer lives.
    REMEMBERED = 1 << 22
    SAMPLES = 16


@cython.final
cdef class Remembered:
    """Weights of one direction of one layer, for calls that may come again with the same numbers.

    A user may edit them between any two calls.  So that layers in training, whose weights never stay, pay for no copy:
    a call takes a few samples of the numbers; one that finds them as they were keeps what it packs, and a copy of all
    numbers; later ones compare each number with the copy.
    """

    cdef readonly object weights
    cdef Panels panels      # packed for a forward pass, or None
    cdef Memory copy        # of the numbers that they were packed from
    cdef uint64_t samples   # of the last call
    cdef bint called        # there was one

    @property
    def held(self):
        """Bytes of the copy; 0 while there is none."""
        cdef Memory copy
        with cython.critical_section(self):
            copy = self.copy
        return copy.size if copy is not None else 0

    cdef Panels packed(self, str cell, bint tokens, ptrdiff_t rows):
        """As `new_panels` for a forward pass."""
        cdef Buffers buffers = Buffers.__new__(Buffers)
        cdef ptrdiff_t size = 0
        cdef uint64_t samples
        cdef bint again
        cdef Panels panels
        cdef Memory copy
        cdef int k
        buffers.read_shaped(self.weights[0])
        buffers.read_shaped(self.weights[1])
        for k in range(2, len(self.weights)):
            buffers.read(self.weights[k])
        for k in range(buffers.count):
            size += buffers.views[k].len
        if size > REMEMBERED:
            return new_panels(cell, self.weights, tokens, False, rows)
        # calls of several threads at once, without a GIL
        with cython.critical_section(self):
            panels, copy = self.panels, self.copy
        if panels is not None and panels.tokens == tokens and is_copy(buffers, panels, copy, size):
            return panels
        samples = some_of(buffers)
        with cython.critical_section(self):
            again = self.called and samples == self.samples
            self.samples, self.called = samples, True
        if not again:
            self.keep(None, None)
            return new_panels(cell, self.weights, tokens, False, rows)
        # The copy first: numbers that another thread changes meanwhile are not those of the next comparison.
        copy = copied(buffers, size)
        panels = new_panels(cell, self.weights, tokens, False, 0)
        if is_copy(buffers, panels, copy, size):
            self.keep(panels, copy)
        return panels

    cdef int keep(self, Panels panels, Memory copy) except -1:
        with cython.critical_section(self):
            self.panels, self.copy = panels, copy
        return 0


cdef bint is_copy(Buffers buffers, Panels panels, Memory copy, ptrdiff_t size) noexcept:
    """Whether all numbers are as in the copy that the panels were packed from, bit by bit, and still of that shape."""
    cdef ptrdiff_t at = 0
    cdef int k
    if (copy.size != size or buffers.views[0].itemsize != (8 if panels.double else 4)
            or buffers.views[0].shape[1] != panels.I or buffers.views[1].shape[1] != panels.R):
        return False
    for k in range(buffers.count):
        if memcmp(copy.aligned + at, buffers.views[k].buf, buffers.views[k].len) != 0:
            return False
        at += buffers.views[k].len
    return True


cdef Memory copied(Buffers buffers, ptrdiff_t size):
    cdef Memory copy = take_memory(size)
    cdef ptrdiff_t at = 0
    cdef int k
    for k in range(buffers.count):
        memcpy(copy.aligned + at, buffers.views[k].buf, buffers.views[k].len)
        at += buffers.views[k].len
    return copy


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
