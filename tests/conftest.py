import gc
import os
import signal
import warnings
from pathlib import Path

import pytest
import torch

with warnings.catch_warnings():
    # PyTorch Geometric calls the deprecated function itself, once, at import.
    warnings.filterwarnings("ignore", message="`torch.jit.script`", category=DeprecationWarning)
    import torch_geometric  # noqa: F401

# The tensors of the tests are small: waiting for a second thread takes longer than the work, and on a machine with
# other work to do, many times as long.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # Processes that tests start, too: other threads, other bits.

# Where this runs in the background of a shell, SIGINT is ignored, and so it would be in processes that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def device() -> torch.device:
    """The device of LDS_TEST_DEVICE, such as cuda; the CPU without it. Skips where this machine has no such device."""
    name = os.environ.get("LDS_TEST_DEVICE") or "cpu"
    try:
        device = torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        pytest.skip(f"LDS_TEST_DEVICE={name}: {str(error).strip().splitlines()[0]}")
    return device


@pytest.fixture
def data_root() -> Path:
    """The folder of the real Cora and CiteSeer."""
    beside = Path(__file__).parents[2] / "shared" / "datasets"
    root = Path(os.environ.get("LDS_DATA_ROOT") or beside)
    for title in ("Cora", "CiteSeer"):
        if not (root / "planetoid" / title / "raw").is_dir():
            pytest.skip(f"{title} is not in {root}: set LDS_DATA_ROOT, or run `lds data fetch {title.lower()}`")
    return root


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()
