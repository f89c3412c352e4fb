# A layer's weights, packed: the snapshot that a call, a tape or a stream works from.


cdef class Panels:
    """Packed weights of one direction of one Elman layer.

    forward:   W_hh^T (H, H), and W_ih^T (I, H) with the bias row, or for token input a table whose row v is
               W_ih[:, v] + bias
    backward:  W_hh (H, H) and W_ih (H, I), and the biases for whoever asks the tape for them
    """

    cdef Memory forward   # None on a tape: the backward pass has no use for it
    cdef Memory backward  # None but on a tape
    cdef int cell
    cdef bint odd  # the next time step walks the panels backwards
    cdef bint double
    cdef bint tokens
    cdef bint has_bias_ih
    cdef bint has_bias_hh
    cdef ptrdiff_t I
    cdef ptrdiff_t H
    cdef void *hh
    cdef void *ih
    cdef void *bias  # b_ih + b_hh, padded
    cdef void *back_hh
    cdef void *back_ih  # for tokens W_ih (H, I) as it is
    cdef void *back_biases  # b_ih, b_hh as they are

    def __init__(self, str cell, weights, bint tokens, bint keep):
        weight_ih, weight_hh, bias_ih, bias_hh = weights
        cdef Buffers buffers = Buffers()
        self.H, self.I = weight_ih.shape
        self.cell = CELL_CODES[cell]
        self.double = weight_ih.itemsize == 8
        self.tokens = tokens
        self.has_bias_ih = bias_ih is not None
        self.has_bias_hh = bias_hh is not None
        if self.double:
            self.fill[double](<double *> NULL, buffers.read(weight_ih), buffers.read(weight_hh),
                              buffers.read(bias_ih), buffers.read(bias_hh), keep)
        else:
            self.fill[float](<float *> NULL, buffers.read(weight_ih), buffers.read(weight_hh),
                             buffers.read(bias_ih), buffers.read(bias_hh), keep)

    cdef bint turn(self, ptrdiff_t T) noexcept nogil:
        """Whether the first of the next T steps walks the panels backwards: every other step ever made does.

        Calls that run at once may both take the same turn; it changes no sum.
        """
        cdef bint odd = self.odd
        self.odd = (odd + T) & 1
        return odd

    cdef int fill(
        self, real *kind, void *weight_ih, void *weight_hh, void *bias_ih, void *bias_hh, bint keep
    ) except -1:
        cdef ptrdiff_t I = self.I, H = self.H, Hp = padded(kind, H), L = lanes_of(kind)
        cdef ptrdiff_t hh = packed_size(kind, H, H), ih = I * Hp, back_ih = packed_size(kind, H, I)
        cdef ptrdiff_t j, v
        cdef real *b
        self.forward = Memory((Hp + hh + ih) * sizeof(real))
        b = <real *> self.forward.aligned
        self.bias = b
        memset(b, 0, Hp * sizeof(real))
        if self.has_bias_ih:
            for j in range(H):
                b[j] = (<real *> bias_ih)[j]
        if self.has_bias_hh:
            for j in range(H):
                b[j] = b[j] + (<real *> bias_hh)[j]
        self.hh = b + Hp
        self.ih = b + Hp + hh
        pack(<const real *> weight_hh, H, True, H, H, <real *> self.hh)
        if self.tokens:
            for v in range(Hp // L):
                pack_turned(<const real *> weight_ih + v * L * I, I, min(L, H - v * L), I, <real *> self.ih + v * L, Hp)
            for v in range(I):
                for j in range(H):
                    (<real *> self.ih)[v * Hp + j] = b[j] + (<real *> self.ih)[v * Hp + j]
        else:
            pack(<const real *> weight_ih, I, True, I, H, <real *> self.ih)
        if not keep:
            return 0
        self.backward = Memory((hh + back_ih + 2 * H) * sizeof(real))
        self.back_hh = self.backward.aligned
        self.back_ih = <real *> self.back_hh + hh
        self.back_biases = <real *> self.back_ih + back_ih
        pack(<const real *> weight_hh, H, False, H, H, <real *> self.back_hh)
        if self.tokens:
            memcpy(self.back_ih, weight_ih, H * I * sizeof(real))
        else:
            pack(<const real *> weight_ih, I, False, H, I, <real *> self.back_ih)
        if self.has_bias_ih:
            memcpy(self.back_biases, bias_ih, H * sizeof(real))
        if self.has_bias_hh:
            memcpy(<real *> self.back_biases + H, bias_hh, H * sizeof(real))
        return 0

    cdef void end_forward(self) noexcept:
        """Free what a backward pass doesn't need: a tape may live long."""
        self.forward = None
        self.hh = self.ih = self.bias = NULL

    cdef int unpacked(self, real *kind, void *weight_ih, void *weight_hh, void *bias_ih, void *bias_hh) except -1:
        """OUT the weights as they were given."""
        cdef ptrdiff_t I = self.I, H = self.H
        unpack(<const real *> self.back_hh, H, H, <real *> weight_hh)
        if self.tokens:
            memcpy(weight_ih, self.back_ih, H * I * sizeof(real))
        else:
            unpack(<const real *> self.back_ih, H, I, <real *> weight_ih)
        if bias_ih != NULL:
            memcpy(bias_ih, self.back_biases, H * sizeof(real))
        if bias_hh != NULL:
            memcpy(bias_hh, <real *> self.back_biases + H, H * sizeof(real))
        return 0


CELL_CODES = {"tanh": TANH, "relu": RELU, "sigmoid": SIGMOID, "identity": IDENTITY}
CELLS = tuple(CELL_CODES)


def pack_weights(str cell, weights, *, bint tokens=False):
    """Weights packed once for many forward passes: a snapshot that `unroll` and `Stepper` take instead of them.

    Parameters
    ----------
    cell : {"tanh", "relu", "sigmoid", "identity"}
    weights : Weights
    tokens : bool
        For token ids instead of numbers.

    Returns
    -------
    Panels
        May be used by several threads at once.
    """
    return Panels(cell, weights, tokens, False)


cdef Panels packed_for(str cell, weights, bint tokens, ptrdiff_t itemsize, bint keep):
    """Weights packed, or those that are already, if they fit: others would be read outside their bounds."""
    if not isinstance(weights, Panels):
        return Panels(cell, weights, tokens, keep)
    cdef Panels panels = weights
    if (panels.hh == NULL or panels.cell != CELL_CODES[cell] or panels.tokens != tokens
            or itemsize != (8 if panels.double else 4)):
        raise ValueError("weights: expected ones packed for this cell, dtype and kind of x, got others")
    return panels
