"""Small node classification problems whose graph is known."""

import torch
from torch_geometric.data import Data

from lds.learner import Callback

MASKS = ("train_mask", "val_mask", "es_mask", "test_mask")


def blocks(n=48, *, seed=0, wrong=1.0, noise=1.0, dtype=torch.float32, isolated=4, classes=2):
    """Classes with weak features; a graph of right edges, and `wrong` times as many wrong ones."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    x = noise * torch.randn(n, 8, generator=generator, dtype=torch.float64)
    x[:, :classes] += torch.nn.functional.one_hot(y, classes)
    row, col = torch.triu_indices(n, n, 1)
    same = y[row] == y[col]
    uniform = torch.rand(row.shape, generator=generator)
    kept = torch.where(same, uniform < 0.12, uniform < 0.12 * wrong / (classes - 1)) & (row >= isolated)
    edges = torch.stack([row[kept], col[kept]])
    data = Data(x=x.to(dtype), y=y, edge_index=torch.cat([edges, edges.flip(0)], 1), num_classes=classes)
    part = torch.randperm(n, generator=generator) * 4 // n
    for index, name in enumerate(MASKS):
        data[name] = part == index
    return data


class Recorder(Callback):
    """A callback that keeps what it is told, in order, and a snapshot of θ at every epoch."""

    def __init__(self):
        self.events = []
        self.steps = []
        self.epochs = []

    def on_step(self, record):
        self.events.append(record)
        self.steps.append(record)

    def on_epoch(self, record):
        self.events.append(record)
        self.epochs.append(record)
