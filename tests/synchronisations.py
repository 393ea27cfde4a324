"""How often the host would wait for a device, counted without one."""

from collections import Counter

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_ATEN = torch.ops.aten
# Results that the host reads, or whose size it has to know; the kernels of CUDA wait in each.
_READS = {
    _ATEN._local_scalar_dense, _ATEN.item, _ATEN.is_nonzero, _ATEN.nonzero, _ATEN._unique2, _ATEN.unique_consecutive,
    _ATEN.unique_dim, _ATEN.masked_select, _ATEN.bincount,
}  # fmt: skip
_MASKED = {_ATEN.index, _ATEN.index_put, _ATEN.index_put_, _ATEN._index_put_impl_}


class _Calls(TorchFunctionMode):
    """Sees what no operator shows on the CPU: there, the numbers are read straight from memory."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.Tensor.tolist, torch.Tensor.cpu):
            self.found[func.__name__] += 1
        return func(*args, **(kwargs or {}))


class Synchronisations(TorchDispatchMode):
    """Counts operators and calls in which the host waits for the device, by name; tensors of the host count as well.

    `torch.equal` does not wait where both are the same memory. Copies to the device are not counted.
    """

    def __init__(self):
        super().__init__()
        self.found = Counter()
        self._calls = _Calls(self.found)

    @property
    def total(self):
        return sum(self.found.values())

    def __enter__(self):
        self._calls.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._calls.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        packet = func.overloadpacket
        if (
            packet in _READS
            or (packet is _ATEN.equal and args[0].data_ptr() != args[1].data_ptr())
            or (packet is _ATEN.repeat_interleave and kwargs.get("output_size") is None)
            or (packet in _MASKED and any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1]))
        ):
            self.found[str(packet)] += 1
        return func(*args, **kwargs)
