"""The one table of shapes, and the ratios to be reached on them."""

from __future__ import annotations

from collections.abc import Iterator

from bptt.benchmark.rows import (
    BACKWARD,
    CASES,
    CELLS,
    DTYPES,
    FORWARD,
    OPTIONS,
    SETUPS,
    STEP,
    Row,
    Shape,
    Task,
)

# forward, forward + backward: the least ratio to the best peer (None: no bar).
Ratios = dict[Shape, tuple[float | None, float | None]]

_MAIN: Ratios = {
    Shape(50, 1, 4, 4): (1.5, 2.0),
    Shape(50, 1, 16, 16): (None, 2.5),
    Shape(100, 1, 32, 32): (2.2, None),
    Shape(100, 1, 64, 64): (2.3, 3.0),
    Shape(100, 1, 256, 256): (1.6, 2.4),
    Shape(100, 1, 512, 512): (1.2, 2.0),
    Shape(100, 32, 64, 64): (1.5, 2.0),
    Shape(100, 32, 256, 256): (1.22, 1.6),
    Shape(100, 128, 256, 256): (1.2, None),
    Shape(50, 64, 1024, 1024): (1.12, 1.4),
}
_GATED: dict[str, Ratios] = {
    "lstm": {
        Shape(50, 1, 4, 4): (1.5, None),
        Shape(50, 1, 16, 16): (None, 2.0),
        Shape(100, 1, 32, 32): (1.4, None),
        Shape(100, 1, 64, 64): (1.3, 1.7),
        Shape(100, 1, 256, 256): (1.1, 1.5),
        Shape(100, 32, 64, 64): (1.12, 1.15),
        Shape(100, 32, 256, 256): (1.03, 1.25),
        Shape(50, 64, 1024, 1024): (1.06, 1.05),
    },
    "gru": {
        Shape(50, 1, 4, 4): (1.5, None),
        Shape(50, 1, 16, 16): (None, 2.0),
        Shape(100, 1, 32, 32): (1.5, None),
        Shape(100, 1, 64, 64): (1.3, 1.7),
        Shape(100, 1, 256, 256): (1.2, 1.5),
        Shape(100, 32, 64, 64): (1.4, 1.8),
        Shape(100, 32, 256, 256): (1.25, 1.8),
        Shape(50, 64, 1024, 1024): (1.2, 1.3),
    },
}

# Multiples of nothing.  Each has the bar of the main shape it is like; between B=1 and B=32, the lower one.
_LIKE: dict[Shape, Shape] = {
    Shape(70, 3, 48, 80): Shape(100, 32, 64, 64),
    Shape(33, 17, 100, 200): Shape(100, 32, 256, 256),
    Shape(200, 1, 24, 96): Shape(100, 1, 64, 64),
    Shape(64, 48, 384, 384): Shape(100, 32, 256, 256),
    Shape(100, 7, 1, 50): Shape(100, 32, 64, 64),
}

_FLOAT64 = (Shape(100, 1, 64, 64), Shape(100, 32, 256, 256))
_STEP = (*(Shape(1, 1, H, H) for H in (4, 32, 64, 128, 256, 512)), Shape(1, 32, 256, 256))
# Short sequences: a frozen layer packs nothing.
_SHORT = tuple(Shape(T, 1, H, H) for T in (1, 5) for H in (64, 128, 256, 512))

# Two layers in both directions, forward + backward, rows of different lengths: the least ratio to a peer.
_RAGGED = (Shape(200, 32, 64, 128), 3.0)
# An option may cost a quarter of the time without it.
_OPTIONS = (Shape(100, 32, 256, 256), 1 / 1.25)

# At least 1.8 times our one-thread speed at B >= 32 for calls of 5 ms and more.
_TWO_THREADS = {
    FORWARD: (Shape(64, 48, 384, 384), Shape(100, 128, 256, 256), Shape(50, 64, 1024, 1024)),
    BACKWARD: (
        Shape(100, 32, 256, 256),
        Shape(64, 48, 384, 384),
        Shape(100, 128, 256, 256),
        Shape(50, 64, 1024, 1024),
    ),
}
# Calls under 100 us lose nothing by the default number of threads; 3% is for the spread of the two medians.
_SMALL = {
    FORWARD: (Shape(50, 1, 4, 4), Shape(100, 1, 32, 32), Shape(100, 1, 64, 64)),
    BACKWARD: (Shape(50, 1, 4, 4), Shape(50, 1, 16, 16), Shape(100, 1, 64, 64)),
}
NO_LOSS = 0.97

# The least fractions of the FMA peak.
_PEAK = {FORWARD: 0.85, BACKWARD: 0.80}


def _limit(case: str, shape: Shape) -> float | None:
    """Return the tanh layer's fraction to reach of the hardware's limit."""
    if shape.H < 256:  # in registers and the first cache, and calls too short
        return None
    if shape.B == 1:
        return 0.60 if case == FORWARD else None
    return _PEAK[case] if shape.B >= 32 else None


def _tanh_bars() -> Iterator[Row]:
    ratios = dict(_MAIN)
    ratios.update({odd: _MAIN[like] for odd, like in _LIKE.items()})
    for i, case in enumerate((FORWARD, BACKWARD)):
        for shape, pair in ratios.items():
            yield Row(Task(case, shape), ratio=pair[i], limit=_limit(case, shape))
    for case in (FORWARD, BACKWARD):
        for shape in _FLOAT64:
            yield Row(Task(case, shape, "float64"), ratio=1.2)
    for shape in _STEP:
        yield Row(Task(STEP, shape), limit=1.0)
    for shape in _SHORT:
        yield Row(Task(FORWARD, shape), ratio=1.5, ours="bptt-frozen", over="onnxruntime")
    for case, shapes in _TWO_THREADS.items():
        for shape in shapes:
            yield Row(Task(case, shape), threads=2, ratio=1.8, over="bptt-1-thread")
    for case, shapes in _SMALL.items():
        for shape in shapes:
            task = Task(case, shape)
            yield Row(task, threads=2, ratio=NO_LOSS, ours="bptt-default-threads", over="bptt-1-thread")


def _gated_bars(cell: str) -> Iterator[Row]:
    for i, case in enumerate((FORWARD, BACKWARD)):
        for shape, pair in _GATED[cell].items():
            if pair[i] is not None:
                limit = _PEAK[case] if shape == Shape(100, 32, 256, 256) else None
                yield Row(Task(case, shape, cell=cell), ratio=pair[i], limit=limit)
    shape, ratio = _RAGGED
    yield Row(Task(BACKWARD, shape, cell=cell, setup="ragged"), ratio=ratio)
    if cell == "lstm":
        shape, ratio = _OPTIONS
        for setup in OPTIONS:
            yield Row(Task(BACKWARD, shape, cell=cell, setup=setup), ratio=ratio, over="bptt-without-option")


BARS = (*_tanh_bars(), *_gated_bars("lstm"), *_gated_bars("gru"))


def _without_bars(shapes: tuple[Shape, ...], threads: int, setup: str) -> tuple[Row, ...]:
    """Every cell, direction and precision of ``shapes``; a single step has their B, I, H."""
    steps = tuple(dict.fromkeys(shape._replace(T=1) for shape in shapes))
    over = "bptt-without-option" if setup in OPTIONS else "best peer"
    return tuple(
        Row(Task(case, shape, dtype, cell, setup), threads, over=over)
        for cell in CELLS
        for dtype in DTYPES
        for case in SETUPS[setup].cases
        for shape in (steps if case == STEP else shapes)
    )


SELECTIONS: dict[str, tuple[Shape, ...]] = {
    "tiny": (Shape(3, 2, 3, 5),),
    "smoke": (Shape(50, 1, 16, 16), Shape(20, 8, 64, 64)),
    "main": tuple(_MAIN),
    "odd": tuple(_LIKE),
    "sweep": tuple(Shape(100, B, H, H) for B in (1, 32) for H in (8, 16, 32, 64, 128, 256, 512, 1024)),
}

# Parts of the bars.
_PARTS: dict[str, tuple[Row, ...]] = {
    "bars": BARS,
    "short": tuple(row for row in BARS if row.ours == "bptt-frozen"),
    "ragged": tuple(row for row in BARS if row.task.setup == "ragged"),
    "options": tuple(row for row in BARS if row.task.setup in OPTIONS),
}
NAMES = (*_PARTS, *SELECTIONS)

HELP = (
    f"bars (default), {', '.join(NAMES[1:])} or T,B,I,H; the latter two kinds may be followed by "
    f":{', :'.join(list(SETUPS)[1:])}; joined by +"
)


def select(
    text: str,
    threads: int,
    cases: tuple[str, ...] = CASES,
    dtypes: tuple[str, ...] = DTYPES,
    cells: tuple[str, ...] = CELLS,
) -> tuple[Row, ...]:
    """Rows of a selection: names and shapes joined by +, such as ``main+odd`` or ``100,1,64,64+odd:zoneout``.

    Parameters
    ----------
    text : str
        ``bars`` or a part of them, a name in SELECTIONS, or T,B,I,H; or several of these. The latter two may
        be followed by : and a name in SETUPS.
    threads : int
        Number of threads; of the bars only the rows with this number are taken.
    cases, dtypes, cells : tuple of str
        Only these.

    Raises
    ------
    ValueError
        If a part is neither a name nor a shape.
    """
    rows: dict[str, Row] = {}  # by group: the first one counts
    for part in text.split("+"):
        name, _, setup = part.partition(":")
        setup = setup or "plain"
        if part in _PARTS:
            chosen = tuple(row for row in _PARTS[part] if row.threads == threads)
        elif setup in SETUPS and name in SELECTIONS:
            chosen = _without_bars(SELECTIONS[name], threads, setup)
        elif setup in SETUPS and name[:1].isdigit():
            chosen = _without_bars((Shape.parse(name),), threads, setup)
        else:
            raise ValueError(
                f"shapes: expected {', '.join(NAMES)} or T,B,I,H, some followed by "
                f":{', :'.join(SETUPS)}, got {part!r}"
            )
        for row in chosen:
            rows.setdefault(row.group, row)
    return tuple(
        row
        for row in rows.values()
        if row.task.case in cases and row.task.dtype in dtypes and row.task.cell in cells
    )
