"""Steps and draws of compiled code on arrays between two pages that nobody may touch; run as a process of its own.

python -m tests.graph.guarded high|low SEED        each array ends, or begins, at such a page
python -m tests.graph.guarded beyond SEED          one is too short, which must end the process
"""

import ctypes
import mmap
import sys

import torch

from lds.graph import AllPairs, FactorPairs
from lds.graph import _native_step as native

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
PAGE = mmap.PAGESIZE


class Guarded:
    """Stands for the arrays of `lds.graph._native_step`: copies of them, which are copied back after every call."""

    def __init__(self, place, shorter=0):
        self.place, self.shorter = place, shorter
        self.kept = []
        self.code = native.library()

    def pointer(self, x):
        assert x.is_contiguous()
        size = max(x.nbytes - self.shorter, 0)
        pages = -(-size // PAGE) * PAGE
        memory = mmap.mmap(-1, pages + 2 * PAGE)
        begin = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        for page in (begin, begin + PAGE + pages):
            assert _LIBC.mprotect(page, PAGE, mmap.PROT_NONE if hasattr(mmap, "PROT_NONE") else 0) == 0
        at = begin + PAGE + (pages - size if self.place == "high" else 0)
        ctypes.memmove(at, x.data_ptr(), size)
        self.kept.append((memory, at, x, size))
        return ctypes.cast(at, ctypes.POINTER(native._C_TYPES[x.dtype]))

    def __getattr__(self, name):
        function = getattr(self.code, name)

        def call(*args):
            result = function(*args)
            for _, at, x, size in self.kept:
                ctypes.memmove(x.data_ptr(), at, size)
            return result

        return call


def gradient(n, generator):
    """A few factor pairs of any width, none too, with many zeros."""
    pairs = []
    for _ in range(int(torch.randint(4, (), generator=generator))):
        width = int(torch.randint(0, 250, (), generator=generator))
        u, v = torch.randn(2, n, width, generator=generator)
        u *= torch.rand(n, 1, generator=generator) < 0.3
        pairs.append((u, v) if torch.rand((), generator=generator) < 0.5 else (v, u))
    return FactorPairs(tuple(pairs), torch.randn(n, generator=generator))


def main(place, seed):
    generator = torch.Generator().manual_seed(int(seed))
    torch.manual_seed(int(seed))
    random = torch.randint(1, 300, (12,), generator=generator).tolist()
    for n in (1, 2, 63, 64, 65, 127, 128, 129, 192, 193, *random):
        grad = gradient(n, generator)
        structure = AllPairs(n, torch.randint(n, (2, n), generator=generator))
        assert structure.kernel == "native"
        state = structure.state()
        for form in range(native.library().lds_form() + 1):
            guarded = Guarded("low" if place == "low" else "high", shorter=4 if place == "beyond" else 0)
            native._pointer, native._code = guarded.pointer, lambda guarded=guarded: guarded
            structure._refresh(native.native_step_(structure._theta, structure._tiles, grad, 0.1, form=form))
            guarded.kept.clear()
            for lr in (1.0, -1.0, 0.0):
                structure.project_(grad, lr)
                graph = structure.draw()
                assert not graph.num_edges or int(graph.col.max()) < n
                guarded.kept.clear()
            structure.restore_(state)


if __name__ == "__main__":
    main(*sys.argv[1:])
