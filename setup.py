"""Builds the one extension, pogfast._engine, from ext/.

POGFAST_DEBUG=1 builds with bounds checks, asserts and warnings as errors. POGFAST_SANITIZE=address,undefined or thread
builds with those sanitizers of the compiler (ci/sanitize.sh runs the tests on it). Nothing but a C compiler is needed:
libsodium, libzstd and libcrypto are found when the module is imported (ext/base/libs.pxi says where and why).
"""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("POGFAST_DEBUG") == "1"
SANITIZE = os.environ.get("POGFAST_SANITIZE", "")
# Cython's own output is not free of unused functions, hence the one exception to -Wall.
C_FLAGS = ["-O1", "-g", "-UNDEBUG", "-Wall", "-Werror", "-Wno-unused-function"] if DEBUG else ["-O3", "-g0", "-DNDEBUG"]
LINK_FLAGS = []
if SANITIZE:
    LINK_FLAGS = [f"-fsanitize={SANITIZE}"]
    C_FLAGS = ["-O1", "-g", "-UNDEBUG", "-fno-omit-frame-pointer", *LINK_FLAGS]

setup(
    ext_modules=cythonize(
        Extension(
            "pogfast._engine",
            ["ext/engine.pyx"],
            extra_compile_args=C_FLAGS,
            extra_link_args=LINK_FLAGS,
            libraries=["pthread", "dl"],
        ),
        compiler_directives={
            "language_level": 3,
            "boundscheck": DEBUG,
            "wraparound": False,
            "initializedcheck": DEBUG,
            "cdivision": True,
            "embedsignature": True,
        },
        compile_time_env=None,
        include_path=["ext"],
    )
)
