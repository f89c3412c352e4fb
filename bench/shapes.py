"""The one table of shapes, and the ratios to be reached on them."""

from __future__ import annotations

from bptt.benchmark.rows import BACKWARD, CASES, DTYPES, FORWARD, STEP, Row, Shape

# forward, forward + backward: the least ratio to the best peer (None: no bar).
_MAIN: dict[Shape, tuple[float | None, float | None]] = {
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


def _limit(case: str, shape: Shape) -> float | None:
    if shape.H < 256:  # in registers and the first cache, and calls too short
        return None
    if shape.B == 1:
        return 0.60 if case == FORWARD else None
    if shape.B < 32:
        return None
    return 0.85 if case == FORWARD else 0.80


def _bars() -> tuple[Row, ...]:
    ratios = dict(_MAIN)
    ratios.update({odd: _MAIN[like] for odd, like in _LIKE.items()})
    rows = [
        Row(case, shape, ratio=pair[i], limit=_limit(case, shape))
        for i, case in enumerate((FORWARD, BACKWARD))
        for shape, pair in ratios.items()
    ]
    rows += [Row(case, shape, "float64", ratio=1.2) for case in (FORWARD, BACKWARD) for shape in _FLOAT64]
    rows += [Row(STEP, shape, limit=1.0) for shape in _STEP]
    rows += [Row(FORWARD, shape, ratio=1.5, ours="bptt-frozen", over="onnxruntime") for shape in _SHORT]
    rows += [
        Row(case, shape, threads=2, ratio=1.8, over="bptt-1-thread")
        for case, shapes in _TWO_THREADS.items()
        for shape in shapes
    ]
    rows += [
        Row(case, shape, threads=2, ratio=NO_LOSS, ours="bptt-default-threads", over="bptt-1-thread")
        for case, shapes in _SMALL.items()
        for shape in shapes
    ]
    return tuple(rows)


BARS = _bars()


def _without_bars(shapes: tuple[Shape, ...], threads: int) -> tuple[Row, ...]:
    """Every direction and precision of ``shapes``; the single step has their B, I, H and one time step."""
    steps = tuple(dict.fromkeys(shape._replace(T=1) for shape in shapes))
    return tuple(
        Row(case, shape, dtype, threads)
        for dtype in DTYPES
        for case in CASES
        for shape in (steps if case == STEP else shapes)
    )


SELECTIONS: dict[str, tuple[Shape, ...]] = {
    "tiny": (Shape(3, 2, 3, 5),),
    "smoke": (Shape(50, 1, 16, 16), Shape(20, 8, 64, 64)),
    "main": tuple(_MAIN),
    "odd": tuple(_LIKE),
    "short": _SHORT,
    "sweep": tuple(Shape(100, B, H, H) for B in (1, 32) for H in (8, 16, 32, 64, 128, 256, 512, 1024)),
}


def select(
    text: str, threads: int, cases: tuple[str, ...] = CASES, dtypes: tuple[str, ...] = DTYPES
) -> tuple[Row, ...]:
    """Rows of a selection: names and shapes joined by +, such as ``main+odd`` or ``100,1,64,64+70,3,48,80``.

    Parameters
    ----------
    text : str
        ``bars``, a name in SELECTIONS, or T,B,I,H; or several of these.
    threads : int
        Number of threads; of the bars only the rows with this number are taken.
    cases, dtypes : tuple of str
        Only these.

    Raises
    ------
    ValueError
        If a part is neither a name nor a shape.
    """
    rows: dict[str, Row] = {}  # by group: the first one counts
    for part in text.split("+"):
        if part == "bars":
            chosen = tuple(row for row in BARS if row.threads == threads)
        elif part == "short":
            chosen = tuple(row for row in BARS if row.threads == threads and row.shape in _SHORT)
        elif part in SELECTIONS:
            chosen = _without_bars(SELECTIONS[part], threads)
        elif part[:1].isdigit():
            chosen = _without_bars((Shape.parse(part),), threads)
        else:
            raise ValueError(f"shapes: expected bars, {', '.join(SELECTIONS)} or T,B,I,H, got {part!r}")
        for row in chosen:
            rows.setdefault(row.group, row)
    return tuple(row for row in rows.values() if row.case in cases and row.dtype in dtypes)
