"""The compiled half of bptt: one table of Cython directives times one table of CPU variants.

Set to 1 in the environment for another build (CONTRIBUTING.md says what for):

BPTT_NATIVE    one variant, for the processor it is built on
BPTT_CHECKED   bounds checks, and assertions on every panel index
BPTT_SANITIZE  with GCC's or Clang's address and undefined-behaviour sanitizers
BPTT_TRACE     counting the lines that run, for GCC's gcov
BPTT_SCALAR    the baseline alone and without vector types, as a compiler that has none builds it (MSVC)
"""

import os
import platform
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

KINDS = [
    kind
    for kind in ("native", "checked", "sanitize", "trace", "scalar")
    if os.environ.get(f"BPTT_{kind.upper()}") == "1"
]
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": "checked" in KINDS,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": "checked" in KINDS,
    "embedsignature": True,
    "embedsignature.format": "python",
    "autotestdict": False,
    "auto_pickle": False,
    "freethreading_compatible": True,
}

MSVC = sys.platform == "win32"
X86_64 = platform.machine().lower() in ("x86_64", "amd64") and not MSVC and "scalar" not in KINDS
# The stable ABI: one wheel for every CPython from 3.11 on, for 0.1 to 0.4 us a call.  Free-threaded Pythons
# don't have it, and a wheel for one processor need not fit several Pythons.
ABI3 = not sysconfig.get_config_var("Py_GIL_DISABLED") and "native" not in KINDS

# Narrow flags only: an ISO-breaking -ffast-math would lose NaN and inf and the order of the sums.  libm isn't
# named: Python brings it along, and newer versions of its functions would tie a wheel to newer systems.
FLAGS = ["-std=gnu11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-g0"]
# Left to itself, GCC calls tanh once for every vector, and loads a dozen constants each time.
INLINE = "__inline__ __attribute__((always_inline, unused))"
LINK = []
if MSVC:
    FLAGS = ["/std:c11", "/O2"]
SLOW = ["-O1", "-fexpensive-optimizations"]  # the latter for fused multiply-adds, whose precision counts
if "sanitize" in KINDS:
    LINK = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    FLAGS += [*SLOW, "-g1", "-fno-omit-frame-pointer", *LINK]
if "trace" in KINDS:
    LINK = ["--coverage"]
    FLAGS += [*SLOW, *LINK]  # threads may lose each other's counts, which only matter as 0 or more

VARIANTS = {"_baseline": []}
if X86_64:
    VARIANTS["_avx2"] = ["-mavx2", "-mfma"]
    features = ["-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mfma"]
    VARIANTS["_avx512"] = [*features, "-mprefer-vector-width=512"]
if "native" in KINDS:
    VARIANTS = {"_native": ["-march=native", "-mprefer-vector-width=512"] if X86_64 else ["-mcpu=native"]}

MACROS = [(f"BPTT_{kind.upper()}", "1") for kind in KINDS]
if not MSVC:
    MACROS.append(("CYTHON_INLINE", INLINE))
if ABI3:
    MACROS.append(("Py_LIMITED_API", "0x030B0000"))


def extensions():
    headers = sorted(path.as_posix() for path in Path("src/bptt/kernels").glob("*.h"))
    return [
        Extension(
            f"bptt.kernels.{module}",
            [f"src/bptt/kernels/{module}.pyx"],
            include_dirs=["src/bptt/kernels"],
            depends=headers,
            define_macros=MACROS,
            extra_compile_args=FLAGS + flags,
            extra_link_args=LINK,
            py_limited_api=ABI3,
        )
        for module, flags in {"_cpu": [], **VARIANTS}.items()
    ]


class BuildExt(build_ext):
    """Say in one sentence that there is no compiler; keep symbols where bench/spills.py looks for them."""

    def finalize_options(self):
        super().finalize_options()
        self.cython_directives = DIRECTIVES
        self.cython_c_in_temp = True

    def run(self):
        command = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
        if not MSVC and shutil.which(command) is None:
            sys.exit(
                f"bptt: building needs a C compiler, and {command!r} was not found; install one (Debian, "
                "Ubuntu: apt install gcc; Fedora: dnf install gcc; macOS: xcode-select --install) or name "
                "yours in the environment variable CC."
            )
        if self.inplace:
            for old in Path("src/bptt/kernels").glob("_*.so"):
                old.unlink()  # with another suffix it could win over the new one
        self.strip = sys.platform == "linux" and not self.inplace and not LINK
        super().run()

    def build_extension(self, ext):
        if self.strip:
            ext.extra_link_args = ["-Wl,-s"]
            # some Pythons would leave the folder that they live in
            self.compiler.linker_so = [
                part for part in self.compiler.linker_so if not part.startswith("-Wl,-rpath")
            ]
        super().build_extension(ext)


setup(
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildExt},
    options={
        # a folder for each kind: what was built for one is not up to date for another
        "build": {"build_base": f"build/{'-'.join(KINDS) or 'plain'}"},
        "bdist_wheel": {"py_limited_api": "cp311"} if ABI3 else {},
    },
)
