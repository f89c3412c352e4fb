"""Do the tile's loops keep their sums in registers?  Disassembles a compiled variant and counts.

python bench/spills.py [avx512|avx2|baseline]     needs objdump (binutils), x86-64

For every innermost loop of the register tile: instructions, multiply-adds, and vector instructions that touch
the stack. Any of the last kind is a spill, and the exit code is 1: expected of the baseline, which has 16
registers and no multiply-add.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module

import bptt.kernels

ADD = re.compile(r"vfmadd\w+p[sd]|addp[sd]")  # SSE has no multiply-add
VECTOR = re.compile(r"%[xyz]mm")
STACK = re.compile(r"\(%r[sb]p")


def functions(path: str) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    """Yield each function's name and its instructions with their addresses."""
    command = ["objdump", "-d", "--no-show-raw-insn", path]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for block in text.split("\n\n"):
        head = re.search(r"^[0-9a-f]+ <(.+)>:", block, re.MULTILINE)
        if head:
            found = re.findall(r"^ +([0-9a-f]+):\t(.*)", block, re.MULTILINE)
            yield head[1], [(int(address, 16), instruction) for address, instruction in found]


def loops(code: list[tuple[int, str]]) -> Iterator[list[str]]:
    """Yield the bodies of the innermost loops: backward jumps with no jump back between."""
    index = {address: i for i, (address, _) in enumerate(code)}
    last = -1
    for i, (address, instruction) in enumerate(code):
        jump = re.match(r"j\w+ +([0-9a-f]+)", instruction)
        target = int(jump[1], 16) if jump else address
        if target < address and target in index and index[target] > last:
            yield [text for _, text in code[index[target] : i + 1]]
            last = i


def main(variant: str) -> int:
    """Print the loops of the tile and return the exit code."""
    if variant not in bptt.kernels.available():
        sys.exit(f"variant: expected one of {', '.join(bptt.kernels.available())}, got {variant!r}")
    if shutil.which("objdump") is None:
        sys.exit("objdump: not found; it is part of binutils")
    path = import_module(bptt.kernels.module_name(variant)).__file__
    assert path is not None
    spilled = found = 0
    for name, code in functions(path):
        if not re.match(r"f(32|64)_tile_", name):
            continue
        for body in loops(code):
            adds = sum(bool(ADD.match(text)) for text in body)
            spills = sum(bool(VECTOR.search(text) and STACK.search(text)) for text in body)
            if adds:
                found += 1
                print(f"{name:32} {len(body):4} instructions {adds:4} multiply-adds {spills:3} spills")
                spilled += spills
    if not found:
        sys.exit(f"{path}: no loop of the tile found; an editable install keeps the names of functions")
    print(f"{variant}: {spilled} spills")
    return 1 if spilled else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else bptt.kernels.variant))
