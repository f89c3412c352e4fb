"""What a pass within a memory budget takes of the system."""

import os
import subprocess
import sys

import pytest

#: Tells the bytes beyond what the caller gives and gets, at the worst moment from recording on.
SCRIPT = """
import resource
import numpy as np
import bptt

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

T, B, I, H, memory = 20_000, 8, 4, 64, {memory}
x = np.ones((T, B, I), np.float32)
dy = np.empty((T, B, H), np.float32, order={order!r})
dy[...] = 1
layer, options = bptt.RNN(I, H, seed=0), {{"input_grad": False, "threads": 1}}
for cut in ({{}}, {{"depth": 5, "stride": 2}}):  # what is loaded and set up once
    layer.record(x[:50], checkpoint=1)[2].backward(dy[:50], **cut, **options)
before = peak()
y, _, tape = layer.record(x, memory=memory, threads=1)
{then}
tape.backward(dy, **options)
print(peak() - before - y.nbytes)
"""
#: The longest windows that fit, as the error tells.
LONGEST = """
try:
    tape.backward(dy, depth=T - 1, stride=T // 2)
except ValueError as error:
    most = int(str(error).split()[4].rstrip(","))
options |= {"depth": most, "stride": most // 2}
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the system tells it in other units, or not")
@pytest.mark.parametrize(
    ("order", "then"),
    [("C", ""), ("F", ""), ("C", LONGEST)],
    ids=["plain", "dy in another layout", "windows"],
)
def test_no_memory_beyond_the_budget(order, then):
    memory = 20_000_000
    script = SCRIPT.format(memory=memory, order=order, then=then)
    # glibc gives large blocks back to the system at once, instead of keeping some for later
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=env
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= memory
