"""No graph given: kNN-LDS and its baselines, each tuned on the early-stopping nodes.

    python experiments/table1.py [--quick] [--jobs 2]

Finished runs are not repeated, so the command can be stopped and started again. Writes table.csv and table.md to
experiments/results/table1/. Needs the raw files of Cora and CiteSeer, see `lds data fetch`.
"""

from tables import sweep_and_tabulate

if __name__ == "__main__":
    sweep_and_tabulate("table1", __doc__, setting="no-graph", reference="knn-gcn (train+val)")
