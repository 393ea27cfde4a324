"""What the server of worker processes imports once, so that a run starts in milliseconds. Starts no thread."""

import sklearn  # noqa: F401
import torch_geometric  # noqa: F401

import lds.data
import lds.run._learner
import lds.sweep._worker  # noqa: F401
