"""The recurrent layer: parameters, their first values, what is recorded for the gradient."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from bptt import checks
from bptt.arrays import Weights
from bptt.frozen import FrozenRNN
from bptt.parameters import RNN_NAMES, Parametrised
from bptt.recurrent import Recurrent
from bptt.stream import Stream
from bptt.tape import Tape

if TYPE_CHECKING:
    import numpy.typing as npt

    from bptt.arrays import Array


class RNN(Recurrent, Parametrised):
    """Elman recurrent layer, h_t = f(x_t W_ih^T + b_ih + h_{t-1} W_hh^T + b_hh).

    Parameters
    ----------
    input_size : int
        I, the number of features of x; for token input, the number of different tokens.
    hidden_size : int
        H, the number of hidden units.
    nonlinearity : {"tanh", "relu", "sigmoid", "identity"}
        f.
    bias : bool
        Whether there are b_ih and b_hh.
    batch_first : bool
        Whether batched x and y are (B, T, ...) rather than (T, B, ...). States are (1, B, H) either way.
    dtype : float32 or float64
        Of the parameters and of everything that goes in and comes out. The two are never mixed silently.
    seed : int or None
        Of the first values of the parameters; None takes fresh entropy.
    init : {"uniform", "orthogonal", "identity"}
        ``"uniform"``: every parameter from U(-1/sqrt(H), 1/sqrt(H)), as PyTorch does. ``"orthogonal"``: the
        same but for weight_hh, a random orthogonal matrix (Saxe, McClelland and Ganguli, 2014).
        ``"identity"``: weight_hh the identity, biases zero, weight_ih normal with standard deviation 0.001
        (the IRNN of Le, Jaitly and Hinton, 2015, meant for ``"relu"``).
    backend : {"kernels", "reference"}
        Compiled kernels, or the plain-Python reference that shows what they compute.

    Attributes
    ----------
    parameters : dict
        ``weight_ih_l0`` (H, I), ``weight_hh_l0`` (H, H), ``bias_ih_l0`` (H,), ``bias_hh_l0`` (H,): plain
        arrays in PyTorch's names and layout, row = to, column = from. Edit them in place or assign entries:
        every call reads them afresh. Everything else about a layer is fixed when it is made.

    Raises
    ------
    TypeError, ValueError
        If an option is not one of those above.

    Notes
    -----
    The equations are in docs/equations.md, section "Forward". A layer can be pickled and copied, and shared
    between threads as long as none of them changes its parameters.

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

    _options = (
        "input_size",
        "hidden_size",
        "nonlinearity",
        "bias",
        "batch_first",
        "dtype",
        "seed",
        "init",
        "backend",
    )
    __slots__ = (*_options, "_unroll")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dtype: npt.DTypeLike = np.float32,
        seed: int | None = None,
        init: str = "uniform",
        backend: str = "kernels",
    ) -> None:
        self.input_size = checks.integer("input_size", input_size)
        self.hidden_size = checks.integer("hidden_size", hidden_size)
        self.nonlinearity = checks.choice("nonlinearity", nonlinearity, checks.NONLINEARITIES)
        self.bias = checks.flag("bias", bias)
        self.batch_first = checks.flag("batch_first", batch_first)
        self.dtype = checks.float_dtype(dtype)
        self.seed = checks.seed(seed)
        self.init = checks.choice("init", init, checks.INITS)
        self.backend = checks.choice("backend", backend, checks.BACKENDS)
        self.parameters = self._initial_parameters()
        self._prepare()

    def _prepare(self) -> None:
        """Derive what a call would otherwise work out each time."""
        I, H = self.input_size, self.hidden_size
        shapes: dict[str, checks.Shape] = {
            "weight_ih_l0": ((H, I), "(hidden_size, input_size)"),
            "weight_hh_l0": ((H, H), "(hidden_size, hidden_size)"),
        }
        if self.bias:
            shapes["bias_ih_l0"] = shapes["bias_hh_l0"] = ((H,), "(hidden_size,)")
        self._shapes = shapes
        self._unroll = checks.resolve_backend(self.backend).unroll
        self._seen = None

    def _initial_parameters(self) -> dict[str, Array]:
        rng = np.random.default_rng(self.seed)
        I, H = self.input_size, self.hidden_size
        bound = 1.0 / math.sqrt(H)
        # Drawn in float64 whatever the dtype, so that a seed gives the same layer in both precisions.
        if self.init == "identity":
            weight_ih = rng.normal(0.0, 0.001, (H, I))
            weight_hh = np.eye(H)
            biases = np.zeros((2, H))
        else:
            weight_ih = rng.uniform(-bound, bound, (H, I))
            if self.init == "orthogonal":
                weight_hh = _orthogonal(rng, H)
            else:
                weight_hh = rng.uniform(-bound, bound, (H, H))
            biases = rng.uniform(-bound, bound, (2, H))
        values = (weight_ih, weight_hh, *biases) if self.bias else (weight_ih, weight_hh)
        return {name: np.array(value, self.dtype) for name, value in zip(RNN_NAMES, values, strict=False)}

    def record(
        self,
        x: npt.ArrayLike,
        h_0: npt.ArrayLike | None = None,
        *,
        threads: int | None = None,
        check_finite: bool = False,
    ) -> tuple[Array, Array, Tape]:
        """Run the layer over a sequence, keeping on a tape what the gradient needs.

        Parameters, errors and results are those of a plain call, with a tape in addition.

        Returns
        -------
        y : ndarray
            The state after every step. It is read-only, since the tape holds it too; write ``y.copy()`` to
            change it.
        h_n : ndarray
            The last state; yours to change.
        tape : Tape
            See `Tape.backward`.

        Notes
        -----
        The tape holds a reference to a floating-point x, not a copy: don't change x before the last
        `Tape.backward`. Token ids and h_0 are copied, and so are the parameters, which may be updated while
        a tape is alive.
        """
        y, h_n, saved, batched = self._run(x, h_0, True, threads, check_finite)
        tape = Tape(
            saved,
            nonlinearity=self.nonlinearity,
            backend=self.backend,
            batched=batched,
            batch_first=self.batch_first,
        )
        return y, h_n, tape

    def freeze(self) -> FrozenRNN:
        """Make an inference-only copy, which packs its weights once and not in every call.

        Returns
        -------
        FrozenRNN
            A snapshot: what becomes of this layer's parameters afterwards does not reach it. It is called
            like this layer and gives the same bits.
        """
        options = {name: getattr(self, name) for name in FrozenRNN._options}
        return FrozenRNN(options, self.state_dict())

    def stream(self, batch_size: int = 1, h_0: npt.ArrayLike | None = None) -> Stream:
        """Make a stream, which takes one time step at a time and carries the state.

        Parameters
        ----------
        batch_size : int
            B, the number of sequences side by side.
        h_0 : array_like, optional
            Initial state (1, B, H), for one sequence also (1, H); zeros if not given.

        Returns
        -------
        Stream
            It works from a snapshot of the parameters. For many streams of one layer call `freeze` once, and
            `FrozenRNN.stream` for each.

        Raises
        ------
        TypeError
            If `batch_size` is not an integer, or h_0 of another dtype.
        ValueError
            If `batch_size` is below 1, or h_0 of another shape.
        """
        return Stream(self.freeze(), batch_size, h_0)

    def _weights(self, tokens: bool) -> Weights:
        """Return the parameters; checked only if an entry is another array than at the last call."""
        parameters, seen = self.parameters, self._seen
        get = parameters.get
        if (
            seen is not None
            and get("weight_ih_l0") is seen[0]
            and get("weight_hh_l0") is seen[1]
            and get("bias_ih_l0") is seen[2]
            and get("bias_hh_l0") is seen[3]
            and len(parameters) == len(self._shapes)
        ):
            return seen  # type: ignore[no-any-return]
        arrays = self._read()
        weights = Weights(
            arrays["weight_ih_l0"],
            arrays["weight_hh_l0"],
            arrays.get("bias_ih_l0"),
            arrays.get("bias_hh_l0"),
        )
        self._seen = weights
        return weights

    def __repr__(self) -> str:
        return self._represent(
            "input_size",
            "hidden_size",
            nonlinearity=...,
            bias=True,
            batch_first=False,
            dtype=...,
            seed=None,
            init="uniform",
            backend="kernels",
        )


def _orthogonal(rng: np.random.Generator, size: int) -> npt.NDArray[np.float64]:
    """Return a random orthogonal matrix, uniform over the group.

    The QR decomposition of a normal matrix is, once the signs of R's diagonal are fixed (Mezzadri, 2007).
    """
    q, r = np.linalg.qr(rng.standard_normal((size, size)))
    return np.asarray(q * np.where(np.diagonal(r) < 0.0, -1.0, 1.0))
