"""Runs the cases of a target in a process of its own, with bounds on memory and time."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from lds._sums import sum_of_values
from lds.errors import LDSError, UnverifiedWarning
from tests.fuzz.base import TRAP, Target
from tests.fuzz.mutations import mutate

SECONDS = 20  # Of the processor, for one case, which takes milliseconds; by the clock, twenty times as many.
ADDRESS_SPACE = 1 << 30  # Beyond what the process has before its first case.
RESIDENT_MB = 300  # That one case, of a file of some kB, may add to the peak.


@dataclass
class Report:
    """What came of the cases of one target.

    Attributes:
        outcomes: number of cases by outcome: "read", or the name of a documented error.
        defects: a line for each other outcome: case, file and what happened.
        seconds: wall time.
    """

    outcomes: Counter = field(default_factory=Counter)
    defects: list[str] = field(default_factory=list)
    seconds: float = 0.0


def run(target: Target, cases: range, seed: int = 0) -> Report:
    """Run cases; a case whose process dies is a defect, and another process takes those after it."""
    began, report, first = time.perf_counter(), Report(), cases.start
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        while first < cases.stop:
            reader, writer = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(reader)
                _child(target, range(first, cases.stop), seed, folder, writer)
            os.close(writer)
            with os.fdopen(reader) as lines:
                for line in lines:
                    case, outcome, defect = json.loads(line)
                    first = case + 1
                    report.outcomes[outcome] += 1
                    if defect:
                        report.defects.append(defect)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if status > 0:
                raise RuntimeError(f"{target.name}: the test itself failed in case {first}; see above")
            if status:
                died = signal.Signals(-status).name
                report.defects.append(f"{target.name} case {first}: the process ended with {died}")
                report.outcomes["died"] += 1
                first += 1
    report.seconds = time.perf_counter() - began
    return report


def _child(target: Target, cases: range, seed: int, folder: Path, pipe: int) -> None:
    code = 1
    try:
        null, terminal = os.open(os.devnull, os.O_WRONLY), os.dup(2)
        os.dup2(null, 1)
        os.dup2(null, 2)
        warnings.simplefilter("ignore")
        pristine, scratch = folder / "pristine", folder / "scratch"
        if not pristine.exists():
            pristine.mkdir()
            target.make(pristine)
        # What the first reading alone imports, opens and takes is none of the files' doing.
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree(pristine, scratch)
        target.warm(scratch)
        if target.guarded:
            shutil.rmtree(scratch)
            shutil.copytree(pristine, scratch)
            target.expected = sum_of_values(target.read(scratch))
        limit = _pages(0) + ADDRESS_SPACE
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        with os.fdopen(pipe, "w") as report:
            for case in cases:
                _limit(SECONDS)
                outcome, defect = _case(target, case, seed, pristine, scratch)
                _limit(0)
                report.write(json.dumps([case, outcome, defect]) + "\n")
                report.flush()
        code = 0
    except BaseException:  # A fault of the test itself.
        os.write(terminal, traceback.format_exc().encode())
    finally:
        os._exit(code)


def content_of(target: Target, case: int, seed: int, pristine: Path) -> tuple[str, bytes, bool]:
    """The file that a case damages, what it then holds, and whether it must be refused or read as before.

    First come the files as they are (case 0), then the hostile contents one by one, then random damage to any of these.
    """
    hostile = target.hostile(pristine)
    if case == 0:
        name = target.files[0]
        return name, (pristine / name).read_bytes(), True
    if case <= len(hostile):
        return *hostile[case - 1], False
    random = Random(f"{target.name}/{seed}/{case}")
    name = random.choice(target.files)
    good = (pristine / name).read_bytes()
    if target.guarded is not None and random.random() < 0.5:
        return name, mutate(good, random, guarded=target.guarded), True
    base = random.choice([good] * 3 + [content for file, content in hostile if file == name])
    return name, mutate(base if len(base) < 1 << 18 else good, random), False


def _case(target: Target, case: int, seed: int, pristine: Path, scratch: Path) -> tuple[str, str | None]:
    name, content, known = content_of(target, case, seed, pristine)
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(pristine, scratch)
    (scratch / name).write_bytes(content)
    files, peak = len(os.listdir("/proc/self/fd")), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome, wrong = "read", ""
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            value = sum_of_values(target.read(scratch)) if target.guarded else target.read(scratch)
        if any(issubclass(warning.category, UnverifiedWarning) for warning in warned):
            outcome = "unverified"
        elif known and target.guarded and value != target.expected:
            wrong = "other values, in silence"
    except SystemExit as stop:
        outcome, wrong = "usage", "" if stop.code == 2 else f"exit code {stop.code}"
    except LDSError as error:
        outcome = type(error).__name__
        if "\n" in str(error) or len(str(error)) > 2000:
            wrong = f"a message of {len(str(error))} characters, {str(error).count(chr(10)) + 1} lines"
        if type(error).__module__ != "lds.errors":
            wrong = f"{type(error)} is no class of lds.errors"
    except BaseException as error:
        outcome = "other"
        frames = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)]
        wrong = f"{type(error).__name__}: {str(error)[:150]} ({' '.join(frames[-7:])})"
    if case == 0 and outcome != "read":
        wrong = wrong or f"the whole file is not read: {outcome}"
    if TRAP.exists():
        TRAP.unlink()
        wrong = "code in a pickle ran"
    if len(os.listdir("/proc/self/fd")) > files:
        wrong = wrong or "a file was left open"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) >> 10
    if grown > RESIDENT_MB:
        wrong = wrong or f"{grown} MB for a file of {len(content) >> 10} kB"
    return outcome, f"{target.name} case {case}, {name}: {wrong}" if wrong else None


def _limit(seconds: int) -> None:
    """Have the process end after so many seconds of the processor; 0 lifts that."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.alarm(20 * seconds)


def _pages(field: int) -> int:
    return int(Path("/proc/self/statm").read_text().split()[field]) * resource.getpagesize()
