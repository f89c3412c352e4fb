"""Small training runs that several test files share."""

import numpy as np

from bptt.settings import Limit, Settings
from bptt.text import default_corpus
from bptt.training import new_run

TEXT = default_corpus()[5000:5400]
TINY = Settings(hidden=4, steps_per_chunk=8, batch=3, seed=7)  # 380 characters, 126 steps: 16 chunks an epoch


def tiny_run(epochs=2, **changes):
    settings = Settings(**(vars(TINY) | changes))
    return new_run(settings, Limit(epochs=epochs), TEXT, backend="reference")


def state_of(run):
    """Everything that a step may change, for comparison with ==."""
    arrays = dict(run.network.parameters) | dict(enumerate(run.state))
    scalars = {}
    for name, value in run.optimizer.state_dict().items():
        (arrays if isinstance(value, np.ndarray) else scalars)[name] = value
    counters = {name: value for name, value in vars(run.counters).items() if name != "seconds"}
    return (
        {name: (a.dtype, a.shape, a.tobytes()) for name, a in arrays.items()},
        scalars,
        counters,
        run.rng.bit_generator.state,
    )


def step(run):
    if run.evaluation_due:
        run.note_validation(run.evaluate())
    run.update(*run.gradients())
