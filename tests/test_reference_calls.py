"""The reference's calls for every cell: lengths, resets, noise, precision, single steps, refusals."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from reference_problems import GATES, Problem, combinations, features_of, named, problem

from bptt import reference
from bptt.arrays import Noise, Weights

CELLS = pytest.mark.parametrize("cell", reference.CELLS)


def everything(cell: str, *but: str, **sizes: Any) -> Problem:
    """A problem with numbers and biases, and all other features except some."""
    but += ("tokens", "no_bias")
    return problem(cell, tuple(name for name in features_of(cell) if name not in but), **sizes)


def changed(p: Problem, **fields: Any) -> Problem:
    return Problem(**(vars(p) | fields))


def part(p: Problem, b: int, times: slice, start: Any, dfinal: Any) -> Problem:
    """Some steps of one batch row of a problem, without its lengths and resets."""
    options = {name: value for name, value in p.options.items() if name in ("reverse", "noise")}
    if "noise" in options:
        n = options["noise"]
        masks = {
            k: None if v is None else v[times, b : b + 1] for k, v in n._asdict().items() if k[:4] == "kept"
        }
        dropout = None if n.dropout is None else n.dropout[b : b + 1]
        options["noise"] = n._replace(dropout=dropout, **masks)
    return changed(
        p,
        x=p.x[times, b : b + 1],
        state=tuple(s[b : b + 1] for s in start),
        dy=p.dy[times, b : b + 1],
        dfinal=tuple(d[b : b + 1] for d in dfinal),
        options=options,
    )


def close(actual: Any, expected: Any) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-13, atol=1e-13)


def same(state: Any, other: Any) -> None:
    """Fail unless two states are equal."""
    for array, wanted in zip(state, other, strict=True):
        np.testing.assert_array_equal(array, wanted)


def added(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Sum of the parameters' gradients."""
    return {name: sum(g[name] for g in parts) for name in parts[0] if name in Weights._fields}


@CELLS
@pytest.mark.parametrize("reverse", [False, True])
def test_lengths_are_shorter_sequences(cell: str, reverse: bool) -> None:
    p = everything(cell, "reset", *(() if reverse else ("reverse",)), T=4, B=4)
    y, final, saved = p.run()
    lengths = p.options["lengths"]
    assert {0, 4} < set(lengths.tolist())
    gradients = p.gradients()
    rows = []
    for b, n in enumerate(lengths):
        row = part(p, b, slice(0, n), p.state, p.dfinal)
        y_b, final_b, saved_b = row.run()
        np.testing.assert_array_equal(y[:n, b], y_b[:, 0])
        assert not np.any(y[n:, b])
        same([whole[b] for whole in final], [alone[0] for alone in final_b])
        for name, gate in saved.gates.items():
            np.testing.assert_array_equal(gate[:n, b], saved_b.gates[name][:, 0])
            assert not np.any(gate[n:, b])
        if saved.c is not None:
            np.testing.assert_array_equal(saved.c[:n, b], saved_b.c[:, 0])
            assert not np.any(saved.c[n:, b])
        rows.append(row.gradients())
        np.testing.assert_array_equal(gradients["x"][:n, b], rows[-1]["x"][:, 0])
        assert not np.any(gradients["x"][n:, b])
        for name in {"h_0", "c_0"} & gradients.keys():
            np.testing.assert_array_equal(gradients[name][b], rows[-1][name][0])
    for name, gradient in added(rows).items():
        close(gradients[name], gradient)


@CELLS
def test_a_row_without_steps(cell: str) -> None:
    p = everything(cell, T=3, B=1)
    p.options["lengths"] = np.array([0])
    y, final, _ = p.run()
    assert not np.any(y)
    gradients = p.gradients()
    for n, name in enumerate(("h_0", "c_0")[: len(final)]):
        np.testing.assert_array_equal(final[n], p.state[n])
        assert not np.shares_memory(final[n], p.state[n])
        for depth in (None, 1):
            np.testing.assert_array_equal(p.gradients(depth)[name], p.dfinal[n])
    assert not any(np.any(g) for name, g in gradients.items() if name not in ("h_0", "c_0"))


@CELLS
def test_the_reverse_direction_goes_from_each_rows_last_step(cell: str) -> None:
    p = everything(cell, "reset", T=4, B=4)
    lengths = p.options["lengths"]

    def turned(a: Any) -> Any:
        """Each row's own steps from the last to the first."""
        result = a.copy()
        for b, n in enumerate(lengths):
            result[:n, b] = a[:n, b][::-1]
        return result

    noise = p.options["noise"]
    masks = {k: turned(v) for k, v in noise._asdict().items() if k[:4] == "kept" and v is not None}
    forwards = p.options | {"reverse": False, "noise": noise._replace(**masks)}
    q = changed(p, x=turned(p.x), dy=turned(p.dy), options=forwards)
    (y, final, _), (y_turned, final_turned, _) = p.run(), q.run()
    np.testing.assert_array_equal(turned(y), y_turned)
    same(final, final_turned)
    for depth in (None, 2):
        g, g_turned = p.gradients(depth), q.gradients(depth)
        np.testing.assert_array_equal(turned(g.pop("x")), g_turned.pop("x"))
        for name, gradient in g.items():
            np.testing.assert_array_equal(gradient, g_turned[name])


@CELLS
def test_resets_are_sequences_of_their_own(cell: str) -> None:
    T, B = 6, 3
    p = everything(cell, "lengths", "reverse", T=T, B=B)
    p.options["reset"] = np.zeros((T, B), bool)
    p.options["reset"][[0, 2, 3], 0] = True  # a reset at the first step changes nothing
    p.options["reset"][5, 1] = True
    cuts = {0: [0, 2, 3, T], 1: [0, 5, T], 2: [0, T]}
    y, final, _ = p.run()
    gradients = p.gradients()
    zeros = tuple(np.zeros_like(d) for d in p.dfinal)
    everywhere = []
    for b, at in cuts.items():
        pieces = []
        for first, last in itertools.pairwise(at):
            piece = part(p, b, slice(first, last), p.state, p.dfinal if last == T else zeros)
            y_piece, final_piece, _ = piece.run()
            np.testing.assert_array_equal(y[first:last, b], y_piece[:, 0])
            pieces.append(piece.gradients())
            np.testing.assert_array_equal(gradients["x"][first:last, b], pieces[-1]["x"][:, 0])
        same([whole[b] for whole in final], [alone[0] for alone in final_piece])
        for name in {"h_0", "c_0"} & gradients.keys():
            close(gradients[name][b], sum(g[name][0] for g in pieces))
        everywhere += pieces
    for name, gradient in added(everywhere).items():
        close(gradients[name], gradient)


@CELLS
def test_reversed_resets_cut_at_the_same_places(cell: str) -> None:
    # Going back, the cut before step t lies before the row's step t - 1: the caller shifts the mask by one.
    T = 5
    p = everything(cell, "lengths", T=T, B=1)
    p.options["reset"] = np.zeros((T, 1), bool)
    p.options["reset"][2] = True  # cuts between steps 2 and 3, counted from 0
    y, final, _ = p.run()
    early, late = (part(p, 0, times, p.state, p.dfinal) for times in (slice(0, 3), slice(3, T)))
    np.testing.assert_array_equal(y, np.concatenate([early.run()[0], late.run()[0]]))
    same(final, early.run()[1])


@CELLS
def test_zoneout_that_keeps_all_or_nothing(cell: str) -> None:
    p = everything(cell, "zoneout", "lengths", "reset")
    T = len(p.x)
    shapes = [(T, *s.shape) for s in p.state]
    plain = p.run()
    dropout = p.options["noise"].dropout
    names = "hc"[: len(shapes)]
    for value, rate in ((False, 0.0), (True, 1.0)):
        masks = {f"kept_{name}": np.full(shape, value) for name, shape in zip(names, shapes, strict=True)}
        halves, rates = ({f"zoneout_{name}": r for name in names} for r in (0.5, rate))
        with_masks = p.run(noise=Noise(dropout, **halves, **masks))
        of_the_mean = p.run(noise=Noise(dropout, **rates), keep=False)
        if value:
            for y in (with_masks[0], of_the_mean[0]):
                close(y, np.broadcast_to(p.state[0], y.shape))
            q = changed(p, options=p.options | {"noise": with_masks[2].noise})
            g = q.gradients()
            close(g["h_0"], p.dfinal[0] + p.dy.sum(axis=0))
            assert not any(np.any(g[name]) for name in ("x", *(f for f in Weights._fields if f in g)))
        else:
            np.testing.assert_array_equal(with_masks[0], plain[0])
            np.testing.assert_array_equal(of_the_mean[0], plain[0])


def test_zoneout_without_masks_is_its_mean_over_them() -> None:
    # One step of one unit: h is kept with probability 0.3, c with 0.4, and h looks at c before zoneout.
    p = problem("lstm", T=1, B=1, I=1, H=1)
    rates = (0.3, 0.4)
    mean = p.run(keep=False, noise=Noise(None, *rates))[1]
    total = np.zeros(2)
    for kept_h in (False, True):
        for kept_c in (False, True):
            weight = (rates[0] if kept_h else 0.7) * (rates[1] if kept_c else 0.6)
            masks = [np.full((1, 1, 1), kept) for kept in (kept_h, kept_c)]
            total += weight * np.array([s[0, 0] for s in p.run(noise=Noise(None, *rates, *masks))[1]])
    close([s[0, 0] for s in mean], total)


@CELLS
def test_dropout_of_the_whole_state_leaves_the_input(cell: str) -> None:
    p = problem(cell, ("no_bias",))
    y, _, saved = p.run(noise=Noise(dropout=np.zeros_like(p.state[0])))
    other = p.weights._replace(weight_hh=7.0 * p.weights.weight_hh)
    np.testing.assert_array_equal(y, changed(p, weights=other, options={"noise": saved.noise}).run()[0])
    *_, dw = reference.bptt(cell, saved, p.dy, None)
    assert not np.any(dw.weight_hh)
    ones = p.run(noise=Noise(dropout=np.ones_like(p.state[0])))
    np.testing.assert_array_equal(ones[0], p.run()[0])


@pytest.mark.parametrize(("cell", "features"), combinations(most=0), ids=str)
def test_float32_is_float64_rounded(cell: str, features: tuple[str, ...]) -> None:
    p = problem(cell, features, dtype=np.float32)
    wide = lambda a: a.astype(np.float64) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a  # noqa: E731
    options = {name: Noise(*map(wide, v)) if name == "noise" else v for name, v in p.options.items()}
    q = changed(
        p,
        x=wide(p.x),
        state=tuple(map(wide, p.state)),
        weights=Weights(*map(wide, p.weights)),
        dy=wide(p.dy),
        dfinal=tuple(map(wide, p.dfinal)),
        options=options,
    )
    (y, final, saved), (y_wide, final_wide, saved_wide) = p.run(), q.run()
    pairs = [(y, y_wide), *zip(final, final_wide, strict=True)]
    pairs += [(gate, saved_wide.gates[name]) for name, gate in saved.gates.items()]
    pairs += [] if saved.c is None else [(saved.c, saved_wide.c)]
    for narrow, exact in pairs:
        assert narrow.dtype == np.float32
        np.testing.assert_array_equal(narrow, exact.astype(np.float32))
    wanted = q.gradients()
    for name, gradient in p.gradients().items():
        assert gradient.dtype == np.float32
        # the backward pass starts from the rounded states and gates
        np.testing.assert_allclose(gradient, wanted[name], rtol=0, atol=2e-6 * np.abs(wanted[name]).max())


@CELLS
@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize(("T", "B"), [(0, 2), (3, 0), (0, 0)])
def test_nothing_to_do(cell: str, T: int, B: int, tokens: bool) -> None:
    left_out = {"no_bias"} if tokens else {"no_bias", "tokens"}
    p = problem(cell, tuple(name for name in features_of(cell) if name not in left_out), T=T, B=B)
    y, final, saved = p.run()
    R = p.state[0].shape[1]
    assert y.shape == (T, B, R)
    np.testing.assert_array_equal(final[0], p.state[0])
    G = GATES.get(cell, 0)
    assert [gate.shape for gate in saved.gates.values()] == [(T, B, 3)] * G
    assert (saved.c is None) == (cell != "lstm")
    if saved.c is not None:
        assert saved.c.shape == (T, B, 3)
    for depth in (None, 2):
        g = named(*reference.bptt(cell, saved, p.dy, p.dfinal, depth=depth))
        assert {name: a.shape for name, a in g.items()} == {name: a.shape for name, a in p.arrays().items()}
        np.testing.assert_array_equal(g["h_0"], p.dfinal[0])
        assert not any(np.any(a) for name, a in g.items() if name not in ("h_0", "c_0"))


@CELLS
def test_what_is_saved_are_copies(cell: str) -> None:
    p = everything(cell)
    saved = p.run()[2]
    before = named(*reference.bptt(cell, saved, p.dy, p.dfinal))
    noise = p.options["noise"]
    for array in (*p.state, *p.weights, p.options["lengths"], p.options["reset"], *noise):
        if isinstance(array, np.ndarray):
            array[...] = 1
    after = named(*reference.bptt(cell, saved, p.dy, p.dfinal))
    for name, gradient in before.items():
        np.testing.assert_array_equal(gradient, after[name])
    assert saved.x is p.x


@CELLS
def test_nan_stays_in_its_row(cell: str) -> None:
    p = problem(cell)
    p.x[1, 0, 0] = math.nan
    y, final, saved = p.run()
    assert np.isnan(y[1:, 0]).all()
    assert np.isfinite(y[0, 0]).all()
    assert np.isfinite(y[:, 1:]).all()
    assert all(np.isnan(part[0]).all() and np.isfinite(part[1:]).all() for part in final)
    dx, dstate, _ = reference.bptt(cell, saved, p.dy, p.dfinal)
    assert dx is not None
    assert np.isfinite(dx[:, 1:]).all()
    assert all(np.isfinite(d[1:]).all() for d in dstate)


def test_no_peephole_multiplies_no_cell_state() -> None:
    # 0 times inf is NaN; without peepholes an infinite c reaches the gates nowhere
    p = problem("lstm")
    p.state[1][0, 0] = math.inf
    y, final, saved = p.run()
    assert np.isfinite(y).all()
    assert np.isposinf(final[1][0, 0])
    assert all(np.isfinite(gate).all() for gate in saved.gates.values())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("tokens", [False, True])
@CELLS
def test_stepper_gives_the_same_bits(cell: str, tokens: bool, dtype: Any) -> None:
    features = {"projection", "peepholes", "layer_norm", *(["tokens"] if tokens else [])}
    p = problem(cell, tuple(features & set(features_of(cell))), T=4, dtype=dtype)
    noise = Noise(zoneout_h=0.2, zoneout_c=0.1 if cell == "lstm" else 0.0)
    y, final, saved = p.run(keep=False, noise=noise)
    assert saved is None
    packed = reference.pack(cell, p.weights, tokens=tokens)
    np.testing.assert_array_equal(y, reference.unroll(cell, p.x, p.state, packed, keep=False, noise=noise)[0])
    for weights in (p.weights, packed):
        stepper = reference.Stepper(cell, weights, p.state, tokens=tokens, noise=noise)
        for x_t, y_t in zip(p.x, y, strict=True):
            # writing back what was read loses nothing, in float32 neither
            stepper.state = stepper.state
            np.testing.assert_array_equal(stepper.step(x_t), y_t)
        same(stepper.state, final)


@CELLS
def test_stepper_begins_a_row_again(cell: str) -> None:
    p = problem(cell, T=4, dtype=np.float32)
    reset = np.zeros((4, 3), bool)
    reset[2, 1] = True
    y = p.run(reset=reset)[0]
    stepper = reference.Stepper(cell, p.weights, p.state)
    for x_t, again, y_t in zip(p.x, reset, y, strict=True):
        stepper.state = tuple(
            np.where(again[:, np.newaxis], first, now)
            for first, now in zip(p.state, stepper.state, strict=True)
        )
        np.testing.assert_array_equal(stepper.step(x_t), y_t)


def test_stepper_takes_no_other_frames() -> None:
    p = problem("gru", T=1)
    stepper = reference.Stepper("gru", p.weights, p.state)
    frame = p.x[0]
    for x, out in (
        (frame[:2], None),
        (frame.astype(np.float32), None),
        (frame.tolist(), None),
        (frame, frame.copy()),
    ):
        assert stepper.step(x, out) is None
    same(stepper.state, p.state)
    ids = reference.Stepper("gru", p.weights, p.state, tokens=True)
    for wrong in ([0, -1, 0], [0, 2, 0]):
        assert ids.step(np.array(wrong)) is None
    same(ids.state, p.state)


def test_refusals() -> None:
    p = problem("lstm", ("projection", "peepholes", "layer_norm", "lengths", "reset", "reverse"))
    plain = problem("tanh")
    for name in ("weight_hr", "weight_ph"):
        with pytest.raises(ValueError, match=f"{name}: expected None for the cell 'tanh', got an array"):
            changed(plain, weights=plain.weights._replace(**{name: np.ones(3)})).run()
    gru = problem("gru_reset_before")
    gains = {"weight_ln_ih": np.ones(9), "weight_ln_hh": np.ones(9)}
    with pytest.raises(ValueError, match="weight_ln_ih: expected None for the cell 'gru_reset_before'"):
        changed(gru, weights=gru.weights._replace(**gains)).run()
    with pytest.raises(ValueError, match="expected both or neither, got one"):
        changed(p, weights=p.weights._replace(weight_ln_hh=None)).run()
    with pytest.raises(ValueError, match=r"cell: expected one of .*'gru_reset_before'\), got 'elman'"):
        reference.pack("elman", plain.weights)
    for name in ("h", "c"):
        with pytest.raises(ValueError, match=f"noise: expected a mask kept_{name} for keep=True, got a rate"):
            p.run(noise=Noise(**{f"zoneout_{name}": 0.1}))
    with pytest.raises(ValueError, match="noise: expected no zoneout of c for the cell 'tanh', got some"):
        plain.run(noise=Noise(zoneout_c=0.1), keep=False)
    with pytest.raises(ValueError, match="noise: expected rates of zoneout without masks"):
        reference.Stepper("tanh", plain.weights, plain.state, noise=Noise(kept_h=np.ones((3, 3, 3), bool)))
    for name in ("lengths", "reset", "reverse"):
        saved = plain.run(**{name: p.options[name]})[2]
        with pytest.raises(ValueError, match=f"{name}: expected .* for the terms of the double sum"):
            reference.terms("tanh", saved, plain.dy)
    packed = reference.pack("gru", problem("gru").weights)
    with pytest.raises(ValueError, match="weights: expected ones packed for this cell"):
        reference.unroll("gru_reset_before", plain.x, plain.state, packed, keep=False)
    with pytest.raises(TypeError, match="weights: expected Weights for keep=True"):
        reference.unroll("gru", plain.x, plain.state, packed)
