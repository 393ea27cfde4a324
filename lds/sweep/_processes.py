"""Jobs in processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from typing import NamedTuple

from lds._signals import Interrupted, stops_later
from lds.run._environment import THREAD_COUNTS
from lds.sweep._worker import Failure, Job, Reply, execute

# What the server of worker processes imports once, so that a run starts in milliseconds. None of it starts a thread.
_PRELOADED = ["sklearn", "torch_geometric", "lds.data", "lds.run._learner", "lds.sweep._worker"]


class _Running(NamedTuple):
    job: Job
    process: BaseProcess
    connection: Connection


class ProcessEngine:
    """Runs jobs in parallel processes of this machine, which die with this one.

    Args:
        jobs: how many at a time.
        threads: threads of each.

    Example:
        >>> from lds.sweep import Job, ProcessEngine
        >>> [reply.result for job, reply in ProcessEngine(1).run([Job("two to the third", pow, (2, 3))])]
        [8]
    """

    def __init__(self, jobs: int, threads: int = 1) -> None:
        self.jobs = jobs
        self.threads = threads

    def run(self, jobs: Sequence[Job]) -> Generator[tuple[Job, Reply], None, None]:
        """Run all jobs, each in a fresh process, and yield each with its reply as it ends."""
        context = _context()
        waiting, running = deque(jobs), list[_Running]()
        try:
            while waiting or running:
                while waiting and len(running) < self.jobs:
                    # An interrupt in the middle would leave a child that never gets its job, and says so.
                    with stops_later():
                        running.append(self._start(context, waiting.popleft()))
                wait([end for child in running for end in (child.connection, child.process.sentinel)])
                for child in [child for child in running if _has_ended(child)]:
                    # First, so that an interrupt does not find a child that has been closed.
                    running.remove(child)
                    yield child.job, _collect(child)
        finally:
            for child in running:
                child.process.kill()
            for child in running:
                child.process.join()

    def _start(self, context: ForkServerContext | SpawnContext, job: Job) -> _Running:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(sender, job, self.threads), name=job.name)
        with _one_thread():
            process.start()
        # The child's end is the only one left: the pipe ends with the child.
        sender.close()
        return _Running(job, process, receiver)


def _context() -> ForkServerContext | SpawnContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


@contextmanager
def _one_thread() -> Iterator[None]:
    """Have what starts inside start no threads of its own: a process that is to be forked must have one only."""
    before = {name: os.environ.get(name) for name in THREAD_COUNTS}
    os.environ.update(dict.fromkeys(THREAD_COUNTS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _has_ended(child: _Running) -> bool:
    return child.connection.poll() or not child.process.is_alive()


def _collect(child: _Running) -> Reply:
    """Return what the child sent, or how it died."""
    reply = None
    # _has_ended looks for a reply first, then whether the child lives: between the two it may have sent one and died.
    if child.connection.poll():
        with suppress(EOFError):
            reply = child.connection.recv()
    child.connection.close()
    child.process.join()
    code = child.process.exitcode
    child.process.close()
    if isinstance(reply, Reply):
        return reply
    how = f"by signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"with exit code {code}"
    hint = "; was there too little memory?" if code == -getattr(signal, "SIGKILL", 9) else ""
    return Reply(error=Failure("ProcessDied", f"the process of {child.job.name} ended {how}{hint}"))


def _child(connection: Connection, job: Job, threads: int) -> None:
    # An interrupt at the terminal reaches every process there; the parent alone decides what it means. Blocked, and not
    # ignored: training handles signals itself.
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    else:  # Windows has none.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_the_parent, daemon=True).start()
    try:
        connection.send(execute(job, threads))
    except Interrupted as stop:  # By another signal, which was sent to this process.
        raise SystemExit(stop.exit_code) from None


def _die_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
