"""Hypergradients by reverse-mode unrolled optimization; knows nothing of graphs."""

from lds.hypergrad._methods import Diagnostics, HypergradientResult, Method, Reverse, hypergradient
from lds.hypergrad._outer import Accumulator, OuterVariable, Tracer
from lds.hypergrad._sweep import Noise, SweepStep, sweep
from lds.hypergrad._trajectory import Trajectory, record

__all__ = [
    "Accumulator",
    "Diagnostics",
    "HypergradientResult",
    "Method",
    "Noise",
    "OuterVariable",
    "Reverse",
    "SweepStep",
    "Tracer",
    "Trajectory",
    "hypergradient",
    "record",
    "sweep",
]
