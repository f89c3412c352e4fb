"""Tell whether a wheel is fit to be published.

python tools/check_wheel.py FILE.whl     needs pyelftools, which auditwheel brings

At most 1.5 MB; for an older Linux than most run; every compiled module there, without symbols, without a
path of the machine that made it, and linked to nothing but the C library and libm.
"""

from __future__ import annotations

import io
import re
import sys
import zipfile
from pathlib import Path

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile

MOST_BYTES = 1_500_000
MOST_GLIBC = 28  # manylinux_2_28
LIBRARIES = re.compile(r"(libc|libm|ld-linux-[\w-]+)\.so\.\d+|libc\.musl-\w+\.so\.1")
MODULES = {"x86_64": {"_cpu", "_baseline", "_avx2", "_avx512"}, "aarch64": {"_cpu", "_baseline"}}
SOURCES = (".c", ".pyx", ".pxd", ".pxi", ".h", ".o")


def of_wheel(path: Path) -> list[str]:
    """Return what is wrong with the file as a whole."""
    wrong = []
    if path.stat().st_size > MOST_BYTES:
        wrong.append(f"{path.stat().st_size} bytes, more than {MOST_BYTES}")
    versions = [int(version) for version in re.findall(r"manylinux_2_(\d+)_", path.name)]
    if "musllinux" not in path.name and not (versions and min(versions) <= MOST_GLIBC):
        wrong.append(f"not a wheel for manylinux_2_{MOST_GLIBC} or older")
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
    wrong += [f"{name}: a source" for name in names if name.endswith(SOURCES)]
    wrong += [f"{name}: a library of somebody else's" for name in names if ".libs/" in name]
    architecture = "aarch64" if "aarch64" in path.name else "x86_64"
    compiled = {Path(name).name.split(".")[0] for name in names if name.endswith(".so")}
    wrong += [f"{name}: no such module" for name in sorted(MODULES[architecture] - compiled)]
    return wrong


def of_module(elf: ELFFile) -> list[str]:
    """Return what is wrong with a compiled module."""
    wrong = [
        f"has {section.name}" for section in elf.iter_sections() if section.name in (".symtab", ".debug_info")
    ]
    dynamic = elf.get_section_by_name(".dynamic")
    assert isinstance(dynamic, DynamicSection)
    for tag in dynamic.iter_tags():
        if tag.entry.d_tag in ("DT_RPATH", "DT_RUNPATH"):
            wrong.append("has a path of the machine that made it")
        elif tag.entry.d_tag == "DT_NEEDED" and not LIBRARIES.fullmatch(tag.needed):
            wrong.append(f"needs {tag.needed}")
    return wrong


def main(path: Path) -> int:
    """Print what is wrong, or the size."""
    wrong = of_wheel(path)
    with zipfile.ZipFile(path) as wheel:
        for name in wheel.namelist():
            if name.endswith(".so"):
                wrong += [f"{name}: {what}" for what in of_module(ELFFile(io.BytesIO(wheel.read(name))))]
    print("\n".join(wrong) or f"{path.name}: {path.stat().st_size} bytes, good")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
