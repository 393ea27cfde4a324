"""The compiled part of lds, which may be missing: everything else about the package stands in setup.cfg."""

import os

from setuptools import Extension, setup

# No debugging symbols: they hold paths, and the same code would give other files.
flags = [] if os.name == "nt" else ["-O3", "-g0", "-Wno-psabi"]
libraries = [] if os.name == "nt" else ["m"]

setup(
    ext_modules=[
        Extension(
            "lds._native",
            ["lds/_native.c"],
            depends=["lds/_native_tile.h"],
            extra_compile_args=flags,
            libraries=libraries,
            optional=True,
        )
    ]
)
