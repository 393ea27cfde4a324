"""What both engines run: one job, in a process of its own, whose failure is a reply like any other."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Job:
    """A call to make in another process.

    Args:
        name: what to call it by in messages.
        function: a function that can be pickled, as those at the top of a module can.
        arguments: its arguments.

    Example:
        >>> Job("two to the third", pow, (2, 3)).arguments
        (2, 3)
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Failure:
    """Why a job has no result.

    Attributes:
        type: name of the exception's class.
        message: its message.
        traceback: the lines that Python would have printed; "" where the process ended without a word.

    Example:
        >>> from lds.sweep import ProcessEngine
        >>> [reply.error.type for job, reply in ProcessEngine(1).run([Job("no number", int, ("x",))])]
        ['ValueError']
    """

    type: str
    message: str
    traceback: str = ""


@dataclass(frozen=True)
class Reply:
    """The result of a job, or its failure.

    Attributes:
        result: what the function returned; None on failure.
        error: why there is no result; None on success.

    Example:
        >>> from lds.sweep import ProcessEngine
        >>> [reply for job, reply in ProcessEngine(1).run([Job("two to the third", pow, (2, 3))])]
        [Reply(result=8, error=None)]
    """

    result: Any = None
    error: Failure | None = None


class Engine(Protocol):
    """Runs jobs somewhere.

    Example:
        An engine of your own, for `lds.sweep.run_sweep` and `lds.ablate.ablate`, that says what it runs:

        >>> class Here:
        ...     def run(self, jobs):
        ...         for job in jobs:
        ...             print(job.name)
        ...             yield job, Reply(job.function(*job.arguments))
        >>> [reply.result for job, reply in Here().run([Job("two to the third", pow, (2, 3))])]
        two to the third
        [8]
    """

    def run(self, jobs: Sequence[Job]) -> Generator[tuple[Job, Reply], None, None]:
        """Run all jobs, each in a fresh process, and yield each with its reply as it ends, in any order.

        Closing the generator stops the jobs in flight.
        """


def execute(job: Job, threads: int) -> Reply:
    """Run one job in this process on so many threads, and reply."""
    # A worker's own module pays for nothing that it does not use: torch comes with the first job.
    import torch
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    torch.set_num_threads(threads)
    with threadpool_limits(threads):
        try:
            return Reply(job.function(*job.arguments))
        except Exception as error:
            return Reply(error=Failure(type(error).__name__, str(error), traceback.format_exc()))
