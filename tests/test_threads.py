"""The pool: when it starts, forks, many callers at once, leaving early, Ctrl-C, and memory running out."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from kernel_problems import WORK_TO_SHARE, differing, extras, problem, results

# Not all are marked `kernels`: how a call ends early, or a process during one, is the same on every CPU
# variant, and showing it takes minutes.

#: What every script starts with.
PRELUDE = """
import os, sys, threading, time, warnings
import numpy as np
from kernel_problems import backward, differing, extras, forward, forward_results, problem, results
from bptt import kernels

def pool():
    return [t for t in threading.enumerate() if t.name == "bptt"]

def shared(**options):  # past WORK_TO_SHARE
    return problem(40, 33, 70, 130, dtype=np.float32, **options)
"""
#: What is shared out: a cell, and what disturbs its rows.
SHARED = {
    "tanh": "",
    "lstm": "cell='lstm'",
    "lstm and all options": "cell='lstm', features=extras('lstm')",
    "gru and all options": "cell='gru', features=extras('gru')",
    "gru_reset_before": "cell='gru_reset_before'",
}


def run(script, timeout=60):
    # where the tests find it, the script finds it
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PRELUDE + script],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"still running after {timeout} s: {out}{err}")
    # an exception in a thread ends with a message only
    assert (process.returncode, err) == (0, ""), f"{process.returncode}: {out}{err}"
    return out.split()


@pytest.mark.kernels
def test_the_shape_is_shared():
    assert WORK_TO_SHARE < 2 * 40 * 33 * 130 * 200  # of gated cells and with options there is more to do


def test_the_pool_starts_on_first_use():
    script = """
import bptt
assert threading.active_count() == 1
results(problem(5, 4, 6, 20), threads=8)  # too little to share
assert threading.active_count() == 1
results(shared(), threads=3)
assert len(pool()) == 2
assert all(t.daemon for t in pool())
results(shared(), threads=2)
assert len(pool()) == 2
results(shared(), threads=4)
assert len(pool()) == 3
"""
    run(script)


@pytest.mark.kernels
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("during", [False, True])
@pytest.mark.parametrize("what", ["tanh", "lstm and all options"])
def test_fork_after_use(what, during):
    """Both halves go on, also when another Python thread is in a call at that moment."""
    script = f"""
expected = results(shared({SHARED[what]}))
assert differing(results(shared({SHARED[what]}), threads=3), expected) == []
assert len(pool()) == 2
stop = False
def loop():
    while not stop:
        assert differing(results(shared({SHARED[what]}), threads=3), expected) == []
other = threading.Thread(target=loop)
if {during}:
    other.start()
children = []
for _ in range(4):
    with warnings.catch_warnings():
        # Python 3.12 and later warn of forks with threads about, which is what this is a test of
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        good = pool() == []
        for threads in (2, 3, 1):
            good &= differing(results(shared({SHARED[what]}), threads=threads), expected) == []
        os._exit(0 if good and len(pool()) == 2 else 1)
    children.append(child)
    assert differing(results(shared({SHARED[what]}), threads=3), expected) == []
for child in children:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
stop = True
if {during}:
    other.join()
assert len(pool()) == 2
print("both")
"""
    assert run(script) == ["both"]


@pytest.mark.kernels
@pytest.mark.parametrize("cells", [["tanh"], ["lstm"], ["gru"], ["gru_reset_before", "lstm", "relu", "gru"]])
@pytest.mark.parametrize("plain", [True, False])
def test_calls_from_many_threads_at_once(plain, cells):
    shapes = [(40, 33, 70, 130), (60, 17, 90, 130), (3, 2, 4, 5), (300, 7, 50, 65)]
    problems = []
    for n, (shape, cell) in enumerate(zip(shapes * 2, cells * (8 // len(cells)), strict=True)):
        features = () if plain else extras(cell)
        problems.append(problem(*shape, cell=cell, dtype=np.float32, features=features, seed=n))
    alone = [results(p) for p in problems]
    wrong, barrier = [], threading.Barrier(len(problems))

    def call(n):
        barrier.wait()
        for threads in (2, 1, 3, 2, 5):
            names = differing(results(problems[n], threads=threads), alone[n])
            wrong.extend((n, threads, name) for name in names)
        done.append(n)

    done = []
    callers = [threading.Thread(target=call, args=(n,)) for n in range(len(problems))]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert sorted(done) == list(range(len(problems)))
    assert wrong == []


LEAVING = """
p = problem({steps}, 2, 8, {hidden}, cell={cell!r}, dtype=np.float32)
def call():
    results(p, threads={threads})
    os.write(1, b"done\\n")  # whole, when two come at once
for _ in range({callers}):
    threading.Thread(target=call, daemon={daemon}).start()
time.sleep(0.1)
print("left")
"""
#: The C library sleeps a second after Python has gone and before the process does, as a destructor might.
SLOW_EXIT = """
import ctypes
libc = ctypes.CDLL(None)
libc.__cxa_atexit(ctypes.cast(libc.usleep, ctypes.c_void_p), ctypes.c_void_p(1_000_000), None)
"""


@pytest.mark.parametrize(("cell", "hidden"), [("tanh", 1024), ("lstm", 512)])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs __cxa_atexit")
def test_leaving_during_a_call_of_a_daemon_thread(slow, threads, cell, hidden):
    """The interpreter ends under it; what the call still wants of it then must not crash."""
    script = LEAVING.format(steps=3000, threads=threads, daemon=True, callers=5, cell=cell, hidden=hidden)
    begin = time.monotonic()
    assert run((SLOW_EXIT if slow else "") + script, timeout=30) == ["left"]
    assert time.monotonic() - begin < 20  # nobody waits for the call


@pytest.mark.parametrize(("cell", "hidden"), [("tanh", 1024), ("lstm", 512)])
@pytest.mark.parametrize("threads", [1, 2])
def test_leaving_waits_for_other_threads(threads, cell, hidden):
    script = LEAVING.format(steps=400, threads=threads, daemon=False, callers=2, cell=cell, hidden=hidden)
    assert sorted(run(script, timeout=30)) == ["done", "done", "left"]


# ------------------------------------------------------------------------------------- Ctrl-C

WIDE = "p = problem(4000, 2, 8, 2048, dtype=np.float32, dy=False)"
GATED = "p = problem(3000, 2, 8, 1024, cell={cell!r}, features={features}, dtype=np.float32, dy=False)"
#: A call of a second and more, with what it needs before.
CALLS = {
    "unroll": (WIDE, "forward(p, threads={threads})"),
    "unroll one row": (WIDE.replace("4000, 2", "4000, 1"), "forward(p, threads={threads})"),
    "unroll one row, weights in no cache": (
        "p = problem(1000, 1, 128, 4096, dtype=np.float32, dy=False)",
        "forward(p, threads={threads})",
    ),
    "lstm": (GATED.format(cell="lstm", features=()), "forward(p, threads={threads})"),
    "lstm, nothing kept": (
        GATED.format(cell="lstm", features=()),
        "forward(p, keep=False, threads={threads})",
    ),
    "lstm, options": (
        GATED.format(cell="lstm", features=["reset", "reverse", "dropout", "zoneout"]),
        "forward(p, threads={threads})",
    ),
    "gru": (GATED.format(cell="gru", features=()), "forward(p, threads={threads})"),
    "gru_reset_before": (GATED.format(cell="gru_reset_before", features=()), "forward(p, threads={threads})"),
    "unroll narrow": (
        "p = problem(30_000_000, 1, 1, 1, dtype=np.float32, dy=False)",
        "forward(p, threads={threads})",
    ),
    "bptt": (
        "p = problem(1000, 40, 8, 1024, dtype=np.float32); saved = forward(p)[2]",
        "backward(p, saved, threads={threads})",
    ),
    "lstm bptt": (
        "p = problem(1000, 40, 8, 512, cell='lstm', dtype=np.float32); saved = forward(p)[2]",
        "backward(p, saved, threads={threads})",
    ),
    "gru bptt, options": (
        "p = problem(1000, 40, 8, 512, cell='gru', features=['reset', 'reverse', 'dropout', 'zoneout'],"
        " dtype=np.float32); saved = forward(p)[2]",
        "backward(p, saved, threads={threads})",
    ),
    "lstm depth": (
        "p = problem(100, 2, 8, 1024, cell='lstm', dtype=np.float32, depth=60); saved = forward(p)[2]",
        "backward(p, saved, threads={threads})",
    ),
    "depth": (
        "p = problem(100, 2, 8, 2048, dtype=np.float32, depth=60); saved = forward(p)[2]",
        "backward(p, saved, threads={threads})",
    ),
    "depth narrow": (
        "p = problem(9000, 1, 1, 1, dtype=np.float32, depth=9000); saved = forward(p)[2]",
        "backward(p, saved, threads={threads})",
    ),
    "affine": (
        "a, w = np.ones((16_000, 3000), 'f4'), np.ones((3000, 3000), 'f4')",
        "kernels.affine(a, w, None, threads={threads})",
    ),
    "affine wide": (
        "a, w = np.ones((1000, 2000), 'f4'), np.ones((40_000, 2000), 'f4')",
        "kernels.affine(a, w, None, threads={threads})",
    ),
    "affine_backward": (
        "a, w = np.ones((16_000, 3000), 'f4'), np.ones((3000, 3000), 'f4')",
        "kernels.affine_backward(a, w, a, threads={threads})",
    ),
}


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", CALLS)
def test_ctrl_c(name, threads):
    """KeyboardInterrupt within 0.2 s, and right results after it.

    Processor time, as the processor may be busy with something else for a moment.
    """
    prepare, call = CALLS[name]
    script = f"""
import signal
expected = results(shared())
results(shared(), threads={threads})
{prepare}
sent = []
def interrupt():
    time.sleep(0.25)
    sent.append(time.process_time())
    os.kill(os.getpid(), signal.SIGINT)
other = threading.Thread(target=interrupt)
other.start()
try:
    {call.format(threads=threads)}
    print("finished")
    other.join()
except KeyboardInterrupt:
    print("interrupted", time.process_time() - sent[0])
other.join()
assert differing(results(shared(), threads={threads}), expected) == []
print("right")
"""
    word, *seconds, right = run(script)
    assert right == "right"
    assert word == "interrupted", "the call ended by itself"
    assert float(seconds[0]) <= 0.2 * threads


def test_ctrl_c_while_helpers_are_asked():
    """What a helper has begun is waited for: the caller gives up the memory that it writes to."""
    script = """
p = problem(400, 64, 64, 256, dtype=np.float32)
y = np.zeros((400, 64, 256), np.float32)
def submit(task, count):
    helper.run = task
    helper.start()
    while not y[0].any():
        time.sleep(1e-4)
    raise KeyboardInterrupt
helper, kernels._module.submit = threading.Thread(), submit
try:
    kernels.unroll(p.cell, p.x, p.state, p.weights, threads=2, y_to=y)
except KeyboardInterrupt:
    left = y.copy()
helper.join()
assert (y == left).all()
"""
    run(script)


# ------------------------------------------------------------------------------------- memory


def test_absurd_sizes():
    """Rows of no numbers are an array of no bytes; what they map to would not fit into any memory."""
    script = """
x, weight = np.empty((10**14, 0)), np.empty((3, 0))
for _ in range(100):
    try:
        kernels.affine(x, weight, None)
    except MemoryError:
        continue
    raise AssertionError
p = problem(1, 1, 1, 3)
weights = p.weights._replace(weight_ih=np.empty((3, 0)))
for _ in range(100):
    try:
        kernels.unroll("tanh", np.empty((10**9, 10**4, 0)), (np.empty((10**4, 3)),), weights)
    except MemoryError:
        continue
    raise AssertionError
print(len(results(shared())))
"""
    assert run(script) == ["8"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs RLIMIT_AS and /proc")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("call", "what"),
    [
        *((call, "tanh") for call in ("unroll", "bptt", "depth", "tokens", "affine", "affine_backward")),
        *(("unroll", what) for what in SHARED if what != "tanh"),
        *(("bptt", what) for what in SHARED if what != "tanh"),
    ],
)
def test_memory_runs_out(call, what, threads):
    """Wherever it runs out, MemoryError, and everything released: with enough of it the call succeeds."""
    script = f"""
import resource
name = {call!r}
options = dict({SHARED[what]}) | dict(tokens=name == "tokens", depth=2 if name == "depth" else None)
B, H = {(5250, 99) if what == "tanh" else (12_000, 40)}  # more than what the kernels keep of freed memory
p = problem(2, B, 9, H, dtype=np.float32, **options)
rng = np.random.default_rng(0)
a, w, d = (rng.normal(size=s) for s in ((20_000, 50), (60, 50), (20_000, 60)))
def call():
    if name == "unroll":
        return forward_results(p, threads={threads})[0]
    if name == "affine":
        return {{0: kernels.affine(a, w, None, threads={threads})}}
    if name == "affine_backward":
        return dict(enumerate(kernels.affine_backward(a, w, d, threads={threads})))
    return backward(p, saved, threads={threads})
saved = forward(p, threads={threads})[2]
expected = call()
with open("/proc/self/statm") as statm:
    size = int(statm.read().split()[0]) * resource.getpagesize()
hard = resource.getrlimit(resource.RLIMIT_AS)[1]
outcomes = []
for margin in (*range(0, 32 << 20, 3 << 17), 64 << 20, 128 << 20):
    resource.setrlimit(resource.RLIMIT_AS, (size + margin, hard))
    try:
        got = call()
    except MemoryError:
        outcomes.append("refused")
    else:
        outcomes.append("done")
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    if outcomes[-1] == "done":
        assert differing(got, expected) == []
        del got
assert differing(call(), expected) == []
print(outcomes.count("refused"), outcomes[-1])
"""
    refused, last = run(script)
    assert int(refused) >= 4
    assert last == "done"
