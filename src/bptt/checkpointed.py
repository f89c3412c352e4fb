"""Recording within a memory budget, and the tape that comes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from bptt import budget, checkpointed_pass, checks, noise, schedule, stack, truncation
from bptt.checkpointing import Recipe, Walk, lanes
from bptt.gradients import Gradients
from bptt.tape import Tape

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from bptt.arrays import Array, Tokens
    from bptt.checkpointed_pass import Recorded
    from bptt.layers import Layer
    from bptt.schedule import Schedule
    from bptt.tape import StateLike


class CheckpointedTape(Tape):
    """The tape of a pass that was recorded with ``memory`` or ``checkpoint``.

    It has the `Tape.backward` of a tape, with the same gradients, and nothing that looks into the pass:
    states, gates and masks are not there. The first backward pass goes on from what recording left, each
    later one runs over the whole sequence once more; so does the first if it is truncated, or has to copy
    pieces of dy and the budget has no room for these beside what was left.
    """

    __slots__ = ("_recorded", "_steps_taped")

    def __init__(
        self,
        recorded: Recorded,
        *,
        backend: str,
        batched: bool,
        batch_first: bool,
        steps_taped: int | None,
    ) -> None:
        self._recorded = recorded
        self._steps_taped = steps_taped  # at most, None: any number
        self.backend = backend
        self.batched = batched
        self.batch_first = batch_first

    @property
    def _pass(self) -> NoReturn:  # type: ignore[override]
        raise ValueError(
            "tape: expected one with all states, got one recorded with memory or checkpoint, which keeps a "
            "few of them; record without"
        )

    @property
    def cell(self) -> str:
        """The recurrence: a nonlinearity, "lstm", "gru" or "gru_reset_before"."""
        return self._recorded.recipe.structure.cell

    @property
    def nonlinearity(self) -> str | None:
        """The activation f of an Elman layer; None of another."""
        return self.cell if self._recorded.recipe.structure.gates == 1 else None

    @property
    def x(self) -> Array | Tokens:
        """The input, (T, B, I) or token ids (T, B)."""
        x: Array | Tokens = self._recorded.recipe.x
        return self._outward(x)

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
        """Back-propagate through time, running pieces of the pass again: see `Tape.backward`.

        Parameters
        ----------
        dy : array_like, optional
            dL/dy, with the shape and dtype of y; of a pass with ``outputs="last"`` that of the last step, (B,
            D*R) or (D*R,).
        dh_n, depth, stride, input_grad, threads
            As there. dL/dx is as large as x, and not counted in the budget.

        Returns
        -------
        Gradients

        Raises
        ------
        TypeError, ValueError
            As there; and if the steps of `depth` don't fit into the budget, or token ids were changed.
        """
        if dy is None and dh_n is None:
            raise ValueError("backward: expected dy, dh_n or both, got neither")
        recorded = self._recorded
        recipe, structure = recorded.recipe, recorded.recipe.structure
        given = None if dy is None else self._view(dy)
        cut = truncation.check(depth, stride, structure)
        dfinal = self._given_state(dh_n, structure, recipe.initial)
        wanted, count = checks.flag("input_grad", input_grad), checks.resolve_threads(threads)
        if cut is None or truncation.is_whole(cut, len(recipe.x)):
            found: Any = checkpointed_pass.backward(recorded, given, dfinal, input_grad=wanted, threads=count)
        else:
            found = self._truncated(given, dfinal, cut, wanted, count)
        return self._gradients(structure, found)

    def _view(self, dy: npt.ArrayLike) -> Array:
        """Check dy, and return a time-major view."""
        recipe, structure = self._recorded.recipe, self._recorded.recipe.structure
        T, B = recipe.x.shape[:2]
        a = checks.as_array("dy", dy)
        checks.check_float("dy", dy, a, recipe.dtype)
        if self._recorded.last:
            checks.check_shape("dy", a, structure.frame_shape(B, self.batched))
            return a.reshape(B, structure.output_size)
        checks.check_shape("dy", a, structure.output_shape(T, B, self.batched, self.batch_first))
        if not self.batched:
            return a[:, np.newaxis]
        return a.swapaxes(0, 1) if self.batch_first else a

    def _truncated(
        self,
        dy: Array | None,
        dfinal: tuple[Array | None, ...] | None,
        cut: tuple[int, int],
        input_grad: bool,
        threads: int,
    ) -> Any:
        """Back-propagate window by window, the state running ahead from one to the next."""
        recorded, most = self._recorded, self._steps_taped
        if most is not None and cut[0] > most:
            raise ValueError(f"depth: expected at most {most}, which fit into the budget, got {cut[0]}")
        recipe = recorded.recipe
        checkpointed_pass.forget(recorded)
        (lane,) = lanes(recipe)
        walk = Walk(recipe, lane, recorded.schedule(), recipe.x, threads)
        here: list[Any] = [0, lane.initial]

        def before(first: int) -> Any:
            here[:] = first, walk.run(here[0], first, here[1])
            return here[1]

        length = 0

        def read(first: int, last: int) -> Any:
            nonlocal length
            if last - first != length:
                # blocks of memory of this size will not be found among those that are kept
                recipe.ground.release_memory()
                length = last - first
            return walk.read(first, last)

        if recorded.last and dy is not None:
            # a row's last output is its final state
            dfinal = checkpointed_pass.with_last(recipe, dfinal, dy)
            dy = None
        return truncation.backward(
            recipe.ground.unroll,
            recipe.ground.bptt,
            lane,
            recipe.weights,
            read,
            recipe.x,
            before,
            dy,
            dfinal,
            recipe.shapes,
            depth=cut[0],
            stride=cut[1],
            input_grad=input_grad,
            threads=threads,
        )

    def __repr__(self) -> str:
        recipe = self._recorded.recipe
        T, B = recipe.x.shape[:2]
        H = recipe.structure.hidden_size
        return f"CheckpointedTape(cell={self.cell!r}, T={T}, B={B}, H={H}, dtype={recipe.dtype})"


def record(
    layer: Layer[Any, Any],
    x: Any,
    h_0: Any,
    *,
    lengths: Any,
    reset: Any,
    seed: int | None,
    threads: int | None,
    memory: Any,
    checkpoint: Any,
    last: bool,
) -> tuple[Array, Any, CheckpointedTape]:
    """Record a pass of a layer; see `Layer.record`, which describes the arguments."""
    structure, dtype = layer._structure, layer.dtype
    x, batched = checks.sequence(x, structure.input_size, dtype, layer.batch_first, ready=False)
    T, B = x.shape[:2]
    tokens = x.ndim == 2
    weights = layer._arrays()
    initial = layer._initial(h_0, B, batched, True)
    count = checks.resolve_threads(threads)
    if lengths is not None:
        lengths = checks.lengths(lengths, T, B, batched)
    if reset is not None:
        reset = checks.reset(reset, T, B, batched, layer.batch_first)
    lengths, reset = stack.course(lengths, reset, T)
    ground = checks.resolve_backend(layer.backend)
    bounds = np.array(ground.chunk_bounds(T, B, lengths)[::-1], np.int64)
    copied = layer.batch_first or not (tokens or (x.dtype == dtype and x.flags.c_contiguous))
    now = budget.Situation(
        T,
        B,
        dtype.itemsize,
        tokens,
        lengths is not None,
        reset is not None,
        layer._rates,
        copied,
        len(bounds) - 1,
        count,
    )
    costs = budget.costs(structure, now)
    plan, beside_dy, most = _plan(bounds, costs, memory, checkpoint)
    recipe = Recipe(
        ground,
        structure,
        [
            ground.pack(structure.cell, own, tokens=tokens and unit < structure.directions, backward=True)
            for unit, own in enumerate(weights)
        ],
        weights,
        x,
        dtype,
        initial,
        lengths,
        reset,
        noise.draws(structure, layer._rates, T, B, dtype, seed),
    )
    y, final, recorded = checkpointed_pass.record(recipe, plan, beside_dy, last=last, threads=count)
    tape = CheckpointedTape(
        recorded, backend=layer.backend, batched=batched, batch_first=layer.batch_first, steps_taped=most
    )
    if not batched:
        y, final = (y[0] if last else y[:, 0]), tuple([part[:, 0] for part in final])
    elif layer.batch_first and not last:
        y = y.swapaxes(0, 1)
    return y, final if len(final) == 2 else final[0], tape


def _plan(
    bounds: npt.NDArray[np.int64], costs: budget.Costs, memory: Any, checkpoint: Any
) -> tuple[Callable[[], Schedule], Callable[[], Schedule] | None, int | None]:
    """Return what makes a schedule, and one beside copies of dy; the most steps of a window, if limited."""
    if checkpoint is not None:
        if memory is not None:
            raise ValueError(f"checkpoint: expected None with memory, got {checkpoint!r}")
        fixed = schedule.even(bounds, checks.integer("checkpoint", checkpoint, 0))
        return lambda: fixed, None, None
    room = checks.integer("memory", memory) - costs.fixed
    beside_dy = costs.step + costs.dy
    least = schedule.least(bounds, costs.state, beside_dy)
    if room < least:
        raise ValueError(f"memory: expected at least {costs.fixed + least} bytes for this pass, got {memory}")
    return (
        lambda: schedule.Fitted(bounds, room, costs.state, costs.step),
        (lambda: schedule.Fitted(bounds, room, costs.state, beside_dy)) if costs.dy else None,
        room // (beside_dy + costs.dx),
    )
