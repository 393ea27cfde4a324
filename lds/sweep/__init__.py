"""Grids of runs over settings and seeds, in parallel, that can be killed and started again."""

from lds.sweep._grid import run_sweep
from lds.sweep._grid_folder import read_results
from lds.sweep._ledger import Outcome
from lds.sweep._processes import ProcessEngine
from lds.sweep._ray import RayEngine
from lds.sweep._spec import Spec
from lds.sweep._summary import Setting, select, summary
from lds.sweep._worker import Engine, Failure, Job, Reply

__all__ = [
    "Engine",
    "Failure",
    "Job",
    "Outcome",
    "ProcessEngine",
    "RayEngine",
    "Reply",
    "Setting",
    "Spec",
    "read_results",
    "run_sweep",
    "select",
    "summary",
]
