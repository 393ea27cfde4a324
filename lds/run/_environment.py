"""What the numbers of a run depend on besides its configuration and its data: versions of packages, and threads."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from lds._version import __version__

# What tells OpenMP, OpenBLAS and MKL how many threads to begin with.
THREAD_COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# The packages that numbers depend on.
_NUMERICAL = ("lds", "torch", "numpy", "scipy", "scikit-learn")


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    # Here, and not above: the command line must answer without torch.
    import numpy
    import scipy
    import torch
    import torch_geometric

    return {
        "lds": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # Of a class of its own, which weights_only does not read.
        "torch_geometric": torch_geometric.__version__,
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
        "scikit-learn": metadata.version("scikit-learn"),  # Loading it takes a second or two.
    }


def threads() -> int:
    """Return the number of threads that this process computes with."""
    from lds._threads import threads

    return threads()


def difference(saved_versions: Mapping[str, Any], saved_threads: int) -> str | None:
    """Return how a file was saved otherwise than this process computes, and what to do; None where it was not."""
    current = versions()
    for package in _NUMERICAL:
        here, there = current[package], saved_versions.get(package)
        if there != here:
            return (
                f"with {package} {there!r:.80}, but this is {package} {here}, whose numbers may differ; resume with "
                "that version"
            )
    if saved_threads != threads():
        return (
            f"by a run of {saved_threads} threads, but this one has {threads()}, whose last digits differ; set "
            f"OMP_NUM_THREADS={saved_threads}, or --threads {saved_threads}"
        )
    return None


def peak_rss_mb() -> float:
    """Return the largest resident memory of this process so far, in MiB."""
    try:
        import resource
    except ImportError:  # Windows has none.
        import psutil  # type: ignore[import-untyped]

        memory = psutil.Process().memory_info()
        # Windows counts the peak; elsewhere what is taken now is all that there is to know.
        return float(getattr(memory, "peak_wset", memory.rss)) / (1 << 20)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)
