"""A graph with missing edges: LDS and its baselines at 25, 50, 75 and 100 % of the given ones.

    python experiments/missing_edges.py [--quick] [--jobs 2]

Finished runs are not repeated, so the command can be stopped and started again. Writes table.csv and table.md to
experiments/results/missing_edges/. Needs the raw files of Cora and CiteSeer, see `lds data fetch`.
"""

from tables import sweep_and_tabulate

if __name__ == "__main__":
    sweep_and_tabulate("missing_edges", __doc__, setting="graph-given", reference="gcn (train+val)")
