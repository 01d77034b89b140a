"""Builds the one extension, pogfast._engine, from ext/.

POGFAST_DEBUG=1 builds with bounds checks, asserts and warnings as errors. Nothing but a C compiler is needed:
libsodium, libzstd and libcrypto are found when the module is imported (ext/libs.pxi says where and why).
"""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("POGFAST_DEBUG") == "1"
# Cython's own output is not free of unused functions, hence the one exception to -Wall.
C_FLAGS = ["-O1", "-g", "-UNDEBUG", "-Wall", "-Werror", "-Wno-unused-function"] if DEBUG else ["-O3", "-g0", "-DNDEBUG"]

setup(
    ext_modules=cythonize(
        Extension("pogfast._engine", ["ext/engine.pyx"], extra_compile_args=C_FLAGS, libraries=["pthread", "dl"]),
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
