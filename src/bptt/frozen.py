"""Inference-only copies of recurrent layers, their weights packed once."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy.typing as npt

from bptt import checks
from bptt.arrays import Array
from bptt.noise import Rates, zoneouts
from bptt.recurrent import DERIVED, Given, Held, Recurrent
from bptt.stream import Stream
from bptt.structure import unnamed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bptt.structure import Structure


class Frozen(Recurrent[Given, Held]):
    """What the ``freeze`` of a layer makes: a snapshot that is called like it and gives the same bits.

    The parameters of a layer may be edited between any two calls, so that each packs the weights, or looks
    whether they are still those that were packed (up to 64 MiB of a layer and direction are kept); a frozen
    one packs them at its first call, once for numbers and once for token ids, whichever come. That saves the
    most on short sequences.

    Parameters
    ----------
    structure : Structure
        The layer's.
    options : mapping
        The values of the layer's options that are attributes below.
    parameters : mapping
        From PyTorch's names to arrays, which are taken over.

    Attributes
    ----------
    parameters : mapping
        The layer's parameters as they were, read-only.
    input_size, hidden_size, num_layers, bias, batch_first, bidirectional, zoneout, layer_norm, dtype, backend
        As in the layer; fixed.
    nonlinearity, proj_size, peepholes, reset_after
        Those that the layer has.

    Notes
    -----
    It is made by ``freeze`` and may be shared between threads. There is no ``record``: train the layer, and
    freeze it again. Since nothing about it changes, a copy (`copy.copy`, `copy.deepcopy`) is the object
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

    _common: ClassVar[tuple[str, ...]] = (
        "input_size",
        "hidden_size",
        "num_layers",
        "bias",
        "batch_first",
        "bidirectional",
        "zoneout",
        "layer_norm",
        "dtype",
        "backend",
    )
    __slots__ = (
        *_common,
        *DERIVED,
        "_module",
        "_packed",
        "_packed_alone",
    )
    backend: str
    zoneout: float | tuple[float, float]

    def __init__(
        self, structure: Structure, options: Mapping[str, Any], parameters: Mapping[str, Array]
    ) -> None:
        for name in self._options:
            setattr(self, name, options[name])
        for value in parameters.values():
            value.flags.writeable = False
        self.parameters = MappingProxyType(dict(parameters))
        self._derive(structure, Rates(0.0, 0.0, *zoneouts(self.zoneout, structure)))
        self._module = checks.resolve_backend(self.backend)
        self._unroll, self._short_call = self._module.unroll, self._module.short_call
        self._pack = self._module.pack
        # Whether for tokens, to what `unroll` takes of every unit.
        self._packed: dict[bool, tuple[Any, ...]] = {}
        # What `short_call` takes: the weights of one layer alone, once they are packed for numbers.
        self._packed_alone: Any = None

    def __call__(
        self,
        x: npt.ArrayLike,
        h_0: Given | None = None,
        *,
        lengths: npt.ArrayLike | None = None,
        reset: npt.ArrayLike | None = None,
        threads: int | None = None,
        check_finite: bool = False,
    ) -> tuple[Array, Held]:
        """Run the layer over a sequence; parameters, results and errors are those of the layer."""
        # The plainest calls, once the weights are packed, go the shortest way.
        packed = self._packed_alone
        right = threads is None or (type(threads) is int and threads > 0)
        if packed is not None and right and lengths is None and reset is None and not check_finite:
            result = self._short(packed, x, h_0)
            if result is not None:
                return result  # type: ignore[no-any-return]
        return super().__call__(
            x, h_0, lengths=lengths, reset=reset, threads=threads, check_finite=check_finite
        )

    def stream(self, batch_size: int = 1, h_0: Given | None = None) -> Stream[Given, Held]:
        """Make a stream, which takes one time step at a time and carries the state.

        Parameters
        ----------
        batch_size : int
            B, the number of sequences side by side.
        h_0 : array_like, for an LSTM a pair of them, optional
            Initial state as in a call; zeros if not given.

        Returns
        -------
        Stream
            All streams of a frozen layer share its packed weights.

        Raises
        ------
        TypeError, ValueError
            As the ``stream`` of the layer.
        """
        return Stream(self, batch_size, h_0)

    def _weights(self, tokens: bool) -> tuple[Any, ...]:
        """Return the packed weights. Of two threads that pack them at once, one does it in vain."""
        packed = self._packed.get(tokens)
        if packed is None:
            structure, pack = self._structure, self._pack
            weights = unnamed(structure, self.parameters)
            D = structure.directions
            # Only the first layer sees x. The others may be packed already.
            first = [pack(structure.cell, unit, tokens=tokens) for unit in weights[:D]]
            other = self._packed.get(not tokens)
            rest = other[D:] if other else [pack(structure.cell, unit, tokens=False) for unit in weights[D:]]
            packed = self._packed.setdefault(tokens, (*first, *rest))
            if not tokens and self._alone and not self.batch_first:
                self._packed_alone = packed[0]
        return packed

    def __copy__(self) -> Frozen[Given, Held]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Frozen[Given, Held]:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        options = {name: getattr(self, name) for name in self._options}
        return type(self), (self._structure, options, dict(self.parameters))


class FrozenRNN(Frozen[npt.ArrayLike, Array]):
    """What `RNN.freeze` makes, see `Frozen`."""

    _options = (*Frozen._common, "nonlinearity")
    _instead = "; freeze the RNN again"
    __slots__ = ("nonlinearity",)


class FrozenLSTM(Frozen[tuple[npt.ArrayLike | None, npt.ArrayLike | None], tuple[Array, Array]]):
    """What `LSTM.freeze` makes, see `Frozen`."""

    _options = (*Frozen._common, "proj_size", "peepholes")
    _instead = "; freeze the LSTM again"
    __slots__ = ("peepholes", "proj_size")


class FrozenGRU(Frozen[npt.ArrayLike, Array]):
    """What `GRU.freeze` makes, see `Frozen`."""

    _options = (*Frozen._common, "reset_after")
    _instead = "; freeze the GRU again"
    __slots__ = ("reset_after",)
