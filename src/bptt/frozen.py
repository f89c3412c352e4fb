"""An inference-only copy of a recurrent layer, its weights packed once."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bptt import checks
from bptt.arrays import Weights
from bptt.parameters import RNN_NAMES, Fixed
from bptt.recurrent import Recurrent
from bptt.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from bptt.arrays import Array


class FrozenRNN(Recurrent, Fixed):
    """What `RNN.freeze` makes: a snapshot of a layer that is called like it and gives the same bits.

    A layer packs its weights in every call, so that its parameters may be edited between two of them; a
    frozen one packs them at its first call, once for numbers and once for token ids, whichever come. That
    saves the most on short sequences.

    Parameters
    ----------
    options : mapping
        The values of the layer's options that are attributes below.
    parameters : mapping
        From PyTorch's names to arrays, which are taken over.

    Attributes
    ----------
    parameters : mapping
        The layer's parameters as they were, read-only.
    input_size, hidden_size, nonlinearity, bias, batch_first, dtype, backend
        As in `RNN`; fixed.

    Notes
    -----
    It is made by `RNN.freeze` and may be shared between threads. There is no `RNN.record`: train the layer,
    and freeze it again. Since nothing about it changes, a copy (`copy.copy`, `copy.deepcopy`) is the object
    itself; pickling writes the parameters, and the weights are packed anew where they are read.

    Besides the packed weights it keeps the parameters, so that it takes about twice the layer's memory.

    Examples
    --------
    >>> import numpy as np
    >>> from bptt import RNN
    >>> rnn = RNN(3, 4, seed=0)
    >>> frozen = rnn.freeze()
    >>> x = np.ones((5, 2, 3), np.float32)  # (T, B, I)
    >>> y, h_n = frozen(x)
    >>> np.array_equal(y, rnn(x)[0])
    True
    """

    _options = ("input_size", "hidden_size", "nonlinearity", "bias", "batch_first", "dtype", "backend")
    _instead = "; freeze the RNN again"
    __slots__ = (*_options, "_module", "_packed", "_short_call", "_unroll")
    backend: str

    def __init__(self, options: Mapping[str, Any], parameters: Mapping[str, Array]) -> None:
        for name in self._options:
            setattr(self, name, options[name])
        for value in parameters.values():
            value.flags.writeable = False
        self.parameters = MappingProxyType(dict(parameters))
        self._module = checks.resolve_backend(self.backend)
        self._unroll, self._short_call = self._module.unroll, self._module.short_call
        # Whether for tokens, to what `unroll` takes.
        self._packed: dict[bool, Any] = {}

    def __call__(
        self,
        x: npt.ArrayLike,
        h_0: npt.ArrayLike | None = None,
        *,
        threads: int | None = None,
        check_finite: bool = False,
    ) -> tuple[Array, Array]:
        """Run the layer over a sequence; parameters, results and errors are those of `RNN`."""
        # The plainest calls, once the weights are packed, go the shortest way.
        packed = self._packed.get(False)
        right = threads is None or (type(threads) is int and threads > 0)
        if packed is not None and right and not (check_finite or self.batch_first):
            result = self._short_call(packed, x, h_0)
            if result is not None:
                return result
        return super().__call__(x, h_0, threads=threads, check_finite=check_finite)

    def stream(self, batch_size: int = 1, h_0: npt.ArrayLike | None = None) -> Stream:
        """Make a stream, which takes one time step at a time and carries the state.

        Parameters, errors and results are those of `RNN.stream`. All streams share these packed weights.
        """
        return Stream(self, batch_size, h_0)

    def _weights(self, tokens: bool) -> Any:
        """Return the packed weights. Of two threads that pack them at once, one does it in vain."""
        packed = self._packed.get(tokens)
        if packed is None:
            weights = Weights(*(self.parameters.get(name) for name in RNN_NAMES))  # type: ignore[arg-type]
            packed = self._module.pack(self.nonlinearity, weights, tokens=tokens)
            packed = self._packed.setdefault(tokens, packed)
        return packed

    def __copy__(self) -> FrozenRNN:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenRNN:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        options = {name: getattr(self, name) for name in self._options}
        return type(self), (options, dict(self.parameters))

    def __repr__(self) -> str:
        return self._represent(
            "input_size",
            "hidden_size",
            nonlinearity=...,
            bias=True,
            batch_first=False,
            dtype=...,
            backend="kernels",
        )
