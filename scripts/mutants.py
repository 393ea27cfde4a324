"""Change the engine in small ways, and look whether its fast tests notice (mutmut).

python scripts/mutants.py --sample 300 --seed 0
python scripts/mutants.py

Works in a copy of the repository. A second call with the same folder goes on where the first was cut off, and tries
again what had survived, with new tests too; which function an edited test reaches is only found in a new folder.
Changes to messages (strings with a space in them) are left out: they are not behaviour.
The exit status is 1 when a mutant survives that tests/mutants.csv does not list, or when an entry there has no mutant.
"""

import argparse
import ast
import csv
import difflib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Over a second each; random; or, of the caller of a function, who here is mutmut.
LEFT_OUT = "goes_on_after_a_kill agree_on_a_minimum memory_grows no_step_outlives test_a_structure at_infinity"
LEFT_OUT += " test_properties points_at_the_caller"
# The tests run in forks of a process that has run none: PyTorch's threads do not survive a fork.
SETTINGS = f"""
[tool.mutmut]
source_paths = ["lds"]
only_mutate = ["lds/hypergrad/*"]
pytest_add_cli_args = ["-p", "no:cacheprovider", "-k", "not ({LEFT_OUT.replace(" ", " or ")})"]
pytest_add_cli_args_test_selection = ["tests/hypergrad"]
process_isolation = "forkserver"
timeout_multiplier = 3.0
timeout_constant = 5.0
"""
GENERATE = """
from mutmut.__main__ import copy_also_copy_files, copy_src_dir, create_mutants, setup_source_paths
copy_src_dir(), copy_also_copy_files(), setup_source_paths(), create_mutants(1)
"""
MESSAGE = re.compile(r'"[^"]* [^"]*"')
LEFT = 34  # mutmut's mark of a mutant that it need not try.
OUTCOMES = {0: "survived", 33: "without tests", None: "not tried"} | dict.fromkeys((-24, 24, 36, 152, 255), "timed out")


def mutants_of(meta: Path, copy: Path) -> Iterator[tuple[str, tuple[str, ...], int]]:
    """Key, description (file, function, original and mutated lines) and line of every mutant that `meta` lists."""
    file = meta.relative_to(copy / "mutants").with_suffix("")
    lines = (copy / "mutants" / file).read_text().split("\n")
    spans = json.loads(meta.with_suffix(".spans").read_text())["spans"]
    starts = {}
    for node in ast.walk(ast.parse((copy / file).read_text())):
        owner = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
        parts = (part for part in ast.iter_child_nodes(node) if isinstance(part, ast.FunctionDef))
        starts |= {owner + part.name: part.lineno for part in parts}

    def text(name: str) -> list[str]:
        body = lines[spans[name][0] - 1 : spans[name][1]]
        first = next(index for index, line in enumerate(body) if f"def {name}(" in line)
        return [line.replace(name, "") for line in body[first:]]

    for key in json.loads(meta.read_text())["exit_code_by_key"]:
        name = key.rpartition(".")[2]
        mangled = name.rpartition("__mutmut_")[0]
        function = mangled[2:].replace("ǁ", ".")  # x_function, xǁClassǁmethod
        old, new = text(f"{mangled}__mutmut_orig"), text(name)
        spots = [spot for spot in difflib.SequenceMatcher(None, old, new, False).get_opcodes() if spot[0] != "equal"]
        original = " ".join(line.strip() for spot in spots for line in old[spot[1] : spot[2]])
        mutated = " ".join(line.strip() for spot in spots for line in new[spot[3] : spot[4]])
        yield key, (file.as_posix(), function, original, mutated), starts[function] + spots[0][1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, help="number of mutants (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "lds-mutants", help="of the copy")
    options = parser.parse_args()
    copy, settings = options.folder, (ROOT / "pyproject.toml").read_text() + SETTINGS
    if copy.exists() and (copy / "pyproject.toml").read_text() != settings:
        raise SystemExit(f"{copy} is a copy with other settings; remove it, or name another folder")
    for folder in ("lds", "tests"):
        shutil.copytree(ROOT / folder, copy / folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "pyproject.toml").write_text(settings)
    run = {"cwd": copy, "env": {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}, "check": True}
    subprocess.run([sys.executable, "-c", GENERATE], stdout=subprocess.DEVNULL, **run)

    metas = sorted((copy / "mutants").rglob("*.meta"))
    every = {key: (mutant, line) for meta in metas for key, mutant, line in mutants_of(meta, copy)}
    known = {tuple(row[:4]) for row in csv.reader((ROOT / "tests" / "mutants.csv").read_text().splitlines()[1:])}
    kept = sorted(key for key, ((*_, old, new), _) in every.items() if MESSAGE.sub("", old) != MESSAGE.sub("", new))
    # The known ones go after the draw: a new entry in the list does not change the rest of the sample.
    drawn = kept if options.sample is None else random.Random(options.seed).sample(kept, options.sample)
    chosen = {key for key in drawn if every[key][0] not in known}
    for meta in metas:
        data = json.loads(meta.read_text())
        for key, code in data["exit_code_by_key"].items():
            data["exit_code_by_key"][key] = LEFT if key not in chosen else None if code in (0, 33, LEFT) else code
        meta.write_text(json.dumps(data))
    print(f"{len(every)} mutants, {len(kept)} not of messages; {len(drawn)} drawn, {len(chosen)} not known", flush=True)
    subprocess.run([sys.executable, "-m", "mutmut", "run", "--max-children", "1"], **run)

    codes = {key: code for meta in metas for key, code in json.loads(meta.read_text())["exit_code_by_key"].items()}
    print(dict(Counter(OUTCOMES.get(codes[key], "killed") for key in chosen)))
    survivors = sorted((every[key] for key in chosen if codes[key] in (0, 33)), key=lambda m: (m[0][0], m[1]))
    for (file, function, original, mutated), line in survivors:
        print(f"{file}:{line}: {function}: {original} → {mutated}")
    for entry in (gone := sorted(known - {mutant for mutant, _ in every.values()})):
        print(f"tests/mutants.csv lists what is no mutant any more: {', '.join(entry)}")
    return 1 if survivors or gone or any(codes[key] is None for key in chosen) else 0


if __name__ == "__main__":
    raise SystemExit(main())
