"""Reports of training runs, sweeps and ablations: one HTML page that needs no network."""

from lds.report._write import write_report

__all__ = ["write_report"]
