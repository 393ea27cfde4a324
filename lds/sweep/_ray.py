"""Jobs on a Ray cluster."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Generator, Sequence
from typing import Any

from lds.errors import InputError
from lds.sweep._worker import Failure, Job, Reply, execute


class RayEngine:
    """Runs jobs on the nodes of a Ray cluster; lds must be installed on, and the grid's folder shared by, all of them.

    Args:
        address: host:port of the cluster, or auto for the one that runs on this machine.
        jobs: how many at a time; as many as there are processors for when not given.
        threads: threads, and so processors, of each.

    Raises:
        InputError: Ray is not installed.

    Example:
        >>> from lds.sweep import RayEngine  # doctest: +SKIP
        >>> engine = RayEngine("auto", jobs=8)  # doctest: +SKIP
    """

    def __init__(self, address: str = "auto", jobs: int | None = None, threads: int = 1) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise InputError("the engine ray needs Ray, which is not here; pip install 'lds-gnn[ray]'") from error
        self._ray: Any = ray
        self.address = address
        self.jobs = jobs
        self.threads = threads

    def run(self, jobs: Sequence[Job]) -> Generator[tuple[Job, Reply], None, None]:
        """Run all jobs, each in a fresh process, and yield each with its reply as it ends."""
        if not jobs:
            return
        ray = self._ray
        # Ray puts its own handler in place, which ends the process at once.
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(self.address, logging_level=logging.ERROR, log_to_driver=False)
        except (ConnectionError, ValueError) as error:
            raise InputError(f"there must be a Ray cluster at {self.address}, but: {error}; start it first") from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)
        # max_calls: the peak memory of a process is that of one run. No retries: a run that takes its process down
        # is recorded, as with any engine.
        remote = ray.remote(num_cpus=self.threads, max_calls=1, max_retries=0)(execute)
        waiting, running = list(reversed(jobs)), dict[Any, Job]()
        try:
            while waiting or running:
                while waiting and (self.jobs is None or len(running) < self.jobs):
                    job = waiting.pop()
                    running[remote.remote(job, self.threads)] = job
                for reference in ray.wait(list(running), num_returns=1)[0]:
                    yield running.pop(reference), self._reply(reference)
        finally:
            for reference in running:
                ray.cancel(reference, force=True)
            ray.shutdown()

    def _reply(self, reference: Any) -> Reply:
        try:
            reply: Reply = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return Reply(error=Failure(type(error).__name__, str(error)))
        return reply
