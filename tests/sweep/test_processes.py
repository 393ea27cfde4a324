"""Jobs in processes of this machine."""

import os
import signal
import subprocess
import sys

import pytest

from lds.sweep import Job, ProcessEngine
from tests.sweep import jobs


def run(*calls, at_a_time=2, threads=1):
    engine = ProcessEngine(at_a_time, threads)
    todo = [Job(str(number), function, arguments) for number, (function, *arguments) in enumerate(calls)]
    replies = {job.name: reply for job, reply in engine.run(todo)}
    return [replies[job.name] for job in todo]


def test_results_and_failures():
    good, bad, last = run((jobs.square, 3), (jobs.fail, "no luck"), (jobs.square, 4))
    assert (good.result, good.error, last.result) == (9, None, 16)
    assert (bad.result, bad.error.type, bad.error.message) == (None, "ValueError", "no luck")
    assert bad.error.traceback.startswith("Traceback")
    assert "raise ValueError(message)\nValueError: no luck" in bad.error.traceback


def test_a_process_that_dies_is_a_failure_and_the_others_go_on():
    killed, crashed, left, good = run(
        (jobs.die, signal.SIGKILL), (jobs.die, signal.SIGSEGV), (jobs.leave, 3), (jobs.square, 3)
    )
    assert killed.error.message == "the process of 0 ended by signal SIGKILL; was there too little memory?"
    assert crashed.error.message == "the process of 1 ended by signal SIGSEGV"
    assert left.error.message == "the process of 2 ended with exit code 3"
    assert {killed.error.type, crashed.error.type, left.error.type} == {"ProcessDied"}
    assert good.result == 9


def test_a_result_that_cannot_be_sent_is_a_failure():
    (reply,) = run((jobs.unpicklable,))
    assert reply.error.type == "ProcessDied"


def test_every_job_has_a_fresh_process_and_its_own_peak():
    ids = [reply.result for reply in run(*[(jobs.process_id,)] * 4)]
    assert len({*ids, os.getpid()}) == 5
    large, small = run((jobs.allocate, 300), (jobs.peak,), at_a_time=1)
    assert large.result > small.result + 250


@pytest.mark.parametrize("threads", [1, 2])
def test_threads(threads):
    assert run((jobs.threads,), threads=threads)[0].result == threads
    assert run((jobs.blas_threads,), threads=threads)[0].result <= threads


def test_the_environment_is_left_as_it_was(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    run((jobs.square, 1))
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


def test_an_interrupt_at_the_terminal_is_the_parents():
    interrupted, terminated = run((jobs.is_asked_to_stop, signal.SIGINT), (jobs.is_asked_to_stop, signal.SIGTERM))
    assert (interrupted.result, terminated.result) == (False, True)


def test_a_job_that_is_asked_to_stop_is_a_failure_without_noise(capfd):
    (reply,) = run((jobs.stop, signal.SIGTERM))
    assert reply.error.message == "the process of 0 ended with exit code 143"
    assert capfd.readouterr().err == ""


INTERRUPTED = """
import os, signal, sys
from lds.sweep import Job, ProcessEngine
from tests.sweep import jobs

duplicate = os.dup

def interrupted(descriptor):  # by which the child has been forked, but has not been sent its job
    signal.raise_signal(signal.SIGINT)
    return duplicate(descriptor)

os.dup = interrupted
try:
    list(ProcessEngine(1).run([Job("slow", jobs.square, (1,))] * 3))
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interrupt_while_a_process_starts_waits_for_it():
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "interrupted\n", "")


def test_so_many_at_a_time(tmp_path):
    """Each job leaves a file while it runs."""
    seen = [reply.result for reply in run(*[(jobs.count_neighbours, tmp_path)] * 6, at_a_time=2)]
    assert max(seen) == 2


def test_closing_stops_what_runs(tmp_path):
    todo = [
        Job("quick", jobs.square, (2,)),
        *[Job("slow", jobs.write_id_and_sleep, (tmp_path / name, 600)) for name in "abc"],
    ]
    replies = ProcessEngine(3).run(todo)
    job, _ = next(replies)
    assert job.name == "quick"
    jobs.wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
    ids = [int(path.read_text()) for path in tmp_path.iterdir()]
    replies.close()
    for number in ids:
        with pytest.raises(ProcessLookupError):
            os.kill(number, 0)
    assert len(list(tmp_path.iterdir())) == 2
