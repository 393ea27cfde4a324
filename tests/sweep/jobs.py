"""Jobs for the engines: functions that another process can import."""

import os
import threading
import time
import uuid

import torch
from threadpoolctl import threadpool_info

from lds._signals import Interrupted, stop_requests
from lds.run._environment import peak_rss_mb


def square(x):
    return x * x


def fail(message):
    raise ValueError(message)


def die(number):
    os.kill(os.getpid(), number)


def leave(code):
    os._exit(code)


def unpicklable():
    return threading.Lock()


def process_id():
    return os.getpid()


def threads():
    return torch.get_num_threads()


def blas_threads():
    return max(library["num_threads"] for library in threadpool_info())


def peak():
    return peak_rss_mb()


def allocate(mib):
    held = bytearray(b"x") * (mib << 20)
    return peak_rss_mb() if held else 0


def is_asked_to_stop(number):
    """Whether a signal gets through to a training that listens."""
    with stop_requests() as request:
        die(number)
    return request.number is not None


def stop(number):
    with stop_requests() as request:
        die(number)
        raise Interrupted(request.number)


def count_neighbours(folder):
    """The largest number of jobs seen at once, this one included."""
    mine = folder / str(uuid.uuid4())
    mine.touch()
    most = 0
    for _ in range(30):
        most = max(most, len(list(folder.iterdir())))
        time.sleep(0.01)
    mine.unlink()
    return most


def write_id_and_sleep(path, seconds):
    temporary = path.parent / f"../{path.name}.tmp"
    temporary.write_text(str(os.getpid()))
    temporary.rename(path)
    time.sleep(seconds)


def meet_on(folder, count):
    """The node that this job runs on, once `count` of them run at the same time."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    (folder / f"{os.getpid()}-{node}").touch()
    wait_for(lambda: len(list(folder.iterdir())) == count)
    return node


def wait_for(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
