"""Recurrent layers: parameters, calls that are recorded for the gradient; the Elman layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from bptt import checks
from bptt.arrays import Array
from bptt.frozen import FrozenRNN
from bptt.initial import first_values
from bptt.noise import Rates, zoneouts
from bptt.parameters import Parametrised
from bptt.recurrent import DERIVED, SHORT, Given, Held, Recurrent
from bptt.stream import Stream
from bptt.structure import GATES, Structure, unnamed
from bptt.tape import Tape

if TYPE_CHECKING:
    from collections.abc import Callable

    from bptt.arrays import Weights
    from bptt.frozen import Frozen


class Layer(Recurrent[Given, Held], Parametrised):
    """Base of `RNN`, `LSTM` and `GRU`: what they have in common. Its options are described there."""

    _common: ClassVar[tuple[str, ...]] = (
        "input_size",
        "hidden_size",
        "num_layers",
        "bias",
        "batch_first",
        "dropout",
        "bidirectional",
        "recurrent_dropout",
        "zoneout",
        "layer_norm",
        "dtype",
        "seed",
        "init",
        "backend",
    )
    _inits: ClassVar[tuple[str, ...]] = checks.INITS[:2]
    _frozen: ClassVar[type[Frozen[Any, Any]]]
    __slots__ = (*_common, *DERIVED, "_remember")
    _remember: Callable[[Weights], Any]
    zoneout: float | tuple[float, float]
    backend: str

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        recurrent_dropout: float,
        zoneout: float | tuple[float, float],
        layer_norm: bool,
        dtype: npt.DTypeLike,
        seed: int | None,
        init: str,
        backend: str,
        forget_bias: float | None = None,
    ) -> None:
        self.input_size = checks.integer("input_size", input_size)
        self.hidden_size = checks.integer("hidden_size", hidden_size)
        self.num_layers = checks.integer("num_layers", num_layers)
        self.bias = checks.flag("bias", bias)
        self.batch_first = checks.flag("batch_first", batch_first)
        self.dropout = checks.rate("dropout", dropout)
        if self.dropout and self.num_layers == 1:
            raise ValueError(
                f"dropout: expected 0 with num_layers=1, as it acts between layers, got {self.dropout}; "
                "recurrent_dropout acts within one"
            )
        self.bidirectional = checks.flag("bidirectional", bidirectional)
        self.recurrent_dropout = checks.rate("recurrent_dropout", recurrent_dropout)
        self.zoneout = self._checked_zoneout(zoneout)
        self.layer_norm = checks.flag("layer_norm", layer_norm)
        self.dtype = checks.float_dtype(dtype)
        self.seed = checks.seed(seed)
        self.init = checks.choice("init", init, self._inits)
        self.backend = checks.choice("backend", backend, checks.BACKENDS)
        self._prepare()
        self.parameters = first_values(self._structure, self.dtype, self.seed, self.init, forget_bias)

    def _cell(self) -> dict[str, Any]:
        """Return what of `Structure` is this cell's own."""
        raise NotImplementedError

    @staticmethod
    def _checked_zoneout(zoneout: Any) -> float | tuple[float, float]:
        return checks.rate("zoneout", zoneout)

    def _prepare(self) -> None:
        """Derive what a call would otherwise work out each time."""
        structure = Structure(
            input_size=self.input_size,
            hidden_size=self.hidden_size,
            num_layers=self.num_layers,
            directions=2 if self.bidirectional else 1,
            bias=self.bias,
            layer_norm=self.layer_norm,
            **self._cell(),
        )
        self._derive(
            structure, Rates(self.dropout, self.recurrent_dropout, *zoneouts(self.zoneout, structure))
        )
        self._shapes = structure.parameter_shapes()
        ground = checks.resolve_backend(self.backend)
        self._unroll, self._short_call, self._pack = ground.unroll, ground.short_call, ground.pack
        self._remember = ground.remember
        if self._alone and not self.batch_first and self.backend == "kernels":
            of_row = structure.gates * self.hidden_size * (self.input_size + structure.state_size)
            self._few = SHORT // of_row
        self._seen = None

    def record(
        self,
        x: npt.ArrayLike,
        h_0: Given | None = None,
        *,
        lengths: npt.ArrayLike | None = None,
        reset: npt.ArrayLike | None = None,
        seed: int | None = None,
        threads: int | None = None,
        check_finite: bool = False,
        memory: int | None = None,
        checkpoint: int | None = None,
        outputs: str = "all",
    ) -> tuple[Array, Held, Tape]:
        """Run the layer over a sequence, keeping on a tape what the gradient needs: for training.

        Dropout and zoneout act as they do in training.

        Parameters
        ----------
        x, h_0, lengths, reset, threads, check_finite
            As in a plain call; `check_finite` not with `memory` or `checkpoint`.
        seed : int, optional
            Of the masks of dropout and zoneout in this pass; by default fresh entropy. The masks depend on
            nothing else but the sizes, and are on the tape.
        memory : int, optional
            Bytes that the tape and all working memory of this call and of one `Tape.backward` at a time may
            take. Only some states are then kept, as many as fit, and the rest of the pass is run again by
            the backward pass, piece by piece, for the same gradients, bit for bit (with the reference in
            float32 up to rounding). Not counted are what the caller gives and gets: x, y, dy, dL/dx.
        checkpoint : int, optional
            The same with this many states kept beside the initial one, between pieces of about one length.
            Not with `memory`.
        outputs : {"all", "last"}
            With ``"last"`` y and dy are those of the last step only, (B, D*R) or (D*R,): of each row its own
            last one, zeros for a row without steps. In two directions it is the last step of the sequence
            in both halves, which for the reverse direction is the first one that it makes.

        Returns
        -------
        y : ndarray
            h after every step, of the last layer. It is read-only if the tape holds it too; write
            ``y.copy()`` to change it.
        h_n : ndarray, for an LSTM a pair of them
            The last state; yours to change.
        tape : Tape
            See `Tape.backward`.

        Raises
        ------
        TypeError, ValueError, FloatingPointError
            As a plain call does; if `memory` is too little for this pass, in which case the message names
            the least that will do; if `checkpoint` is below 0 or given with `memory`, or `check_finite` is
            with one of the two; if `outputs` is something else.

        Notes
        -----
        The tape holds a reference to a floating-point x, not a copy: don't change x before the last
        `Tape.backward`. Token ids and states are copied, and so are the parameters, which may be updated
        while a tape is alive. x may be a memory-mapped array: with `memory` or `checkpoint` it is read piece
        by piece, in whatever layout. A bidirectional stack within a budget holds y of every layer but the
        last, since each direction of the next needs all of it.
        """
        last = checks.choice("outputs", outputs, ("all", "last")) == "last"
        if seed is not None:
            seed = checks.seed(seed)
        if memory is not None or checkpoint is not None:
            from bptt import checkpointed  # which few calls need

            if check_finite:
                raise ValueError("check_finite: expected False with memory or checkpoint, got True")
            return checkpointed.record(
                self,
                x,
                h_0,
                lengths=lengths,
                reset=reset,
                seed=seed,
                threads=threads,
                memory=memory,
                checkpoint=checkpoint,
                last=last,
            )
        y, h_n, recorded, batched = self._run(x, h_0, lengths, reset, True, seed, threads, check_finite)
        assert recorded is not None, "a recorded pass was not kept"
        tape = Tape(recorded, self.backend, batched, self.batch_first, last)
        return tape._last_step() if last else y, h_n, tape

    def freeze(self) -> Frozen[Given, Held]:
        """Make an inference-only copy, which packs its weights once and need not look at them again.

        Returns
        -------
        FrozenRNN, FrozenLSTM or FrozenGRU
            A snapshot: what becomes of this layer's parameters afterwards does not reach it. It is called
            like this layer and gives the same bits.
        """
        options = {name: getattr(self, name) for name in self._frozen._options}
        return self._frozen(self._structure, options, self.state_dict())

    def stream(self, batch_size: int = 1, h_0: Given | None = None) -> Stream[Given, Held]:
        """Make a stream, which takes one time step at a time and carries the state.

        Parameters
        ----------
        batch_size : int
            B, the number of sequences side by side.
        h_0 : array_like, for an LSTM a pair of them, optional
            Initial state as in a call; for one sequence its batch axis may be left out. Zeros if not given.

        Returns
        -------
        Stream
            It works from a snapshot of the parameters. For many streams of one layer call `freeze` once, and
            `Frozen.stream` for each.

        Raises
        ------
        TypeError
            If `batch_size` is not an integer, or h_0 of another dtype.
        ValueError
            If `batch_size` is below 1, or h_0 of another shape; for a bidirectional layer.
        """
        return Stream(self.freeze(), batch_size, h_0)

    def _weights(self, tokens: bool) -> tuple[Any, ...]:
        """Return what `unroll` takes; checked only if an entry is another array than at the last call."""
        parameters, seen = self.parameters, self._seen
        if seen is not None and len(parameters) == len(self._shapes):
            get = parameters.get
            for name, value in seen[0]:
                if get(name) is not value:
                    break
            else:
                return seen[1]  # type: ignore[no-any-return]
        arrays = self._read()
        weights = unnamed(self._structure, arrays)
        remembered = tuple(map(self._remember, weights))
        self._seen = (tuple(arrays.items()), remembered, weights)
        return remembered

    def _arrays(self) -> tuple[Weights, ...]:
        """Return the parameters of every unit."""
        self._weights(False)
        return self._seen[2]  # type: ignore[no-any-return]


class RNN(Layer[npt.ArrayLike, Array]):
    """Elman recurrent layer, h_t = f(x_t W_ih^T + b_ih + h_{t-1} W_hh^T + b_hh).

    Parameters
    ----------
    input_size : int
        I, the number of features of x; for token input, the number of different tokens.
    hidden_size : int
        H, the number of hidden units.
    num_layers : int
        L, each but the first fed with y of the one below.
    nonlinearity : {"tanh", "relu", "sigmoid", "identity"}
        f.
    bias : bool
        Whether there are b_ih and b_hh.
    batch_first : bool
        Whether batched x and y are (B, T, ...) rather than (T, B, ...). States are (L*D, B, H) either way.
    dropout : float
        In `record`, the share in [0, 1) of the entries of y of every layer but the last that the next one
        sees as 0; the others are multiplied by 1/(1-p). For several layers.
    bidirectional : bool
        Whether every layer also goes through the sequence from its end (D = 2), with parameters of its own;
        its y is (T, B, 2*H), both side by side.
    recurrent_dropout : float
        In `record`, the share in [0, 1) of the entries of h_{t-1} that W_hh sees as 0, the same ones at every
        step of a sequence; the others are multiplied by 1/(1-p) (Gal and Ghahramani, 2016).
    zoneout : float
        In `record`, the share in [0, 1) of the entries of h that stay at every step as they were; a plain
        call takes the mean over all such masks (Krueger et al., 2017).
    layer_norm : bool
        Whether W_ih x_t and W_hh h_{t-1} are each normalised over their H entries and multiplied by a gain,
        before the biases are added (Ba, Kiros and Hinton, 2016).
    dtype : float32 or float64
        Of the parameters and of everything that goes in and comes out. The two are never mixed silently.
    seed : int or None
        Of the first values of the parameters; None takes fresh entropy.
    init : {"uniform", "orthogonal", "identity"}
        ``"uniform"``: every parameter from U(-1/sqrt(H), 1/sqrt(H)), as PyTorch does. ``"orthogonal"``: the
        same but for weight_hh, a random orthogonal matrix (Saxe, McClelland and Ganguli, 2014).
        ``"identity"``: weight_hh the identity, biases zero, weight_ih normal with standard deviation 0.001
        (the IRNN of Le, Jaitly and Hinton, 2015, meant for ``"relu"``). Gains of `layer_norm` are 1.
    backend : {"kernels", "reference"}
        Compiled kernels, or the plain-Python reference that shows what they compute.

    Attributes
    ----------
    parameters : dict
        ``weight_ih_l0`` (H, I), ``weight_hh_l0`` (H, H), ``bias_ih_l0`` (H,), ``bias_hh_l0`` (H,), then
        ``weight_ih_l0_reverse`` and so on if bidirectional, then those of the next layer, ``weight_ih_l1``
        (H, D*H): plain arrays in PyTorch's names and layout, row = to, column = from. With `layer_norm` also
        the gains ``weight_ln_ih_l0`` and ``weight_ln_hh_l0`` (H,). Edit them in place or assign entries:
        every call reads them afresh. Everything else about a layer is fixed when it is made.
    output_size : int
        Size of the last axis of y.

    Raises
    ------
    TypeError, ValueError
        If an option is not one of those above.

    Notes
    -----
    The equations are in docs/equations.md, sections "Forward", "Stacks and directions", "Dropout and zoneout"
    and "Layer normalisation". Rates of dropout and zoneout are rounded to a multiple of 2^-16. A layer can be
    pickled and copied, and shared between threads as long as none of them changes its parameters.

    Examples
    --------
    >>> import numpy as np
    >>> from bptt import RNN
    >>> rnn = RNN(3, 4, seed=0)
    >>> x = np.ones((5, 2, 3), np.float32)  # (T, B, I)
    >>> y, h_n, tape = rnn.record(x)
    >>> y.shape, h_n.shape
    ((5, 2, 4), (1, 2, 4))
    >>> tape.backward(np.ones_like(y)).parameters["weight_hh_l0"].shape
    (4, 4)
    """

    _options = (*Layer._common, "nonlinearity")
    _inits = checks.INITS
    _frozen = FrozenRNN
    __slots__ = ("nonlinearity",)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        recurrent_dropout: float = 0.0,
        zoneout: float = 0.0,
        layer_norm: bool = False,
        dtype: npt.DTypeLike = np.float32,
        seed: int | None = None,
        init: str = "uniform",
        backend: str = "kernels",
    ) -> None:
        self.nonlinearity = checks.choice("nonlinearity", nonlinearity, checks.NONLINEARITIES)
        super().__init__(
            input_size,
            hidden_size,
            num_layers=num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            recurrent_dropout=recurrent_dropout,
            zoneout=zoneout,
            layer_norm=layer_norm,
            dtype=dtype,
            seed=seed,
            init=init,
            backend=backend,
        )

    def _cell(self) -> dict[str, Any]:
        return {"cell": self.nonlinearity, "gates": GATES["rnn"]}
