"""What a recorded forward pass keeps, and the gradients that come from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from bptt import checks, stack, truncation
from bptt.flow import gradient_flow, jacobian_products, terms
from bptt.gradients import Gradients as Gradients
from bptt.structure import named

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from bptt.arrays import Array, Mask, Tokens
    from bptt.stack import Pass
    from bptt.structure import Structure

    AnyArray = TypeVar("AnyArray", bound=npt.NDArray[Any])
    #: A pair or an array, as a state is.
    StateLike = npt.ArrayLike | tuple[npt.ArrayLike | None, npt.ArrayLike | None]

#: The names of so many gates, in the order of the weights.
GATE_NAMES = {4: "ifgo", 3: "rzn"}


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

    __slots__ = ("_last", "_pass", "backend", "batch_first", "batched")

    def __init__(
        self, recorded: Pass, backend: str, batched: bool, batch_first: bool, last: bool = False
    ) -> None:
        self._pass = recorded
        self._last = last  # whether the user sees the last step of y only
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
        return self._pass.structure.by_layer(self._outward(saved.y) for saved in self._pass.saved)

    @property
    def c(self) -> tuple[tuple[Array, ...], ...] | None:
        """The cell state of an LSTM after every step, (T, B, H) for each [layer][direction]; or None."""
        cells = [saved.c for saved in self._pass.saved if saved.c is not None]
        return self._pass.structure.by_layer(map(self._outward, cells)) if cells else None

    @property
    def gates(self) -> tuple[tuple[dict[str, Array], ...], ...]:
        """The gates at every step, by name, (T, B, H) each, for each [layer][direction].

        i, f, g and o of an LSTM, r, z and n of a GRU, none of an Elman layer; zero past a row's end.
        """
        names = GATE_NAMES.get(self._pass.structure.gates, "")
        return self._pass.structure.by_layer(
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
            self._pass.structure.by_layer(_read_only(mask if self.batched else mask[0]) for mask in masks)
            if masks
            else None
        )

    @property
    def zoneout_h(self) -> tuple[tuple[Mask, ...], ...] | None:
        """Where h stayed as it was, (T, B, R) for each [layer][direction]; None without zoneout of h."""
        masks = self._masks("kept_h")
        return self._pass.structure.by_layer(map(self._outward, masks)) if masks else None

    @property
    def zoneout_c(self) -> tuple[tuple[Mask, ...], ...] | None:
        """Where c stayed as it was, (T, B, H) for each [layer][direction]; None without zoneout of c."""
        masks = self._masks("kept_c")
        return self._pass.structure.by_layer(map(self._outward, masks)) if masks else None

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
        stride: int | None = None,
        input_grad: bool = True,
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
            h_0 stands at step 0, a row's initial state after a reset one step before it, and dh_n acts on a
            row's last step (docs/gradients.md, section "Truncation"). ``depth >= T + 1`` leaves nothing out;
            so it is by default. Not for a bidirectional layer.
        stride : int, optional
            With `depth`: time is cut into blocks of so many steps, and all losses of a block reach back to
            the same step, `depth` steps before the block's end (of a last one that is cut short too). At
            most `depth`; the default is 1, where each step is a block, and ``stride=depth`` is the same as
            cutting the sequence into chunks and carrying the state. ``depth >= T`` leaves nothing out. The
            cost is that of a forward and a backward pass over ``T * depth / stride`` steps.
        input_grad : bool
            Whether to compute dL/dx, which is as large as x.
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
            If dy or dh_n has another dtype than y, or `depth`, `stride` or `threads` is not an integer.
        ValueError
            If a shape is wrong, if neither dy nor dh_n is given, if `depth`, `stride` or `threads` is below
            1, if `stride` is more than `depth` or given alone, or `depth` is given for a bidirectional layer.
        """
        bptt = checks.resolve_backend(self.backend).bptt
        given = None if dy is None else self._given_dy(dy)
        cut = None
        if depth is not None or stride is not None:
            cut = truncation.check(depth, stride, self._pass.structure)
        return self._propagate(bptt, "backward", given, dh_n, cut, threads, input_grad)

    #: Looking at the gradient: see `bptt.flow`.
    terms = terms
    jacobian_products = jacobian_products
    gradient_flow = gradient_flow

    def _given_dy(self, dy: npt.ArrayLike) -> Array:
        """Check dy, and bring it to the layout of the pass."""
        y = self._pass.y
        if self._last:
            shape = self._pass.structure.frame_shape(y.shape[1], self.batched)
            at_end = checks.floats("dy", dy, shape, y.dtype).reshape(y.shape[1:])
            whole, (rows, t) = np.zeros_like(y), stack.last_steps(self._pass.lengths, *y.shape[:2])
            whole[t, rows] = at_end[rows]
            return whole
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

    def _last_step(self) -> Array:
        """Return y of each row's last step as the user sees it, a copy."""
        y = self._pass.y
        found, (rows, t) = np.zeros(y.shape[1:], y.dtype), stack.last_steps(self._pass.lengths, *y.shape[:2])
        found[rows] = y[t, rows]
        return found if self.batched else found[0]

    def _state_after(self, steps: int) -> Any:
        """Return the state after so many steps, of rows that have them, as layers take it; forward only."""
        recorded = self._pass
        if steps == 0:
            parts = recorded.initial
        else:
            after = ((own.y, own.c) if own.c is not None else (own.y,) for own in recorded.saved)
            parts = tuple(
                np.stack([part[steps - 1] for part in of_units]) for of_units in zip(*after, strict=True)
            )
        shown = tuple(map(self._to_user_state, parts))
        return shown if len(shown) == 2 else shown[0]

    def _given_state(
        self, dh_n: StateLike | None, structure: Structure, initial: tuple[Array, ...]
    ) -> tuple[Array | None, ...] | None:
        """Check dh_n, and bring it to the layout of the pass."""
        if dh_n is None:
            return None
        shapes = structure.state_shapes(initial[0].shape[1], self.batched)
        parts = checks.state_parts(("dh_n", "dc_n"), dh_n, shapes, initial[0].dtype)
        return tuple(
            None if part is None else part.reshape(whole.shape)
            for part, whole in zip(parts, initial, strict=True)
        )

    def _gradients(self, structure: Structure, found: Any) -> Gradients:
        """Return what `stack.backward` gives in the user's layout."""
        dx, dinitial, dweights = found
        return Gradients(
            None if dx is None else self._to_user(dx),
            self._to_user_state(dinitial[0]),
            named(structure, dweights),
            self._to_user_state(dinitial[1]) if len(dinitial) == 2 else None,
        )

    def _propagate(
        self,
        bptt: Callable[..., Any],
        caller: str,
        dy: Array | None,
        dh_n: StateLike | None,
        cut: tuple[int, int] | None,
        threads: int | None,
        input_grad: bool = True,
    ) -> Gradients:
        """Back-propagate a checked dy, and dh_n, by a `bptt` of the ground floor; `cut` is K and S."""
        if dy is None and dh_n is None:
            raise ValueError(f"{caller}: expected dy, dh_n or both, got neither")
        recorded = self._pass
        structure = recorded.structure
        dfinal = None if dh_n is None else self._given_state(dh_n, structure, recorded.initial)
        input_grad, threads = checks.flag("input_grad", input_grad), checks.resolve_threads(threads)
        if cut is None or truncation.is_whole(cut, len(recorded.y)):
            found = stack.backward(
                bptt, recorded, dy, dfinal, depth=None, threads=threads, input_grad=input_grad
            )
        else:
            ground = checks.resolve_backend(self.backend)
            found = truncation.propagate(
                ground, bptt, recorded, dy, dfinal, cut, input_grad=input_grad, threads=threads
            )
        return self._gradients(structure, found)

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
