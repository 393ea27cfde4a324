"""Hypergradients of unrolled optimization; knows nothing of graphs."""

from lds._keywords import explain_classes
from lds._updater import WithBuffers
from lds.hypergrad._batches import Batches
from lds.hypergrad._check import HypergradientCheck, LeafCheck, check_hypergradient
from lds.hypergrad._diagnostics import HypergradientResult, Method, SweepDiagnostics, plot_diagnostics
from lds.hypergrad._finite_difference import FiniteDifference, FiniteDifferenceDiagnostics
from lds.hypergrad._forward import Forward
from lds.hypergrad._guards import Noise
from lds.hypergrad._implicit import Implicit, ImplicitDiagnostics
from lds.hypergrad._jacobian import JacobianResult, jacobian
from lds.hypergrad._module import ModuleCall, functional
from lds.hypergrad._outer import Accumulator, Derived, OuterVariable, Tracer
from lds.hypergrad._record import Diagnostics, Problem, Trajectory, record
from lds.hypergrad._reverse import Reverse, SweepStep, hypergradient, sweep
from lds.hypergrad._traced import Traced
from lds.hypergrad._truncation import TruncationCurve, truncation_curve
from lds.hypergrad._unroll import unroll
from lds.hypergrad.memory import Binomial, Checkpoint, Disk, KeepGradients, KeepGraphs, KeepStates, Memory, Offload

__all__ = [
    "Accumulator",
    "Batches",
    "Binomial",
    "Checkpoint",
    "Derived",
    "Diagnostics",
    "Disk",
    "FiniteDifference",
    "FiniteDifferenceDiagnostics",
    "Forward",
    "HypergradientCheck",
    "HypergradientResult",
    "Implicit",
    "ImplicitDiagnostics",
    "JacobianResult",
    "KeepGradients",
    "KeepGraphs",
    "KeepStates",
    "LeafCheck",
    "Memory",
    "Method",
    "ModuleCall",
    "Noise",
    "Offload",
    "OuterVariable",
    "Problem",
    "Reverse",
    "SweepDiagnostics",
    "SweepStep",
    "Traced",
    "Tracer",
    "Trajectory",
    "TruncationCurve",
    "WithBuffers",
    "check_hypergradient",
    "functional",
    "hypergradient",
    "jacobian",
    "plot_diagnostics",
    "record",
    "sweep",
    "truncation_curve",
    "unroll",
]

explain_classes(Reverse, Forward, Implicit, FiniteDifference, Batches, Derived, Problem)
