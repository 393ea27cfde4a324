"""The processes that work on one training, and what they tell each other."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from lds.errors import InputError


class Ranks:
    """The processes of `torch.distributed` that share one training: this one's number, and sums in a fixed order.

    Every method must be called by all of them, in the same order. Sums are taken in the order of the ranks by each of
    them, so that all have the same bits, which a reduction in a tree or a ring does not promise.

    Args:
        group: a process group; all processes when None.

    Raises:
        InputError: `torch.distributed` was not started.

    Example:
        One process, where `torchrun` starts several:

        >>> import torch.distributed as dist
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> ranks = Ranks()
        >>> ranks.sum(torch.ones(2)).tolist(), ranks.size
        ([1.0, 1.0], 1)
        >>> dist.destroy_process_group()
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise InputError(
                "ranks need processes of torch.distributed, but none were started; start the script by torchrun "
                '--nproc-per-node 2 script.py, and call torch.distributed.init_process_group("gloo") in it'
            )
        self._group = group
        self.rank: int = dist.get_rank(group)
        self.size: int = dist.get_world_size(group)

    def gather(self, values: Tensor) -> Tensor:
        """Return what all ranks have, one after the other along the first dimension, in which they may differ."""
        values = values.contiguous()
        counts = self._counts(values)
        most = max(counts)
        padded = values.new_zeros(most, *values.shape[1:])
        padded[: len(values)] = values
        found = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(found, padded, group=self._group)
        return torch.cat([part[:count] for part, count in zip(found, counts, strict=True)])

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of tensors of one shape, in the order of the ranks."""
        found = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(found, values.contiguous(), group=self._group)
        total = found[0]
        for part in found[1:]:
            total += part
        return total

    def numbers(self, value: float) -> list[float]:
        """Return one number of each rank, in double precision."""
        return self.gather(torch.tensor([value], dtype=torch.float64)).tolist()

    def agree(self, what: str, value: int) -> None:
        """Check that all ranks have the same integer.

        Raises:
            InputError: they have not: they would go on with different trainings.
        """
        found = self.gather(torch.tensor([value], dtype=torch.int64)).tolist()
        if len(set(found)) > 1:
            raise InputError(
                f"all ranks must take the same steps, but {what} is {', '.join(map(str, found))}; give every rank the "
                "same data, learner and seed, and run them on machines of one kind with the same number of threads"
            )

    def _counts(self, values: Tensor) -> list[int]:
        count = torch.tensor([len(values)], dtype=torch.int64)
        found = [torch.empty_like(count) for _ in range(self.size)]
        dist.all_gather(found, count, group=self._group)
        return [int(part) for part in found]
