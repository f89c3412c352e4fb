"""Looking at a gradient: its terms, the Jacobians it goes through, how it flows back through a recorded pass.

The three functions are methods of `Tape` too. Sources: docs/gradients.md, "Expansion" and "Jacobians".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bptt import checks

# What does the work is imported when it is asked for, so that `import bptt` stays cheap.
if TYPE_CHECKING:
    from collections.abc import Collection

    import numpy.typing as npt

    from bptt.arrays import Array
    from bptt.flow.gradient import GradientFlow
    from bptt.flow.jacobians import JacobianProducts
    from bptt.tape import StateLike, Tape

__all__ = ["gradient_flow", "jacobian_products", "terms"]


def terms(
    tape: Tape,
    dy: npt.ArrayLike,
    *,
    reduce: str | None = None,
    by: str | None = None,
    rows: bool = False,
    parameters: Collection[str] | None = None,
    threads: int | None = None,
) -> dict[str, Array]:
    """Take the gradient apart: the terms (i, k) of the sum over loss steps i and injection steps k.

    Term (i, k) of a parameter is the gradient of the loss of step i with respect to the copy of the parameter
    that is used at step k. All terms together are what `Tape.backward` gives for dy. In a stack it is the sum
    over all ways through the network's layers and steps from the loss at step i to that copy; in two
    directions there are terms with k > i too, but in the last layer's forward direction.

    Parameters
    ----------
    tape : Tape
        Of any cell, with any options.
    dy : array_like
        dL/dy, with the shape and dtype of y: at step i the gradient of the loss of that step. Past a row's
        end it is not looked at.
    reduce : {None, "norm"}
        "norm": the Frobenius norm of each term instead of the term.
    by : {None, "injection", "loss"}
        "injection": the sum over i, one for each k: what the use of the parameter at step k contributes.
        "loss": the sum over k, one for each i: the gradient of the loss of step i.
    rows : bool
        Whether rows of the batch are kept apart.
    parameters : collection of str, optional
        Names of the parameters that are wanted; by default all.
    threads : int, optional
        How many threads may share the work; default ``BPTT_NUM_THREADS`` or else all usable cores. The result
        doesn't depend on it.

    Returns
    -------
    dict
        Under every parameter's name an array (T, T, ...), [i, k] counted from 0, with `by` (T, ...). Then B
        with `rows`, if the pass has a batch axis; then the parameter's shape, but for norms. Terms have the
        layer's dtype, norms are float64.

    Raises
    ------
    TypeError
        If dy has another dtype than y, or an option another type.
    ValueError
        If dy has another shape than y; for another `reduce` or `by`, or a name that no parameter has.

    Notes
    -----
    Time: for each loss step a walk back through all steps before it, so T(T + 1)/2 steps of a backward pass,
    many at a time. The norms of T = 200, B = 8, H = 128 take about 30 to 40 backward passes with as many
    threads, where the kernels go all the way by themselves: for one layer, without `by`, `rows`, layer
    normalisation, projection and peepholes. Other terms are found step by step on one thread: norms then take
    70 to 100 backward passes. Only one walk with ``by="injection"``, and none for steps without a loss.

    Memory: the result, which without `reduce` is T² (with `by` T) times a parameter; some megabytes for the
    walk; in a stack up to 64 MiB, or one (T, B, D*R) if that is more; ``by="loss"`` holds as many gradients
    of the parameters as fit in 64 MiB. A norm is taken of B x B factors, not of the term. Source:
    docs/gradients.md, "Expansion".
    """
    from bptt.flow.expansion import Wanted, terms_of

    if reduce is not None:
        checks.choice("reduce", reduce, ("norm",))
    if by is not None:
        checks.choice("by", by, ("injection", "loss"))
    checks.flag("rows", rows)
    names = tape.parameters.keys()
    for name in names if parameters is None else parameters:
        checks.choice("parameters", name, names)
    wanted = Wanted(reduce == "norm", by, rows, frozenset(names if parameters is None else parameters))
    backend = checks.resolve_backend(tape.backend)
    given, count = tape._given_dy(dy), checks.resolve_threads(threads)
    found = terms_of(backend.step_back, getattr(backend, "walk", None), tape._pass, given, wanted, count)
    if rows and not tape.batched:
        axis = 2 if by is None else 1
        found = {name: np.squeeze(array, axis=axis) for name, array in found.items()}
    return {name: found[name] for name in names if name in found}


def jacobian_products(tape: Tape, *, layer: int = -1, direction: int = 0) -> JacobianProducts:
    """Look at the state Jacobians of a recorded pass, and at their products over time.

    Parameters
    ----------
    tape : Tape
        Of any cell, with any options.
    layer : int
        Counted from 0; -1 is the last one. The input of the layer is held.
    direction : {0, 1}
        1 is the reverse direction.

    Returns
    -------
    JacobianProducts
        Computes products, norms, singular values and Lyapunov exponents when asked.

    Raises
    ------
    TypeError
        If `layer` or `direction` is not an integer.
    ValueError
        For a layer or direction that there is not.

    Notes
    -----
    Source: docs/gradients.md, "Jacobians".
    """
    from bptt.flow.jacobians import JacobianProducts

    structure = tape._pass.structure
    L, D = structure.num_layers, structure.directions
    number, way = checks.integer("layer", layer, -L), checks.integer("direction", direction, 0)
    if number >= L:
        raise ValueError(f"layer: expected {-L} to {L - 1}, got {number}")
    if way >= D:
        raise ValueError(f"direction: expected {'0' if D == 1 else '0 or 1'}, got {way}")
    back = checks.resolve_backend(tape.backend).step_back
    return JacobianProducts(back, tape._pass, number % L * D + way, tape.batched)


def gradient_flow(
    tape: Tape,
    dy: npt.ArrayLike | None = None,
    dh_n: StateLike | None = None,
    *,
    threads: int | None = None,
) -> GradientFlow:
    """Back-propagate, and keep the norm of dL/dh_t of every layer and step; printed, the result is a verdict.

    Parameters
    ----------
    tape : Tape
        Of any cell, with any options.
    dy, dh_n, threads
        As for `Tape.backward`.

    Returns
    -------
    GradientFlow
        With the gradients.

    Raises
    ------
    TypeError, ValueError
        As `Tape.backward` does.

    Notes
    -----
    The norms come with the backward pass and hardly cost anything. All else, such as gate saturation, is
    worked out when it is first asked for. Source: docs/gradients.md, "Gradient flow".
    """
    from bptt.flow.gradient import GradientFlow

    recorded = tape._pass
    T, B, _ = recorded.y.shape
    squares: list[Array] = [np.zeros((T, B)) for _ in recorded.saved]
    # the order in which `stack.backward` goes through the units
    D, L = recorded.structure.directions, recorded.structure.num_layers
    order = iter([layer * D + direction for layer in reversed(range(L)) for direction in range(D)])
    bptt = checks.resolve_backend(tape.backend).bptt

    def watched(*arguments: object, **options: object) -> object:
        return bptt(*arguments, **options, squares=squares[next(order)])  # type: ignore[arg-type]

    given = None if dy is None else tape._given_dy(dy)
    gradients = tape._propagate(watched, "gradient_flow", given, dh_n, None, threads)
    return GradientFlow(
        gradients, squares, checks.resolve_backend(tape.backend).step_back, recorded, given, tape.batched
    )
