"""Is this tree as fast as another commit? An outer step on Cora, and what a step costs on ten weights.

    python scripts/benchmarks/against.py HEAD~1
    python scripts/benchmarks/against.py main --rounds 9 --out runs/against.json

Both trees are measured in every round, in turn, each in a fresh process on one thread; the ratio is the median of those
within a round, and below 1 this tree is faster. The other commit is checked out into a temporary folder. The outer step
has τ = 5 and half of the edges, and is left out without the Cora files, see `lds data fetch cora`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness import ROOT, Row, medians, run, timed, write

sys.path.append(str(ROOT / "scripts"))
from same_bits import checked_out

OUTER_STEP = "outer step on Cora, ms"
TEN_WEIGHTS = {"SGD momentum, µs a step": "momentum", "Adam, µs a step": "adam"}
STEPS, CALLS = 100, 5


def measure(case: str) -> Row:
    from cases import Problem, all_pairs, engine_step
    from unrolls import Rule, lds_hypergradient, ten_weights

    from lds.data import load
    from lds.errors import DataError

    if case == OUTER_STEP:
        try:
            data = load("cora", retain=0.5)
        except DataError as error:
            return {"absent": str(error)}
        found, scale = timed(engine_step(Problem.of(data), all_pairs(data), 5), repeats=15, warm_up=3), 1e3
    else:
        rule = Rule(TEN_WEIGHTS[case], 0.05, momentum=0.9) if "SGD" in case else Rule("adam", 1e-3)
        task = ten_weights()

        def several() -> None:  # One call takes no more than some ticks of the clock of a virtual machine.
            for _ in range(CALLS):
                lds_hypergradient(task, rule, STEPS)

        found, scale = timed(several, repeats=7, warm_up=1), 1e6 / (CALLS * STEPS)
    return found | {"figure": scale * found["seconds"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", help="the commit to compare with")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="where to write the result, as JSON")
    options = parser.parse_args()
    specs = [{"case": case} for case in (OUTER_STEP, *TEN_WEIGHTS)]
    with checked_out(options.revision) as other:
        trees = {"this tree": ROOT, options.revision: other}
        rows = run(__file__, specs, options.rounds, trees=trees)
    for case, reason in {row["case"]: row["absent"] for row in rows if "absent" in row}.items():
        print(f"{case}: left out, {reason}")
    table = medians(rows, ["case", "tree"], pair=("tree", options.revision))
    figures = table.pivot(index="case", columns="tree", values="figure")[list(trees)]
    figures["ratio"] = table[table["tree"] == "this tree"].set_index("case")["ratio"]
    print(figures.rename_axis(index=None, columns=None).to_string(float_format="{:.2f}".format))
    if options.out is not None:
        write(options.out, threads=1, rows=rows)


if __name__ == "__main__":
    main()
