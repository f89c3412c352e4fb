"""The compiled half of bptt: one table of Cython directives times one table of CPU variants."""

import os
import platform
import shutil
import sys
import sysconfig

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "embedsignature": True,
    "embedsignature.format": "python",
    "autotestdict": False,
}

MSVC = sys.platform == "win32"
X86_64 = platform.machine().lower() in ("x86_64", "amd64") and not MSVC

# Narrow flags only: an ISO-breaking -ffast-math would lose NaN and inf and the order of the sums.
COMMON = ["-std=gnu11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-g0"]
# Left to itself, GCC calls tanh once for every vector, and loads a dozen constants each time.
INLINE = "__inline__ __attribute__((always_inline, unused))"
VARIANTS = {"_baseline": []}
if X86_64:
    VARIANTS["_avx2"] = ["-mavx2", "-mfma"]
    features = ["-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mfma"]
    VARIANTS["_avx512"] = [*features, "-mprefer-vector-width=512"]


def extensions():
    sources = ["_lanes.h", "_tile.h", "_pack.h", "_share.h", "_memory.h"]
    depends = [f"src/bptt/kernels/{name}" for name in sources]
    modules = {"_cpu": [], **VARIANTS}
    return [
        Extension(
            f"bptt.kernels.{module}",
            [f"src/bptt/kernels/{module}.pyx"],
            include_dirs=["src/bptt/kernels"],
            depends=depends,
            define_macros=[] if MSVC else [("CYTHON_INLINE", INLINE)],
            extra_compile_args=[] if MSVC else COMMON + flags,
        )
        for module, flags in modules.items()
    ]


class BuildExt(build_ext):
    """Say in one sentence that there is no compiler, before distutils says it in fifty."""

    def run(self):
        command = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
        if not MSVC and shutil.which(command) is None:
            sys.exit(
                f"bptt: building needs a C compiler, and {command!r} was not found; install one (Debian, "
                "Ubuntu: apt install gcc; Fedora: dnf install gcc; macOS: xcode-select --install) or name "
                "yours in the environment variable CC."
            )
        super().run()


setup(ext_modules=cythonize(extensions(), compiler_directives=DIRECTIVES), cmdclass={"build_ext": BuildExt})
