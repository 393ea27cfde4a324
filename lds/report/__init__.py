"""Reports of training runs, sweeps and ablations: one HTML page that needs no network."""

from lds.report._write import score_table, write_report

__all__ = ["score_table", "write_report"]
