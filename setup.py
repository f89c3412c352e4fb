"""The compiled half of bptt: one table of Cython directives times one table of CPU variants."""

import os
import platform
import shutil
import sys
import sysconfig

from Cython.Build import cythonize
from setuptools import Extension, setup

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "embedsignature": True,
    "embedsignature.format": "python",
}

MSVC = sys.platform == "win32"
X86_64 = platform.machine().lower() in ("x86_64", "amd64") and not MSVC

# Narrow flags only: an ISO-breaking -ffast-math would lose NaN and inf and the order of the sums.
COMMON = [] if MSVC else ["-std=c11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-g0"]
VARIANTS = {"_baseline": []}
if X86_64:
    VARIANTS["_avx2"] = ["-mavx2", "-mfma"]
    VARIANTS["_avx512"] = [*"-mavx512f -mavx512vl -mavx512bw -mavx512dq -mfma".split(), "-mprefer-vector-width=512"]


def extensions():
    sources = ["_lanes.h", "_tile.h", "_pack.h", "_share.h"]
    depends = [f"src/bptt/kernels/{name}" for name in sources]
    modules = {"_cpu": [], **VARIANTS}
    return [
        Extension(
            f"bptt.kernels.{module}",
            [f"src/bptt/kernels/{module}.pyx"],
            include_dirs=["src/bptt/kernels"],
            depends=depends,
            extra_compile_args=COMMON + flags,
        )
        for module, flags in modules.items()
    ]


def require_compiler():
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    if not MSVC and shutil.which(compiler.split()[0]) is None and shutil.which("cc") is None:
        sys.exit(
            f"bptt: building needs a C compiler and {compiler.split()[0]!r} was not found; install one "
            "(Debian and Ubuntu: apt install gcc; Fedora: dnf install gcc; macOS: xcode-select --install) "
            "or name yours in the environment variable CC."
        )


require_compiler()
setup(ext_modules=cythonize(extensions(), compiler_directives=DIRECTIVES))
