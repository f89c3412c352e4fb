"""What a recorded forward pass keeps, and the gradients that come from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from bptt import checks, stack
from bptt.flow import gradient_flow, jacobian_products, terms
from bptt.structure import named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy.typing as npt

    from bptt.arrays import Array, Mask, Tokens
    from bptt.stack import Pass

    AnyArray = TypeVar("AnyArray", bound=npt.NDArray[Any])
    #: A pair or an array, as a state is.
    StateLike = npt.ArrayLike | tuple[npt.ArrayLike | None, npt.ArrayLike | None]
Entry = TypeVar("Entry")

#: The names of so many gates, in the order of the weights.
GATES = {4: "ifgo", 3: "rzn"}


class Gradients:
    """Gradients of a loss, as `Tape.backward` gives them.

    Attributes
    ----------
    x : ndarray or None
        dL/dx in the layout of x; None if x was token ids.
    h_0 : ndarray
        dL/dh_0 (L*D, B, R), or (L*D, R) unbatched.
    c_0 : ndarray or None
        dL/dc_0 (L*D, B, H) or (L*D, H) of an LSTM; None of another layer.
    parameters : dict
        dL/dparameter under the names of the layer's parameters, summed over time and batch.
    """

    __slots__ = ("c_0", "h_0", "parameters", "x")

    def __init__(
        self, x: Array | None, h_0: Array, parameters: dict[str, Array], c_0: Array | None = None
    ) -> None:
        self.x = x
        self.h_0 = h_0
        self.c_0 = c_0
        self.parameters = parameters

    def __repr__(self) -> str:
        x = None if self.x is None else self.x.shape
        c_0 = "" if self.c_0 is None else f"c_0={self.c_0.shape}, "
        parameters = ", ".join(f"{name}: {value.shape}" for name, value in self.parameters.items())
        return f"Gradients(x={x}, h_0={self.h_0.shape}, {c_0}parameters={{{parameters}}})"


class Tape:
    """What the ``record`` of a layer keeps of a forward pass.

    A tape is made by ``record`` only. It may be used for any number of backward passes, from any thread. Its
    arrays are read-only views in the layout of x and y, named below for a batched, time-major x: with
    `batch_first` their first two axes are (B, T), unbatched there is no B. L is num_layers, D the number of
    directions, R the size of h: H, or P with a projection. A list is indexed [layer][direction].

    Attributes
    ----------
    cell : str
        "tanh", "relu", "sigmoid", "identity", "lstm", "gru" or "gru_reset_before".
    backend : str
        ``"kernels"`` or ``"reference"``.
    batched : bool
        Whether x had a batch axis.
    batch_first : bool
        Whether the batch axis comes first in x and y.
    """

    __slots__ = ("_pass", "backend", "batch_first", "batched")

    def __init__(self, recorded: Pass, *, backend: str, batched: bool, batch_first: bool) -> None:
        self._pass = recorded
        self.backend = backend
        self.batched = batched
        self.batch_first = batch_first

    @property
    def cell(self) -> str:
        """The recurrence: a nonlinearity, "lstm", "gru" or "gru_reset_before"."""
        return self._pass.structure.cell

    @property
    def nonlinearity(self) -> str | None:
        """The activation f of an Elman layer; None of another."""
        return self.cell if self._pass.structure.gates == 1 else None

    @property
    def x(self) -> Array | Tokens:
        """The input, (T, B, I) or token ids (T, B)."""
        return self._outward(self._pass.saved[0].x)

    @property
    def y(self) -> Array:
        """The output, (T, B, D*R)."""
        return self._outward(self._pass.y)

    @property
    def h_0(self) -> Array:
        """The initial state, (L*D, B, R), or (L*D, R) unbatched."""
        return _read_only(self._to_user_state(self._pass.initial[0]))

    @property
    def c_0(self) -> Array | None:
        """The initial cell state of an LSTM, (L*D, B, H), or (L*D, H) unbatched; None of another layer."""
        initial = self._pass.initial
        return _read_only(self._to_user_state(initial[1])) if len(initial) == 2 else None

    @property
    def lengths(self) -> Tokens | int | None:
        """The number of steps of each row, (B,); an integer unbatched; None if none were given."""
        lengths = self._pass.lengths
        if lengths is None or self.batched:
            return None if lengths is None else _read_only(lengths)
        return int(lengths[0])

    @property
    def reset(self) -> Mask | None:
        """Where rows began again from the initial state, (T, B); None if no mask was given."""
        reset = self._pass.reset
        return None if reset is None else self._outward(reset)

    @property
    def h(self) -> tuple[tuple[Array, ...], ...]:
        """The state h after every step, (T, B, R) for each [layer][direction]; zero past a row's end."""
        return self._by_layer(self._outward(saved.y) for saved in self._pass.saved)

    @property
    def c(self) -> tuple[tuple[Array, ...], ...] | None:
        """The cell state of an LSTM after every step, (T, B, H) for each [layer][direction]; or None."""
        cells = [saved.c for saved in self._pass.saved if saved.c is not None]
        return self._by_layer(map(self._outward, cells)) if cells else None

    @property
    def gates(self) -> tuple[tuple[dict[str, Array], ...], ...]:
        """The gates at every step, by name, (T, B, H) each, for each [layer][direction].

        i, f, g and o of an LSTM, r, z and n of a GRU, none of an Elman layer; zero past a row's end.
        """
        names = GATES.get(self._pass.structure.gates, "")
        return self._by_layer(
            {name: self._outward(saved.gates[name]) for name in names} for saved in self._pass.saved
        )

    @property
    def dropout(self) -> tuple[Mask, ...] | None:
        """Where y of each layer but the last went on to the next, (T, B, D*R) for each; None without dropout.

        It was multiplied by 1/(1-p) there, and by 0 elsewhere.
        """
        masks = self._pass.masks
        if masks is None or not masks.dropout:
            return None
        return tuple(self._outward(mask) for mask in masks.dropout)

    @property
    def recurrent_dropout(self) -> tuple[tuple[Array, ...], ...] | None:
        """What h was multiplied by on its way into W_hh at every step: 0 or 1/(1-p).

        (B, R), unbatched (R,), for each [layer][direction]; None without recurrent dropout.
        """
        masks = self._masks("dropout")
        return (
            self._by_layer(_read_only(mask if self.batched else mask[0]) for mask in masks) if masks else None
        )

    @property
    def zoneout_h(self) -> tuple[tuple[Mask, ...], ...] | None:
        """Where h stayed as it was, (T, B, R) for each [layer][direction]; None without zoneout of h."""
        masks = self._masks("kept_h")
        return self._by_layer(map(self._outward, masks)) if masks else None

    @property
    def zoneout_c(self) -> tuple[tuple[Mask, ...], ...] | None:
        """Where c stayed as it was, (T, B, H) for each [layer][direction]; None without zoneout of c."""
        masks = self._masks("kept_c")
        return self._by_layer(map(self._outward, masks)) if masks else None

    @property
    def parameters(self) -> dict[str, Array]:
        """The layer's parameters as they were at the forward pass."""
        weights = (saved.weights for saved in self._pass.saved)
        return {name: _read_only(value) for name, value in named(self._pass.structure, weights).items()}

    def backward(
        self,
        dy: npt.ArrayLike | None = None,
        dh_n: StateLike | None = None,
        *,
        depth: int | None = None,
        threads: int | None = None,
    ) -> Gradients:
        """Back-propagate through time: docs/equations.md, section "Backward".

        Parameters
        ----------
        dy : array_like, optional
            dL/dy, with the shape and dtype of y; zeros if not given. Past a row's end it is not looked at.
        dh_n : array_like, for an LSTM a pair of them, optional
            dL/dh_n, with the shape and dtype of h_n, on top of what dy says of the last step; zeros if not
            given. For an LSTM (dL/dh_n, dL/dc_n), either of which may be None.
        depth : int, optional
            Truncation: the loss of step i reaches the parameters through steps i, i-1, ..., i-depth+1 only;
            h_0 stands at step 0 and dh_n acts on the last step. ``depth >= T + 1`` leaves nothing out. This
            is per-loss-step truncation (docs/equations.md, section "Truncation"), which is not the same as
            cutting the sequence into chunks and carrying the state. By default nothing is truncated. For one
            layer in one direction, without lengths, reset, recurrent dropout, zoneout and layer
            normalisation.
        threads : int, optional
            How many threads may share the work; default ``BPTT_NUM_THREADS`` or else all usable cores. The
            result doesn't depend on it.

        Returns
        -------
        Gradients
            New arrays, of the layer's dtype.

        Raises
        ------
        TypeError
            If dy or dh_n has another dtype than y, or `depth` or `threads` is not an integer.
        ValueError
            If a shape is wrong, if neither dy nor dh_n is given, if `depth` or `threads` is below 1, or if
            `depth` is given where it is not to be had.
        """
        bptt = checks.resolve_backend(self.backend).bptt
        given = None if dy is None else self._given_dy(dy)
        return self._propagate(bptt, "backward", given, dh_n, depth, threads)

    #: Looking at the gradient: see `bptt.flow`.
    terms = terms
    jacobian_products = jacobian_products
    gradient_flow = gradient_flow

    def _given_dy(self, dy: npt.ArrayLike) -> Array:
        """Check dy, and bring it to the layout of the pass."""
        y = self._pass.y
        if (
            self.batched
            and not self.batch_first
            and type(dy) is np.ndarray
            and dy.shape == y.shape
            and checks.is_ready(dy, y.dtype)
        ):
            return dy
        T, B, _ = y.shape
        shape = self._pass.structure.output_shape(T, B, self.batched, self.batch_first)
        return self._inward(checks.floats("dy", dy, shape, y.dtype))

    def _propagate(
        self,
        bptt: Callable[..., Any],
        caller: str,
        dy: Array | None,
        dh_n: StateLike | None,
        depth: int | None,
        threads: int | None,
    ) -> Gradients:
        """Back-propagate a checked dy, and dh_n, by a `bptt` of the ground floor."""
        if dy is None and dh_n is None:
            raise ValueError(f"{caller}: expected dy, dh_n or both, got neither")
        recorded = self._pass
        structure, y = recorded.structure, recorded.y
        B = y.shape[1]
        dfinal: tuple[Array | None, ...] | None = None
        if dh_n is not None:
            shapes = structure.state_shapes(B, self.batched)
            parts = checks.state_parts(("dh_n", "dc_n"), dh_n, shapes, y.dtype)
            dfinal = tuple(
                None if part is None else part.reshape(whole.shape)
                for part, whole in zip(parts, recorded.initial, strict=True)
            )

        dx, dinitial, dweights = stack.backward(
            bptt,
            recorded,
            dy,
            dfinal,
            depth=None if depth is None else self._depth(depth),
            threads=checks.resolve_threads(threads),
        )

        return Gradients(
            None if dx is None else self._to_user(dx),
            self._to_user_state(dinitial[0]),
            named(structure, dweights),
            self._to_user_state(dinitial[1]) if len(dinitial) == 2 else None,
        )

    def _depth(self, depth: Any) -> int:
        """Return a truncation depth, if this pass can have one."""
        checked, recorded = checks.integer("depth", depth), self._pass
        structure, masks = recorded.structure, recorded.masks
        hindrances = {
            "num_layers > 1": structure.num_layers > 1,
            "bidirectional": structure.directions == 2,
            "layer_norm": structure.layer_norm,
            "lengths": recorded.lengths is not None,
            "reset": recorded.reset is not None,
            "recurrent_dropout or zoneout": masks is not None and any(masks.noise),
        }
        for hindrance, there in hindrances.items():
            if there:
                raise ValueError(f"depth: expected None, since the pass has {hindrance}, got {checked}")
        return checked

    def _to_user(self, a: AnyArray) -> AnyArray:
        """From time-major (T, B, ...) to the user's layout; a view."""
        view: Any = a
        if not self.batched:
            view = a[:, 0]
        elif self.batch_first:
            view = a.swapaxes(0, 1)
        return view  # type: ignore[no-any-return]

    def _outward(self, a: AnyArray) -> AnyArray:
        """From time-major (T, B, ...) to the user's layout; a read-only view."""
        return _read_only(self._to_user(a))

    def _to_user_state(self, h: Array) -> Array:
        """From (L*D, B, ...) to the user's layout; a view."""
        return h if self.batched else h[:, 0]

    def _inward(self, a: Array) -> Array:
        """From the user's layout to time-major and C-contiguous (T, B, ...)."""
        if not self.batched:
            return a[:, np.newaxis]
        return np.ascontiguousarray(a.swapaxes(0, 1)) if self.batch_first else a

    def _by_layer(self, units: Iterable[Entry]) -> tuple[tuple[Entry, ...], ...]:
        """Arrange what there is of every layer and direction."""
        flat, D = tuple(units), self._pass.structure.directions
        return tuple(flat[first : first + D] for first in range(0, len(flat), D))

    def _masks(self, field: str) -> list[Any]:
        """Return this field of every layer's and direction's `Noise`; nothing where it is None."""
        masks = self._pass.masks
        noise = [] if masks is None else [unit for unit in masks.noise if unit is not None]
        return [getattr(unit, field) for unit in noise if getattr(unit, field) is not None]

    def __repr__(self) -> str:
        recorded = self._pass
        structure, x = recorded.structure, recorded.saved[0].x
        elman = self.nonlinearity
        cell = f"cell={self.cell!r}" if elman is None else f"nonlinearity={elman!r}"
        layers = "" if structure.num_layers == 1 else f", L={structure.num_layers}"
        directions = "" if structure.directions == 1 else f", D={structure.directions}"
        projection = f", P={structure.proj_size}" if structure.proj_size else ""
        sizes = f"T={x.shape[0]}, B={x.shape[1]}, I={structure.input_size}, H={structure.hidden_size}"
        tokens = ", tokens" if x.ndim == 2 else ""
        return f"Tape({cell}, {sizes}{projection}{layers}{directions}{tokens}, dtype={recorded.y.dtype})"


def _read_only(a: AnyArray) -> AnyArray:
    view = a.view()
    view.flags.writeable = False
    return view
