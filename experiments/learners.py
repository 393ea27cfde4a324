"""Options of the structure learner: which ones do better than plain LDS, and than a GCN with the same labels.

    python experiments/learners.py [--quick] [--jobs 2]

Finished runs are not repeated, so the command can be stopped and started again. Writes table.csv and table.md to
experiments/results/learners/. Needs the raw files of Cora and CiteSeer, see `lds data fetch`.
"""

from __future__ import annotations

from beyond import COLUMNS, make_rows, markdown
from tables import end, provenance, run_grid, write


def main() -> None:
    options, outcomes = run_grid("learners", __doc__)
    rows = make_rows(outcomes, by=("dataset", "retain"))
    results = [outcome.result for outcome in outcomes if outcome.result is not None]
    write(rows, COLUMNS, markdown(rows) + provenance("learners", results, quick=options.quick), options.out)
    end(outcomes, options.out)


if __name__ == "__main__":
    main()
