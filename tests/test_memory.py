"""Passes within a memory budget: the bits of those that keep everything."""

import copy
import threading

import numpy as np
import pytest
from kernel_problems import same as same_bits
from memory_problems import least_memory, make
from reference_problems import problem

import bptt
from bptt import checkpointing, kernels, reference, schedule


def same(a, b):
    if a is None or b is None:
        assert a is b
    elif isinstance(a, tuple):
        for one, other in zip(a, b, strict=True):
            same(one, other)
    else:
        assert same_bits(a, b)


def same_gradients(found, expected):
    for name in ("x", "h_0", "c_0"):
        same(getattr(found, name), getattr(expected, name))
    assert list(found.parameters) == list(expected.parameters)
    for name, value in expected.parameters.items():
        same(found.parameters[name], value)


def check(problem):
    """Compare passes with several budgets with one that keeps everything."""
    y, h_n, tape = problem.record()
    expected = tape.backward(problem.dy, problem.dh_n)
    least = problem.least()
    ways = [{"memory": least}, {"memory": least + least // 3}, {"memory": 10**10}]
    ways += [{"checkpoint": 0}, {"checkpoint": 2}, {"checkpoint": 10**6}]
    for way in ways:
        y_found, h_found, tape = problem.record(**way)
        same(y_found, y)
        same(h_found, h_n)
        for threads in (1, 2):  # and a second time, when what recording left is used up
            same_gradients(tape.backward(problem.dy, problem.dh_n, threads=threads), expected)
        without = tape.backward(problem.dy, problem.dh_n, input_grad=False)
        assert without.x is None
        without.x = expected.x
        same_gradients(without, expected)


@pytest.mark.parametrize("seed", range(80))
def test_bits(seed):
    check(make(seed))


@pytest.mark.parametrize("seed", range(25))
def test_bits_of_the_reference(seed):
    check(make(seed, "reference"))


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("kind", [bptt.RNN, bptt.LSTM, bptt.GRU])
def test_last_outputs(kind, directions, dtype):
    """Each row's own last step, in both directions; its gradient is that of the same y of all steps."""
    layer = kind(3, 5, num_layers=2, bidirectional=directions == 2, dtype=dtype, seed=0)
    rng = np.random.default_rng(0)
    x, lengths = rng.normal(size=(60, 7, 3)).astype(dtype), np.array([60, 3, 0, 17, 1, 59, 60])
    y, _, tape = layer.record(x, lengths=lengths)
    there = lengths > 0
    dlast = rng.normal(size=(7, 5 * directions)).astype(dtype)
    dy = np.zeros_like(y)
    dy[lengths[there] - 1, there] = dlast[there]
    expected = tape.backward(dy)
    for way in ({}, {"checkpoint": 3}):
        last, _, tape = layer.record(x, lengths=lengths, outputs="last", **way)
        assert last.shape == (7, 5 * directions)
        np.testing.assert_array_equal(last[there], y[lengths[there] - 1, there])
        assert not last[~there].any()
        last[...] = 0.0  # the caller's
        same_gradients(tape.backward(dlast), expected)


@pytest.mark.parametrize(("K", "S"), [(5, 1), (8, 4), (9, 9), (30, 7), (99, 3), (500, 2)])
@pytest.mark.parametrize("outputs", ["all", "last"])
def test_truncation(K, S, outputs):
    layer = bptt.LSTM(3, 5, num_layers=2, zoneout=0.2, seed=0)
    rng = np.random.default_rng(0)
    x, lengths = rng.normal(size=(100, 4, 3)).astype(np.float32), [100, 40, 0, 71]
    options = {"lengths": lengths, "seed": 3, "outputs": outputs}
    y, _, tape = layer.record(x, **options)
    dy = rng.normal(size=y.shape).astype(np.float32)
    expected = tape.backward(dy, depth=K, stride=S)
    for way in ({"checkpoint": 2}, {"memory": 10**8}):
        same_gradients(layer.record(x, **options, **way)[2].backward(dy, depth=K, stride=S), expected)


def test_layouts_of_x_and_dy(tmp_path):
    """Memory-mapped, in Fortran order, byte-swapped, every second row: read piece by piece."""
    layer = bptt.GRU(3, 5, seed=0)
    rng = np.random.default_rng(0)
    x, dy = (rng.normal(size=(90, 8, size)).astype(np.float32) for size in (3, 5))
    expected = layer.record(x)[2].backward(dy)
    file = tmp_path / "x"
    x.tofile(file)
    mapped = np.memmap(file, np.float32, "r", shape=x.shape)
    wide = np.repeat(x, 2, axis=1)
    for other in (mapped, np.asfortranarray(x), x.astype(">f4"), wide[:, ::2]):
        _, _, tape = layer.record(other, checkpoint=2)
        assert np.may_share_memory(tape.x, other)
        for other_dy in (dy, np.asfortranarray(dy), dy.astype(">f4")):
            same_gradients(tape.backward(other_dy), expected)


def test_only_pieces_of_x_are_read(monkeypatch):
    seen = []
    read = checkpointing.Walk.read

    def watched(self, first, last):
        part = read(self, first, last)
        seen.append(len(part))
        return part

    monkeypatch.setattr(checkpointing.Walk, "read", watched)
    layer = bptt.RNN(3, 5, batch_first=True, seed=0)
    x = np.zeros((8, 1000, 3), np.float32)
    y, _, tape = layer.record(x, checkpoint=9)
    tape.backward(y)
    assert max(seen) <= 128
    # the last piece is taped at once
    assert 1800 <= sum(seen) <= 2000


def test_steps_run_again(monkeypatch):
    """What the schedule says is what is done."""
    steps = []
    forward = checkpointing.pieces.forward

    def counting(*arguments, **options):
        steps.append(len(arguments[3]))
        return forward(*arguments, **options)

    monkeypatch.setattr(checkpointing.pieces, "forward", counting)
    layer = bptt.LSTM(4, 16, seed=0)
    x = np.zeros((2000, 8, 4), np.float32)
    least = least_memory(layer.record, x)
    done = []
    for more in (0, 20_000, 100_000, 400_000, 10**8):
        steps.clear()
        y, _, tape = layer.record(x, memory=least + more)
        expected = schedule.work(tape._recorded.schedule())
        tape.backward(y)
        assert sum(steps) == expected
        done.append(expected)
    assert done == sorted(done, reverse=True)
    assert done[-1] == 2000
    assert done[0] > 4000


def test_a_tape_for_several_threads():
    layer = bptt.GRU(3, 5, num_layers=2, seed=0)
    x = np.random.default_rng(0).normal(size=(200, 8, 3)).astype(np.float32)
    y, _, tape = layer.record(x, checkpoint=4)
    expected, found = layer.record(x)[2].backward(y), [None] * 6

    def work(k):
        found[k] = tape.backward(y)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for gradients in found:
        same_gradients(gradients, expected)


def test_parameters_may_change_afterwards():
    layer = bptt.RNN(3, 5, seed=0)
    x = np.random.default_rng(0).normal(size=(200, 8, 3)).astype(np.float32)
    before = copy.deepcopy(layer)
    y, _, tape = layer.record(x, checkpoint=4)
    for value in layer.parameters.values():
        value += 1.0
    same_gradients(tape.backward(y), before.record(x)[2].backward(y))


@pytest.mark.parametrize("module", [kernels, reference])
@pytest.mark.parametrize("lengths", [None, [3, 0, 7]])
def test_y_goes_where_it_is_wanted(module, lengths):
    p = problem("gru", T=7, B=3)
    options = {} if lengths is None else {"lengths": np.array(lengths)}
    expected, final, _ = module.unroll("gru", p.x, p.state, p.weights, **options)
    whole = np.full((9, *expected.shape[1:]), np.nan)
    y, state, saved = module.unroll("gru", p.x, p.state, p.weights, y_to=whole[1:8], **options)
    assert np.shares_memory(y, whole)
    same((whole[1:8], state), (expected, final))
    assert np.isnan(whole[[0, 8]]).all()
    same(saved.y, expected)


@pytest.mark.parametrize("module", [kernels, reference])
@pytest.mark.parametrize("cell", ["tanh", "lstm", "gru"])
@pytest.mark.parametrize("T", [0, 1, 7])
@pytest.mark.parametrize("options", [{}, {"lengths": [3, 0, 7]}, {"reset": True}])
@pytest.mark.parametrize("keep", [False, True])
def test_a_known_final_state_changes_nothing(module, cell, T, options, keep):
    p = problem(cell, T=T, B=3)
    given = {}
    if "lengths" in options:
        given["lengths"] = np.minimum(options["lengths"], T)
    if "reset" in options:
        given["reset"] = np.arange(3 * T).reshape(T, 3) % 4 == 2
    weights = module.pack(cell, p.weights, backward=True)
    expected = module.unroll(cell, p.x, p.state, weights, keep, **given)
    found = module.unroll(cell, p.x, p.state, weights, keep, final=expected[1], **given)
    same(found[:2], expected[:2])
    if keep:
        dy = np.ones_like(expected[0])
        same(
            module.bptt(cell, found[2], dy, None),
            module.bptt(cell, expected[2], dy, None),
        )


def test_a_known_last_step_is_left_out():
    # what the time of an Elman layer within a budget depends on
    p = problem("tanh", T=7, B=3)
    expected, final, _ = kernels.unroll("tanh", p.x, p.state, p.weights)
    p.x[-1] = np.nan
    y, state, _ = kernels.unroll("tanh", p.x, p.state, p.weights, final=final)
    same((y, state), (expected, final))


@pytest.mark.parametrize("way", [{"memory": 10**7}, {"checkpoint": 2}])
def test_y_is_the_callers(way):
    # also that of the piece that is taped already
    layer = bptt.LSTM(3, 5, seed=0)
    x, dy = np.ones((600, 2, 3), np.float32), np.ones((600, 2, 5), np.float32)
    expected = layer.record(x)[2].backward(dy)
    y, _, tape = layer.record(x, **way)
    y[:] = np.nan
    same_gradients(tape.backward(dy), expected)
