"""How often the host waits for a device in an outer step, and what is done on a device alone; no device is needed."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from lds._kernel import VARIABLE
from lds._sparse import csr_tensor, sorted_csr
from lds.graph import AllPairs, CandidatePairs, SparseMatrix, random_pairs
from lds.hypergrad import Reverse, hypergradient
from lds.hypergrad._guards import equal_by_one_reading
from lds.hypergrad.memory import _graphs, _states
from lds.nn import GCN
from lds.updaters import Adam
from tests.synchronisations import Synchronisations

STEPS = 5


class OuterStep:
    """LDS on a random graph of n nodes, by operations of torch."""

    def __init__(self, n):
        g = torch.Generator().manual_seed(0)
        x = torch.zeros(n, 60).scatter_(1, torch.rand(n, 60, generator=g).topk(8).indices, 1 / 8)
        self.x, self.y = SparseMatrix.from_dense(x), torch.randint(7, (n,), generator=g)
        self.edges, self.nodes = torch.randint(n, (2, 2 * n), generator=g), torch.randperm(n, generator=g)
        torch.manual_seed(0)
        self.model = GCN(60, 7)

    def loss(self, nodes, mode, params, graph):
        self.model.train(mode)
        return cross_entropy(functional_call(self.model, params, (self.x, graph))[nodes], self.y[nodes])

    def sweep(self, structure, memory=None):
        params = {name: p.detach() for name, p in self.model.named_parameters()}
        return hypergradient(
            lambda p, graph: self.loss(self.nodes[:140], True, p, graph),
            lambda p, graph: self.loss(self.nodes[140:390], False, p, graph),
            params, structure, updater=Adam(0.02, eps=1e-5), steps=STEPS, method=Reverse(STEPS, memory=memory),
        ).grad  # fmt: skip


def counted(action):
    with Synchronisations() as seen:
        action()
    return seen


@pytest.mark.parametrize("n", [500, 2000])
def test_an_outer_step_on_all_pairs_waits_as_often_whatever_the_size(n, monkeypatch):
    monkeypatch.setenv(VARIABLE, "torch")
    step = OuterStep(n)
    structure = AllPairs(n, step.edges)
    gradient = step.sweep(structure)
    structure.project_(gradient, 1.0)
    bounds = {
        "draw": (lambda: structure.draw().normalised, 2),
        # Two a draw of six, and twelve of the whole: what is read of losses, norms and G, twice torch.equal a product.
        "record and sweep": (lambda: step.sweep(structure), 2 * (STEPS + 1) + 12),
        "groups": (gradient.groups, 2),
        "update": (lambda: structure.project_(gradient, 1e-3), 7),
    }
    found = {name: counted(action) for name, (action, _) in bounds.items()}
    assert all(found[name].total <= bound for name, (_, bound) in bounds.items()), [s.found for s in found.values()]


def test_an_update_of_candidates_waits_twice_a_group_of_rows_and_four_times(monkeypatch):
    monkeypatch.setenv(VARIABLE, "torch")
    step = OuterStep(500)
    structure = CandidatePairs(500, step.edges, candidates=random_pairs(500, 4000, seed=1))
    gradient = step.sweep(structure)
    groups = counted(lambda: structure.project_(gradient, 1e-3)).found["aten.nonzero"]
    assert counted(lambda: structure.project_(gradient, 1e-3)).total <= groups + 4


def test_a_step_that_is_run_again_is_compared_by_one_reading():
    pairs = [torch.randn(4, 3), torch.arange(3), torch.zeros(0), torch.tensor(True)]
    others = [x.clone() for x in pairs]
    with Synchronisations() as seen:
        assert equal_by_one_reading(pairs, others)
    assert seen.total == 1


@pytest.mark.parametrize("change", ["a number", "NaN", "shape", "type"])
def test_what_differs_is_seen_by_one_reading(change):
    pairs = [torch.ones(4, 3), torch.arange(3)]
    others = [x.clone() for x in pairs]
    if change == "a number":
        others[1][2] = 7
    elif change == "NaN":
        pairs[0][0, 0] = others[0][0, 0] = float("nan")  # As torch.equal has it; the slow way says that it is no error.
    elif change == "shape":
        others[0] = others[0][:1]
    else:
        others[1] = others[1].to(torch.int32)
    assert not equal_by_one_reading(pairs, others)


@pytest.mark.parametrize(("rows", "cols", "count"), [(1, 1, 0), (7, 4, 12), (50, 50, 600)])
def test_csr_by_operations_of_torch_is_that_of_scipy(rows, cols, count):
    places = torch.randperm(rows * cols, generator=torch.Generator().manual_seed(rows))[:count]
    row, col, values = places // cols, places % cols, torch.arange(float(count))
    expected, found = csr_tensor(row, col, values, (rows, cols)), sorted_csr(row, col, values, (rows, cols))
    for part in ("crow_indices", "col_indices", "values"):
        one, other = getattr(found, part)(), getattr(expected, part)()
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def meta_csr(count, shape):
    """A matrix on the device that knows shapes and types alone, and refuses to give a number."""
    row, col = (torch.empty(count, dtype=torch.int64, device="meta") for _ in range(2))
    return csr_tensor(row, col, torch.empty(count, device="meta"), shape)


def test_csr_on_a_device_needs_no_number_from_there():
    csr = meta_csr(30, (9, 9))
    parts = csr.crow_indices(), csr.col_indices(), csr.values()
    assert [x.dtype for x in parts] == [torch.int32, torch.int32, torch.float32]
    assert [x.numel() for x in parts] == [10, 30, 30]
    assert {x.device.type for x in parts} == {"meta"}
    assert SparseMatrix(csr).T.shape == (9, 9)


def test_an_index_is_wide_where_it_must_be():
    csr = meta_csr(3, (9, 2**31))
    assert csr.crow_indices().dtype == csr.col_indices().dtype == torch.int64


class FakeEvent:
    """An event of CUDA that writes down what is asked of it."""

    def __init__(self, log):
        self.log = log

    def record(self, stream):
        self.log.append(("record", stream))


def test_offload_waits_by_an_event_before_it_reads_what_it_stored(monkeypatch):
    log, pinned = [], []
    new_empty = torch.Tensor.new_empty

    def without_pins(x, *size, pin_memory=False, **options):
        pinned.append(pin_memory)
        return new_empty(x, *size, **options)

    class Stream:
        def wait_event(self, event):
            log.append(("wait", type(event)))

    monkeypatch.setattr(torch.Tensor, "new_empty", without_pins)
    monkeypatch.setattr(_states, "_to_pin", lambda leaf, device: device is not None)
    monkeypatch.setattr(_states, "_event", lambda: FakeEvent(log))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    slab = _states.Slab(2, [torch.zeros(3), torch.ones(2)], "cpu")
    assert pinned == [True, True]
    for row in range(2):
        slab.store(row, [torch.full((3,), row + 1.0), torch.full((2,), row + 5.0)])
    assert [kind for kind, _ in log] == ["record", "record"]
    first, second = slab.load(1)
    assert log[-1] == ("wait", FakeEvent)
    assert first.tolist() == [2.0] * 3
    assert second.tolist() == [6.0] * 2


def test_only_what_leaves_a_cuda_device_for_the_cpu_is_pinned():
    with FakeTensorMode():
        here, there = torch.empty(2), torch.empty(2, device="cuda")
    assert [_states._to_pin(x, "cpu") for x in (here, there, 3)] == [False, True, False]
    assert not _states._to_pin(there, None)
    assert not _states._to_pin(there, "cuda:1")


def test_without_a_budget_graphs_take_half_of_what_a_card_has_free(monkeypatch):
    with FakeTensorMode():
        here, there = torch.empty(2), torch.empty(2, device="cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60e9, 80e9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5e9)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1e9)
    assert _graphs._budget([here]) == 3e8
    assert _graphs._budget([here, there]) == 32e9
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1e6, 80e9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 1e9)
    assert _graphs._budget([there]) == 3e8
