"""What a gradient's flow means, in words.

What is said depends on these thresholds, and on `FADED` and the fit of `bptt.flow.reach`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bptt.flow.reach import FADED

if TYPE_CHECKING:
    from bptt.arrays import Array, Mask
    from bptt.flow.reach import Reach
    from bptt.flow.saturation import NonFinite
    from bptt.structure import Structure

#: A gradient that grows to so many times its size on the way explodes.
EXPLODED = 100.0
#: A first step that leaves less than this share of what the others leave is told by itself: a gradient of h
#: may go on through c alone.
DROPPED = 0.5
#: Shares of entries that are saturated (mean over time), and of units that are dead, from which on they are
#: told.
SATURATED, DEAD = 0.5, 0.1


class Findings(NamedTuple):
    """What the verdict is about; see `GradientFlow` for what the fields are."""

    structure: Structure
    steps: int  # T
    reach: tuple[tuple[Reach, ...], ...]
    saturation: tuple[tuple[dict[str, Array], ...], ...]
    dead: tuple[tuple[Mask | None, ...], ...]
    first_nonfinite: NonFinite | None
    many: bool  # whether losses stand at other steps than T, too


def verdict(findings: Findings) -> str:
    """Say what was found, a sentence a line, and what usually helps.

    Parameters
    ----------
    findings : Findings

    Returns
    -------
    str
    """
    lines = []
    if findings.first_nonfinite is not None:
        lines.append(_nonfinite(findings, findings.first_nonfinite))
    faded = exploded = False
    for layer, directions in enumerate(findings.reach):
        for direction, reach in enumerate(directions):
            lines.append(_reaches(findings, _place(findings.structure, layer, direction), reach))
            faded |= reach.steps is not None and len(reach.profile) > 0
            exploded |= _has_exploded(reach)
    saturated = _saturated(findings)
    dead = _dead(findings)
    lines += [*saturated, *dead]
    lines += _help(findings, faded, exploded or findings.first_nonfinite is not None, bool(dead))
    return "\n".join(lines)


def _place(structure: Structure, layer: int, direction: int) -> str:
    """Return what a layer and direction are called."""
    name = "The layer" if structure.num_layers == 1 else f"Layer {layer + 1}"
    if structure.directions == 1:
        return name
    return f"{name}, {'backward' if direction else 'forward'} direction"


def _nonfinite(findings: Findings, found: NonFinite) -> str:
    place = _place(findings.structure, found.layer, found.direction)
    step = f"step {found.step + 1} of {findings.steps}"
    if found.what == "state":
        return f"{place}: the state is not finite at {step}, the first such step."
    return f"{place}: the gradient is not finite at {step}, the first such step on the way back."


def _has_exploded(reach: Reach) -> bool:
    return len(reach.profile) > 0 and not reach.profile.max() < EXPLODED


def _reaches(findings: Findings, place: str, reach: Reach) -> str:
    """Return the sentence about how far the loss reaches back in one layer and direction."""
    n = len(reach.profile)
    if n == 0:
        return f"{place}: no gradient arrives."
    if n == 1:
        return f"{place}: the gradient has no step to go back."
    if not np.isfinite(reach.profile).all():
        lag = int(np.flatnonzero(~np.isfinite(reach.profile))[0])
        return f"{place}: the gradient of a loss is not finite {_steps(lag)} back."
    change = "" if reach.factor is None else f"{_drop(reach)}{_change(reach.factor)} and "
    start = f"{place}: going back, the gradient {change}"
    if _has_exploded(reach):
        lag = int(np.flatnonzero(reach.profile >= EXPLODED)[0])
        return f"{start}is {EXPLODED:.0f} times its size after {_steps(lag)}."
    if reach.steps is not None:
        seen = _seen(findings, reach.steps)
        return f"{start}is under {FADED:.0%} of its size after {_steps(reach.steps)}: {seen}"
    left = _number(float(reach.profile[-1]))
    return f"{start}is {left} times its size after {_steps(n - 1)}, as far as it goes."


def _seen(findings: Findings, steps: int) -> str:
    """Return which steps of the input a loss can still reach."""
    T = findings.steps
    if findings.many or findings.structure.directions == 2:
        return (
            f"a loss reaches its own step and {_steps(steps - 1)} further."
            if steps > 1
            else ("a loss reaches its own step only.")
        )
    return (
        f"the loss reaches the steps {T - steps + 1} to {T} of the input."
        if steps > 1
        else (f"the loss reaches step {T} of the input only.")
    )


def _drop(reach: Reach) -> str:
    """Return what is to be said of the first step, if it is unlike the others."""
    first = float(reach.profile[1])
    if reach.factor is None or not 0 < first < DROPPED * reach.factor:
        return ""
    return f"drops to {_percent(first)} in its first step, then "


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else f"{share:.1g} times its size"


def _change(factor: float) -> str:
    if abs(factor - 1) < 0.005:
        return "hardly changes from step to step"
    return f"{'falls' if factor < 1 else 'grows'} by a factor of {_number(factor)} a step"


def _number(value: float) -> str:
    return f"{value:.2f}" if 0.1 <= value < 10 else f"{value:.2g}"


def _steps(count: int) -> str:
    return f"{count} step" if count == 1 else f"{count} steps"


def _saturated(findings: Findings) -> list[str]:
    lines = []
    for layer, directions in enumerate(findings.saturation):
        for direction, gates in enumerate(directions):
            for gate, shares in gates.items():
                there = shares[~np.isnan(shares)]
                share = float(there.mean()) if len(there) else 0.0
                if share >= SATURATED:
                    place = _place(findings.structure, layer, direction)
                    what = "the units" if gate == "h" else f"the gates {gate}"
                    lines.append(
                        f"{place}: {share:.0%} of {what} are within 1% of a bound, "
                        "where their derivative is near 0."
                    )
    return lines


def _dead(findings: Findings) -> list[str]:
    lines = []
    for layer, directions in enumerate(findings.dead):
        for direction, units in enumerate(directions):
            if units is not None and len(units) and units.mean() >= DEAD:
                place = _place(findings.structure, layer, direction)
                lines.append(f"{place}: {int(units.sum())} of {len(units)} ReLUs are 0 at every step.")
    return lines


def _help(findings: Findings, faded: bool, exploded: bool, dead: bool) -> list[str]:
    """Return what usually helps."""
    structure = findings.structure
    elman = structure.gates == 1
    advice = []
    if faded:
        if elman:
            advice.append('against fading, gates (LSTM or GRU), or init="orthogonal" and smaller weight_ih')
        elif structure.cell == "lstm":
            advice.append("against fading, forget_bias=1.0")
        else:
            advice.append('against fading, init="orthogonal"')
        reaches = [reach.steps for row in findings.reach for reach in row]
        longest = max((steps for steps in reaches if steps is not None), default=0)
        if structure.directions == 1 and None not in reaches:
            advice.append(
                f"for less work, a truncation to {_steps(longest)}, "
                "which loses next to nothing of this gradient"
            )
    if exploded:
        advice.append(
            'against growing, clip_norm, init="orthogonal", a lower learning rate, a shorter truncation'
        )
    if dead:
        advice.append("against dead ReLUs, a lower learning rate, or tanh")
    return [f"What usually helps: {'; '.join(advice)}."] if advice else []
