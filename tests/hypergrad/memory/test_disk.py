"""A trajectory on disk goes on where it was interrupted, and only where it was."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lds.errors import DataError, InputError, NumericalError, StorageError
from lds.hypergrad import Derived, Disk, KeepStates, Reverse, hypergradient, record, sweep
from lds.updaters import SGD, Adam, State
from tests.oracles import DOUBLE, regression, same_bits

STEPS = 12
# Runs of the first step of the sweep that tell whether Φ is detached from what it does not read (momentum, two betas),
# and the spot check.
CHECKS = 5


class InterruptedStepError(BaseException):
    """No Exception: a step that cannot be run a little way off is no error."""


class Interrupting:
    """Adam that is interrupted at its n-th step, recorded or swept."""

    def __init__(self, at=None):
        self.at, self.runs = at, 0
        self.updater = Adam(lambda outer: outer["lr"])
        self.init = self.updater.init

    def step(self, state, outer, inner):
        self.runs += 1
        if self.runs == self.at:
            raise InterruptedStepError
        return self.updater.step(state, outer, inner)


def run(folder, updater, *, seed=3, horizon=9, problem=None, save_every=2):
    method = Reverse(horizon, memory=Disk(folder, save_every))
    problem = regression(dropout=0.5) if problem is None else problem
    return hypergradient(*problem, updater=updater, steps=STEPS, method=method, seed=seed)


@pytest.fixture(scope="module")
def expected():
    method = Reverse(9, memory=KeepStates())
    return hypergradient(*regression(dropout=0.5), updater=Interrupting(), steps=STEPS, method=method, seed=3)


@pytest.mark.parametrize("at", range(1, STEPS + 9 + CHECKS + 1))
def test_goes_on_with_the_same_bits(tmp_path, expected, at):
    with pytest.raises(InterruptedStepError):
        run(tmp_path / "t", Interrupting(at))
    updater = Interrupting()
    found = run(tmp_path / "t", updater)
    assert same_bits(found.grad, expected.grad)
    assert same_bits(found.state, expected.state)
    assert found.diagnostics.costate_norms == expected.diagnostics.costate_norms
    assert found.diagnostics.contributions == expected.diagnostics.contributions
    assert found.diagnostics.inner_losses == expected.diagnostics.inner_losses
    assert not (tmp_path / "t").exists()
    # At most one save interval of the sweep is run twice, and no step of the recorder once the window has begun.
    again = 3 if at <= STEPS else CHECKS + 2 if at <= STEPS + CHECKS + 2 else 1
    assert updater.runs <= STEPS + 9 + CHECKS - (at - 1) + again


def test_goes_on_after_many_interruptions(tmp_path, expected):
    for at in (2, 5, 7, 4, 4, 3):
        with pytest.raises(InterruptedStepError):
            run(tmp_path / "t", Interrupting(at))
    assert same_bits(run(tmp_path / "t", Interrupting()).grad, expected.grad)


def test_goes_on_after_a_kill(tmp_path):
    """A process that is killed, not asked."""
    script = tmp_path / "job.py"
    script.write_text(
        """
import sys, torch
from lds.hypergrad import Disk, Reverse, hypergradient
from lds.updaters import Adam

torch.set_num_threads(1)
x = torch.linspace(-1, 1, 40, dtype=torch.float64).reshape(10, 4)
result = hypergradient(
    lambda w, o: (torch.tanh(x @ w) - 0.3).square().mean() + o.exp() * w.square().sum(), lambda w, o: (x @ w).sum(),
    torch.ones(4, dtype=torch.float64), torch.tensor(-2.0, dtype=torch.float64), updater=Adam(0.01), steps=3000,
    method=Reverse(memory=Disk(sys.argv[1], save_every=50)),
)
print(result.grad.item().hex())
"""
    )

    def start(folder):
        return subprocess.Popen([sys.executable, script, folder], stdout=subprocess.PIPE, text=True)

    expected = start(tmp_path / "whole").communicate()[0]
    interrupted = 0
    for size in (20_000, 150_000, "sweep.pt"):
        process = start(tmp_path / "killed")
        states, saved = tmp_path / "killed" / "states.bin", tmp_path / "killed" / "sweep.pt"
        while process.poll() is None:
            there = saved.exists() if size == "sweep.pt" else states.exists() and states.stat().st_size > size
            if there:
                process.send_signal(signal.SIGKILL)
                break
        interrupted += process.wait() == -signal.SIGKILL
        process.stdout.close()
    assert interrupted == 3
    assert start(tmp_path / "killed").communicate()[0] == expected != ""


@pytest.mark.parametrize(
    ("change", "differing"),
    [
        ({"seed": 4}, "seed"),
        ({"horizon": 8}, "first"),
        ({"problem": regression(dropout=0.5, seed=1)}, "state, outer"),
        ({"updater": Adam(0.01)}, "updater"),
    ],
)
def test_refuses_the_files_of_another_trajectory(tmp_path, change, differing):
    with pytest.raises(InterruptedStepError):
        run(tmp_path, Interrupting(7))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(InputError, match=rf"holds another trajectory: it differs in {differing}; call with the same"):
        run(tmp_path, change.pop("updater", Interrupting()), **change)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_refuses_the_files_of_another_constant(tmp_path):
    def interrupted(w, outer):
        raise InterruptedStepError

    with pytest.raises(InterruptedStepError):
        run(tmp_path, SGD(0.1), problem=regression()._replace(outer_objective=interrupted))
    with pytest.raises(InputError, match="it differs in updater; call with the same"):
        run(tmp_path, SGD(0.2), problem=regression())


def test_saves_after_every_so_many_steps_of_the_sweep(tmp_path):
    problem = regression()
    memory = Disk(tmp_path, save_every=5)
    trajectory = record(problem.inner, *problem[2:], updater=SGD(0.1), steps=STEPS, memory=memory)
    saved = [(tmp_path / "sweep.pt").exists() for _ in sweep(trajectory, problem.outer_objective)]
    assert saved.index(True) == 5


def test_goes_on_from_the_last_step_of_the_sweep(tmp_path):
    problem = regression()
    for yielded in (7, 1):
        trajectory = record(
            problem.inner, *problem[2:], updater=SGD(0.1), steps=STEPS, horizon=6, memory=Disk(tmp_path, save_every=2)
        )
        steps = sweep(trajectory, problem.outer_objective)
        assert next(itertools.islice(steps, yielded - 1, None)).t == STEPS - 6
        steps.close()
        del steps, trajectory


def test_refuses_to_go_on_with_another_outer_objective(tmp_path):
    problem = regression(dropout=0.5)
    with pytest.raises(InterruptedStepError):
        run(tmp_path, Interrupting(STEPS + CHECKS + 6))
    other = problem._replace(outer_objective=lambda p, o: 2 * problem.outer_objective(p, o))
    with pytest.raises(InputError, match="another outer objective"):
        run(tmp_path, Interrupting(), problem=other)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"noise": "resample"}, "noise='replay', now 'resample'"),
        ({"check_replay": False}, "check_replay=True, now False"),
    ],
)
def test_refuses_to_go_on_with_other_arguments_of_the_sweep(tmp_path, change, said):
    """Half of the steps would be swept by the one and half by the other."""
    problem = regression(dropout=0.5)

    def begun(**options):
        trajectory = record(
            problem.inner, *problem[2:], updater=SGD(0.1), steps=STEPS, memory=Disk(tmp_path, save_every=2)
        )
        return sweep(trajectory, problem.outer_objective, **options)

    steps = begun()
    next(itertools.islice(steps, 6, None))
    steps.close()
    del steps
    with pytest.raises(InputError, match=said):
        next(begun(**change))


def test_a_row_that_was_half_written_is_written_again(tmp_path, expected):
    with pytest.raises(InterruptedStepError):
        run(tmp_path, Interrupting(8))
    states = tmp_path / "states.bin"
    os.truncate(states, states.stat().st_size - 5)
    assert same_bits(run(tmp_path, Interrupting()).grad, expected.grad)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("trajectory.json", b"{", "trajectory.json is damaged"),
        ("trajectory.json", b"[]", "trajectory.json is damaged"),
        ("trajectory.json", None, "trajectory.json is missing"),
        ("sweep.pt", b"", "sweep.pt is damaged; remove it, and the sweep starts anew"),
        ("sweep.pt", b"PK\x03\x04 nothing", "sweep.pt is damaged"),
    ],
)
def test_damaged_files(tmp_path, name, content, message):
    with pytest.raises(InterruptedStepError):
        run(tmp_path, Interrupting(STEPS + CHECKS + 6))
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        run(tmp_path, Interrupting())


def test_a_file_that_cannot_be_read_now_is_no_damage(tmp_path, expected, monkeypatch):
    def refuse(path):
        assert path.name == "sweep.pt"
        raise PermissionError(13, "Permission denied")

    with pytest.raises(InterruptedStepError):
        run(tmp_path, Interrupting(STEPS + CHECKS + 6))
    with monkeypatch.context() as patch:
        patch.setattr("lds._read.read_file", refuse)
        with pytest.raises(DataError, match=r"sweep\.pt cannot be read: Permission denied; check the file and"):
            run(tmp_path, Interrupting())
    assert same_bits(run(tmp_path, Interrupting()).grad, expected.grad)


def test_one_process_at_a_time(tmp_path):
    seen = []

    class Meddling(Interrupting):
        def step(self, state, outer, inner):
            if not seen:
                seen.append(None)
                with pytest.raises(InputError, match="is in use by another process"):
                    run(tmp_path, Interrupting())
            return super().step(state, outer, inner)

    run(tmp_path, Meddling(), horizon=None)
    assert seen


def test_refuses_what_it_cannot_store(tmp_path):
    class Named(Adam):
        def init(self, params):
            return {"name": "x"}

        def step(self, state, outer, inner):
            return State(state.params, state.slots)

    params, outer = torch.ones(2, dtype=DOUBLE), torch.ones((), dtype=DOUBLE)
    with pytest.raises(InputError, match=r"state\.slots\['name'\] is a str"):
        hypergradient(
            lambda w, o: w.sum(), lambda w, o: w.sum() * o, params, outer, updater=Named(), steps=2,
            method=Reverse(memory=Disk(tmp_path)),
        )  # fmt: skip
    assert not any(Path(tmp_path).iterdir())


def test_dtypes_shapes_and_numbers_survive(tmp_path):
    class Mixed:
        """Slots of every kind that can be stored; the step mixes them all."""

        def init(self, params):
            return {
                "half": torch.ones(3, dtype=torch.bfloat16),
                "complex": torch.ones((), dtype=torch.complex128),
                "flags": torch.tensor([True, False]),
                "empty": torch.ones(0, 2),
                "count": 0,
                "big": 2**60,
                "real": 0.1,
                "even": False,
            }

        def step(self, state, outer, inner):
            s = dict(state.slots)
            s |= {"half": s["half"] * 0.7, "complex": s["complex"] * 1j, "flags": ~s["flags"], "count": s["count"] + 1}
            s |= {"real": s["real"] * 3, "even": not s["even"], "big": s["big"] - 1}
            scale = s["real"] + s["complex"].imag + s["half"].sum().double() + s["flags"][0]
            return State(state.params * (1 - 0.01 * outer * scale), s)

    params, outer = torch.ones(2, dtype=DOUBLE), torch.ones((), dtype=DOUBLE)
    results = [
        hypergradient(
            lambda w, o: w.sum(),
            lambda w, o: w.square().sum(),
            params,
            outer,
            updater=Mixed(),
            steps=5,
            method=Reverse(memory=memory),
        )
        for memory in (Disk(tmp_path), KeepStates())
    ]
    assert same_bits(results[0].state, results[1].state)
    assert same_bits(results[0].grad, results[1].grad)


def test_a_full_disk_is_one_error_and_what_is_there_is_kept(tmp_path, expected, monkeypatch):
    written = os.pwrite

    def full(descriptor, content, offset):
        if offset > 4 * len(content):
            raise OSError(28, "No space left on device")
        return written(descriptor, content, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(
        StorageError, match=r"states.bin cannot be written: No space left on device; .* make room"
    ) as kept:
        run(tmp_path, Interrupting())
    monkeypatch.undo()
    assert same_bits(run(tmp_path, Interrupting()).grad, expected.grad)
    del kept  # Until here: the traceback holds the tape, but the folder is free.


@pytest.mark.parametrize("name", ["trajectory.json", "sweep.pt"])
def test_a_disk_that_is_full_when_a_file_is_replaced(tmp_path, expected, monkeypatch, name):
    replace = Path.replace

    def full(path, target):
        if target.name == name:
            raise OSError(28, "No space left on device")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StorageError, match=f"{name} cannot be written: No space left on device; .* make room"):
        run(tmp_path, Interrupting())
    monkeypatch.undo()
    assert same_bits(run(tmp_path, Interrupting()).grad, expected.grad)


def test_a_disk_that_takes_a_part(tmp_path, expected, monkeypatch):
    written = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, content, offset: written(file, content[:-1], offset))
    with pytest.raises(StorageError, match=r"states.bin cannot be written: No space left on device; .* make room"):
        run(tmp_path, Interrupting())
    monkeypatch.undo()
    assert same_bits(run(tmp_path, Interrupting()).grad, expected.grad)


def test_makes_the_folders_above_and_no_programs(tmp_path):
    with pytest.raises(InterruptedStepError):
        run(tmp_path / "above" / "t", Interrupting(7))
    assert (tmp_path / "above" / "t" / "states.bin").stat().st_mode & 0o111 == 0


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        run(tmp_path / "file" / "t", SGD(0.1))


class Unstable:
    """SGD whose loss is infinite or NaN at one step, though the state stays finite."""

    def __init__(self, bad, value, stop=None):
        self.bad, self.value, self.stop, self.init = bad, value, stop, SGD(0.1).init

    def step(self, state, outer, inner):
        if state.step == self.stop:
            raise InterruptedStepError
        scale = self.value if state.step == self.bad else 1.0
        inner(state.params * scale, outer)
        return State(state.params - 0.1 * outer * state.params, state.slots)


def unstable(folder, updater, horizon=4):
    w, theta = torch.ones(2, dtype=DOUBLE), torch.ones((), dtype=DOUBLE)
    return hypergradient(
        lambda w, o: o * w.square().sum(), lambda w, o: w.sum() * o, w, theta, updater=updater, steps=8,
        method=Reverse(horizon, memory=Disk(folder)),
    )  # fmt: skip


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_seen_after_a_resume(tmp_path, value):
    with pytest.raises(InterruptedStepError):
        unstable(tmp_path, Unstable(5, value, stop=7))
    with pytest.raises(NumericalError, match="the inner objective must be finite"):
        unstable(tmp_path, Unstable(5, value))


@pytest.mark.parametrize("bad", [1, 5])
def test_a_second_call_fails_as_the_first_did(tmp_path, bad):
    """Before the horizon, too, and though all iterates were on the disk."""
    for _ in range(2):
        with pytest.raises(NumericalError, match="the inner objective must be finite"):
            unstable(tmp_path, Unstable(bad, float("nan")))


def test_steps_without_a_loss_have_none_after_a_resume(tmp_path):
    class Silent(SGD):
        def __init__(self, stop):
            super().__init__(0.1)
            object.__setattr__(self, "stop", stop)

        def step(self, state, outer, inner):
            if state.step == self.stop:
                raise InterruptedStepError
            if state.step % 2:
                return State(0.9 * state.params + 0 * outer, state.slots)
            return super().step(state, outer, inner)

    with pytest.raises(InterruptedStepError):
        unstable(tmp_path / "t", Silent(7), None)
    found, whole = (unstable(tmp_path / name, Silent(None), None) for name in ("t", "whole"))
    assert found.diagnostics.inner_losses == whole.diagnostics.inner_losses
    assert len(found.diagnostics.inner_losses) == 4


@pytest.mark.parametrize("place", [0.01, 0.3, 0.6, 0.99])
def test_a_flipped_bit_is_seen(tmp_path, place):
    with pytest.raises(InterruptedStepError):
        run(tmp_path, Interrupting(STEPS))
    content = bytearray((tmp_path / "states.bin").read_bytes())
    content[int(place * len(content))] ^= 1
    (tmp_path / "states.bin").write_bytes(content)
    with pytest.raises(DataError, match=r"states\.bin is damaged; remove"):
        run(tmp_path, Interrupting())


@pytest.mark.parametrize("change", [{"t": "x"}, {"t": 99}, {"cotangents": []}, {"sums": 3}, {"increment_norms": []}])
def test_progress_of_another_shape(tmp_path, change):
    with pytest.raises(InterruptedStepError):
        run(tmp_path, Interrupting(STEPS + CHECKS + 6))
    torch.save(torch.load(tmp_path / "sweep.pt", weights_only=True) | change, tmp_path / "sweep.pt")
    with pytest.raises(DataError, match=r"sweep\.pt is damaged; remove it"):
        run(tmp_path, Interrupting())


@pytest.mark.parametrize("at", [42, 47, 52])
def test_an_adaptive_sweep_stops_where_it_would_have(tmp_path, at):
    """What the rule of `tol` goes by is saved with the sweep."""
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)

    def call(memory, at=None):
        """Forty steps of a descent that contracts."""
        return hypergradient(
            lambda w, o: (x @ w - 1).square().mean() + o.exp() * w.square().sum(),
            lambda w, o: (x @ w).square().mean(),
            torch.zeros(3, dtype=DOUBLE),
            torch.tensor(-2.0, dtype=DOUBLE),
            updater=Cut(at),
            steps=40,
            method=Reverse(tol=0.01, memory=memory),
        )

    class Cut(SGD):
        def __init__(self, at):
            super().__init__(0.1)
            object.__setattr__(self, "left", at)

        def step(self, state, outer, inner):
            if self.left is not None:
                object.__setattr__(self, "left", self.left - 1)
                if not self.left:
                    raise InterruptedStepError
            return super().step(state, outer, inner)

    expected = call(KeepStates())
    assert 6 < expected.diagnostics.steps_swept < 30
    with pytest.raises(InterruptedStepError):
        call(Disk(tmp_path / "t", 1), at)
    found = call(Disk(tmp_path / "t", 1))
    assert found.diagnostics.steps_swept == expected.diagnostics.steps_swept
    assert same_bits(found.grad, expected.grad)


def test_derived_outer_variables(tmp_path):
    problem = regression()

    def derived(updater, memory):
        return hypergradient(
            lambda p, o: problem.inner(p, o["all"]),
            lambda p, o: problem.outer_objective(p, o["all"]),
            problem.params,
            {"all": Derived(lambda theta: {**theta, "lr": theta["lr"] * 1.5}, problem.outer)},
            updater=updater,
            steps=8,
            method=Reverse(memory=memory),
        )

    class Cut(SGD):
        def step(self, state, outer, inner):
            nonlocal runs
            runs += 1
            if runs == 13:
                raise InterruptedStepError
            return super().step(state, outer, inner)

    runs, updater = 0, SGD(0.05)
    with pytest.raises(InterruptedStepError):
        derived(Cut(0.05), Disk(tmp_path / "t", 1))
    found = derived(Cut(0.05), Disk(tmp_path / "t", 1))
    assert same_bits(found.grad, derived(updater, KeepStates()).grad)


def test_outer_variables_that_draw_are_refused(tmp_path):
    class Coin:
        def draw(self):
            return torch.rand((), dtype=DOUBLE)

        def trace(self, draw):
            raise AssertionError

        def accumulator(self):
            raise AssertionError

    with pytest.raises(InputError, match=r"Disk needs outer variables that are tensors or Derived, but .* Coin"):
        record(
            lambda w, o: (w * o).sum(), torch.ones(2), Coin(), updater=SGD(0.1), steps=2, memory=Disk(tmp_path / "t")
        )


def test_a_sweep_that_failed_on_a_number_fails_alike_when_it_is_called_again(tmp_path):
    """What was saved of it is not gone on from: the error names the step where it began."""
    trajectory_of = {"w": torch.ones(2, dtype=DOUBLE)}

    def rate(outer):
        return (outer["a"] - 0.5).square().sqrt()  # Without a derivative at 0.5.

    def call():
        trajectory = record(
            lambda w, o: (w["w"] - o["a"]).square().sum(),
            trajectory_of,
            {"a": torch.tensor(0.5, dtype=DOUBLE)},
            updater=SGD(rate),
            steps=5,
            memory=Disk(tmp_path / "t", save_every=1),
        )
        try:
            return list(sweep(trajectory, lambda w, o: w["w"].sum()))
        finally:
            trajectory.segments[-1].tape.close()

    messages = []
    for _ in range(2):
        with pytest.raises(NumericalError) as caught:
            call()
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "at step 4, depth 1" in messages[0]


def test_a_result_is_not_lost_with_its_folder(tmp_path):
    """Something that clears temporary files came by."""
    expected, runs = run(tmp_path / "whole", Interrupting()), 0

    class Clearing(Interrupting):
        def step(self, state, outer, inner):
            nonlocal runs
            runs += 1
            if runs == STEPS:
                shutil.rmtree(tmp_path / "t")
            return super().step(state, outer, inner)

    assert same_bits(run(tmp_path / "t", Clearing(), save_every=99).grad, expected.grad)


def test_a_file_that_was_being_written_is_removed_too(tmp_path):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / ".sweep.pt.tmp").write_bytes(b"cut off")
    run(tmp_path / "t", Interrupting())
    assert not (tmp_path / "t").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_that_lives_on_does_not_keep_the_folder(tmp_path):
    """Such as a worker of a DataLoader, forked while the file was open."""
    child = None

    class Forking(Interrupting):
        def step(self, state, outer, inner):
            nonlocal child
            if self.runs == 3 and child is None and not (child := os.fork()):
                signal.pause()
            return super().step(state, outer, inner)

    try:
        with pytest.raises(InterruptedStepError):
            run(tmp_path / "t", Forking(7))
        run(tmp_path / "t", Forking())
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
