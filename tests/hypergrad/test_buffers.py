"""Buffers in the state: running statistics are those of the trained network, and hypergradients go through them."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from lds.errors import InputError
from lds.hypergrad import (
    Batches,
    Checkpoint,
    Disk,
    FiniteDifference,
    Forward,
    Implicit,
    KeepStates,
    Reverse,
    WithBuffers,
    check_hypergradient,
    functional,
    hypergradient,
    record,
)
from lds.updaters import SGD, Adam, ClipByNorm, gradient
from tests.oracles import DOUBLE, relative_error, same_bits

GENERATOR = torch.Generator().manual_seed(0)
X, X_VAL = (torch.randn(n, 3, generator=GENERATOR, dtype=DOUBLE) for n in (24, 7))
Y, Y_VAL = (torch.randn(n, 2, generator=GENERATOR, dtype=DOUBLE) for n in (24, 7))
LIST = list(zip(X.split(5), Y.split(5), strict=True))
THETA = {"lr": torch.tensor(0.1, dtype=DOUBLE), "penalty": torch.tensor(-3.0, dtype=DOUBLE)}
STEPS = 7


def network(momentum=0.3):
    torch.manual_seed(0)
    layers = nn.Linear(3, 4), nn.BatchNorm1d(4, momentum=momentum), nn.Tanh(), nn.Linear(4, 2)
    return nn.Sequential(*layers).double()


class Average(nn.Module):
    """Centres by an average of all that it saw, an EMA put in the buffer's place; counts its calls in an integer."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)
        self.register_buffer("centre", torch.zeros(4))
        self.register_buffer("scale", torch.ones(4))
        self.register_buffer("calls", torch.tensor(0))
        self.register_buffer("table", torch.arange(4.0), persistent=False)

    def forward(self, x):
        h = self.first(x) + 0.01 * self.table
        if self.training:
            self.centre = 0.8 * self.centre + 0.2 * h.mean(0)
            self.scale.mul_(0.9).add_(0.1 * h.square().mean(0))
            self.calls += 1
        return self.last(torch.tanh((h - self.centre) / self.scale.sqrt())) / (1 + 0.1 * self.calls)


class Shared(nn.Module):
    """One batch normalisation at two places, called twice."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
        self.again = self.norm

    def forward(self, x):
        return self.last(torch.tanh(self.again(torch.tanh(self.norm(self.first(x))))))


def images():
    """Instances of four pixels in each channel."""
    first = nn.Linear(3, 8), nn.Unflatten(1, (2, 4)), nn.InstanceNorm1d(2, track_running_stats=True, affine=True)
    return nn.Sequential(*first, nn.Tanh(), nn.Flatten(), nn.Linear(8, 2))


NETWORKS = {
    "batch norm": network,
    "cumulative": lambda: network(momentum=None),
    "instance norm": images,
    "buffers of one's own": Average,
    "shared": Shared,
}


@pytest.fixture(params=NETWORKS.values(), ids=NETWORKS.keys())
def module(request):
    torch.manual_seed(0)
    return request.param().double()


def problem(module):
    params, call = functional(module, buffers=True)

    def inner(params, outer, batch):
        module.train()
        penalty = sum(w.square().sum() for w in params.params.values())
        return mse_loss(call(params, batch[0]), batch[1]) + outer["penalty"].exp() * penalty

    def outer_objective(params, outer):
        module.eval()
        return mse_loss(call(params, X_VAL), Y_VAL)

    return inner, outer_objective, params, THETA


def solve(module, method=None, updater=None, steps=STEPS, batches=LIST, **options):
    updater = SGD(lambda outer: outer["lr"], momentum=0.5, weight_decay=0.01) if updater is None else updater
    return hypergradient(*problem(module), updater=updater, steps=steps, method=method, batches=batches, **options)


def by_hand(module, steps=STEPS):
    """The module itself, trained by torch.optim with the same batches."""
    module = copy.deepcopy(module).train()
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.5, weight_decay=0.01)
    for t in range(steps):
        x, y = LIST[t % len(LIST)]
        penalty = sum(w.square().sum() for w in module.parameters())
        optimizer.zero_grad()
        (mse_loss(module(x), y) + THETA["penalty"].exp() * penalty).backward()
        optimizer.step()
        for b in module.buffers():
            b.detach_()  # An average of one's own would keep the graphs of all steps.
    return module.eval()


def test_weights_and_buffers_are_those_of_the_module_itself(module):
    found, expected = solve(module), by_hand(module)
    assert relative_error(found.params.params, dict(expected.named_parameters())) <= 1e-12
    buffers = {name: b.double() for name, b in expected.named_buffers()}
    assert relative_error(found.params.buffers, {name: buffers[name] for name in found.params.buffers}) <= 1e-12
    assert found.outer_loss == pytest.approx(mse_loss(expected(X_VAL), Y_VAL).item(), rel=1e-12)


def test_nothing_of_the_module_changes(module):
    before = copy.deepcopy(module.state_dict())
    solve(module)
    assert same_bits(dict(module.state_dict()), dict(before))
    assert all(p.grad is None for p in module.parameters())


def unrolled(steps=STEPS, *, through=True):
    """dF/dθ for the batch normalisation written out, by one graph through all steps."""
    module = network()
    names = [name for name, _ in module.named_parameters()]
    w = [p.detach().clone().requires_grad_() for p in module.parameters()]
    outer = {name: x.clone().requires_grad_() for name, x in THETA.items()}
    mean, var = torch.zeros(4, dtype=DOUBLE), torch.ones(4, dtype=DOUBLE)
    slots = [torch.zeros_like(x) for x in w]

    def forward(w, x, mean, var):
        p = dict(zip(names, w, strict=True))
        h = x @ p["0.weight"].T + p["0.bias"]
        m, v = (h.mean(0), h.var(0, unbiased=False)) if mean is None else (mean, var)
        h_hat = (h - m) / (v + 1e-5).sqrt() * p["1.weight"] + p["1.bias"]
        return h, torch.tanh(h_hat) @ p["3.weight"].T + p["3.bias"]

    for t in range(steps):
        x, y = LIST[t % len(LIST)]
        h, out = forward(w, x, None, None)
        loss = mse_loss(out, y) + outer["penalty"].exp() * sum(p.square().sum() for p in w)
        if not through:
            h = h.detach()
        mean, var = 0.7 * mean + 0.3 * h.mean(0), 0.7 * var + 0.3 * h.var(0)
        grads = torch.autograd.grad(loss, w, create_graph=True)
        slots = [0.5 * s + g + 0.01 * p for s, g, p in zip(slots, grads, w, strict=True)]
        w = [p - outer["lr"] * s for p, s in zip(w, slots, strict=True)]
    loss = mse_loss(forward(w, X_VAL, mean, var)[1], Y_VAL)
    return dict(zip(outer, torch.autograd.grad(loss, list(outer.values())), strict=True))


@pytest.mark.parametrize(
    "method", [None, Reverse(memory=KeepStates()), Reverse(memory=Checkpoint()), Forward(), "disk"], ids=repr
)
def test_equals_the_unroll_of_the_formula(method, tmp_path):
    found = solve(network(), Reverse(memory=Disk(tmp_path / "steps")) if method == "disk" else method)
    assert relative_error(found.grad, unrolled()) <= 1e-11
    assert relative_error(found.grad, unrolled(through=False)) > 1e-2  # The path through the statistics counts.


@pytest.mark.parametrize(
    "updater",
    [None, Adam(lambda outer: outer["lr"], eps=0.1), ClipByNorm(SGD(lambda outer: outer["lr"]), 0.5)],
    ids=["sgd", "adam", "clipped"],
)
def test_equals_central_differences(module, updater):
    found, expected = (solve(module, method, updater) for method in (Reverse(), FiniteDifference()))
    assert relative_error(found.grad, expected.grad) <= 1e-6
    assert any(g.abs() > 1e-3 for g in found.grad.values())


def test_all_policies_give_the_same_bits(module):
    grads = [solve(module, Reverse(memory=memory)).grad for memory in (None, KeepStates(), Checkpoint())]
    assert all(same_bits(grads[0], grad) for grad in grads)


def test_a_custom_updater_may_evaluate_twice():
    """An extragradient step: each of its evaluations moves the statistics, as two forward passes would."""

    class Extragradient:
        def init(self, params):
            return ()

        def step(self, state, outer, inner):
            def moved(w):
                g = gradient(inner, w, outer)
                return {name: state.params[name] - outer["lr"] * g[name] for name in g}

            return moved(moved(state.params)), ()

    found, expected = (solve(network(), method, Extragradient()) for method in (Reverse(), FiniteDifference()))
    assert relative_error(found.grad, expected.grad) <= 1e-6
    assert found.params.buffers["1.num_batches_tracked"] == 2 * STEPS


def test_the_gradient_check_passes():
    inner, outer_objective, params, theta = problem(network())
    updater = SGD(lambda outer: outer["lr"])
    check_hypergradient(inner, outer_objective, params, theta, updater=updater, steps=4, batches=LIST)


def test_warm_starts_go_on_with_the_statistics():
    inner, outer_objective, params, theta = problem(network())
    arguments = {"updater": SGD(lambda outer: outer["lr"]), "batches": Batches((X, Y), 6)}
    whole = record(inner, params, theta, steps=6, **arguments).final_state
    half = record(inner, params, theta, steps=3, **arguments)
    assert same_bits(record(inner, params, theta, steps=3, state=half.final_state, **arguments).final_state, whole)
    after = record(inner, params, theta, steps=3, after=half, **arguments)
    full = hypergradient(inner, outer_objective, params, theta, steps=6, **arguments)
    assert same_bits(Reverse().differentiate(after, outer_objective).grad, full.grad)


def test_implicit_differentiates_the_statistics_too():
    module = network()
    inner, outer_objective, params, theta = problem(module)
    theta = {"penalty": torch.tensor(-1.0, dtype=DOUBLE)}
    arguments = {"updater": SGD(0.2), "steps": 400, "batches": [(X, Y)]}
    method = Implicit("fixed_point", tol=1e-10)
    found = hypergradient(inner, outer_objective, params, theta, method=method, **arguments)
    expected = hypergradient(inner, outer_objective, params, theta, **arguments)
    assert relative_error(found.grad, expected.grad) <= 1e-6
    assert found.diagnostics.inner_gradient_norm <= 1e-6
    with pytest.raises(InputError, match='Implicit\\("cg"\\) needs params that all lower the inner objective, but got'):
        hypergradient(inner, outer_objective, params, theta, method=Implicit(), **arguments)


def test_a_frozen_copy_in_training_mode_moves_nothing():
    """A second set of params called in the step, such as those of a teacher, has statistics of its own."""
    inner, outer_objective, params, theta = problem(network())
    call = functional(network(), buffers=True)[1]
    teacher = WithBuffers(*({name: x.clone() for name, x in part.items()} for part in params))

    def distilled(params, outer, batch):
        return inner(params, outer, batch) + 0 * call(teacher, batch[0] + 5).sum()

    updater = SGD(lambda outer: outer["lr"])
    found = hypergradient(distilled, outer_objective, params, theta, updater=updater, steps=3, batches=LIST)
    alone = hypergradient(inner, outer_objective, params, theta, updater=updater, steps=3, batches=LIST)
    assert same_bits(found.params, alone.params)


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.inside, self.norm, self.outside = nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 3)

    def encode(self, x, *, scale=1.0):
        return scale * self.norm(self.inside(x))

    def forward(self, x):
        return self.outside(self.encode(x))


@pytest.mark.parametrize("buffers", [False, True])
def test_other_methods_and_parts(buffers):
    torch.manual_seed(0)
    module = Autoencoder().double()
    params, call = functional(module, buffers=buffers)
    other = copy.deepcopy(module)
    with torch.no_grad():
        for p in other.parameters():
            p *= 2
    weights = {name: 2 * p for name, p in functional(module)[0].items()}
    doubled = WithBuffers(weights, params.buffers) if buffers else weights
    assert torch.equal(call(doubled, X), other(X))
    assert torch.equal(call.encode(doubled, X, scale=3.0), other.encode(X, scale=3.0))
    assert torch.equal(call.outside(doubled, X[:, :2]), other.outside(X[:, :2]))
    assert torch.equal(module.norm.running_mean, torch.zeros(2, dtype=DOUBLE))
    for name in ("missing", "training", "_module_", "__deepcopy__"):
        with pytest.raises(AttributeError):
            getattr(call, name)
    copy.deepcopy(call)(doubled, X)


def test_a_method_may_put_another_tensor_in_a_buffers_place():
    module = Average().double()
    params, call = functional(module, buffers=True)
    assert list(params.buffers) == ["centre", "scale", "calls"]

    def run(function):
        return record(
            lambda p, o, batch: mse_loss(function(p, batch[0]), batch[1]),
            params,
            THETA,
            updater=SGD(0.1),
            steps=3,
            batches=LIST,
        ).final_state

    assert same_bits(run(call), run(call.forward))
    assert run(call).params.buffers["centre"].abs().sum() > 0


def test_methods_renew_buffers():
    module = Autoencoder().double()
    params, call = functional(module, buffers=True)
    found = hypergradient(
        lambda p, o: call.encode(p, X).square().mean() + o * sum(w.square().sum() for w in p.params.values()),
        lambda p, o: p.buffers["norm.running_mean"].sum(),
        params,
        torch.tensor(0.1, dtype=DOUBLE),
        updater=SGD(0.1),
        steps=3,
    )
    assert found.params.buffers["norm.num_batches_tracked"] == 3
    assert found.grad != 0


def test_slips():
    module = network()
    params, call = functional(module, buffers=True)
    plain, plain_call = functional(module)
    message = "Sequential must be called with all of its params, WithBuffers of 0.weight, .*, got "
    for wrong in (plain, params.params, WithBuffers(params.params, {}), WithBuffers({}, params.buffers), tuple(params)):
        with pytest.raises(InputError, match=message):
            call(wrong, X)
    with pytest.raises(InputError, match=r"Sequential must be called with all of its params, a dict with .* got WithB"):
        plain_call(params, X)
    with pytest.raises(InputError, match=r"params with buffers must be the whole of params, but .* lies deeper"):
        hypergradient(
            lambda p, o: call(p["net"], X).square().mean(),
            lambda p, o: o,
            {"net": params},
            torch.tensor(0.1, dtype=DOUBLE),
            updater=SGD(0.1),
            steps=1,
        )


class Silent(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)
        self.register_buffer("size", torch.ones(2))

    def forward(self, x):
        with torch.no_grad():
            self.size.mul_(0.9).add_(0.1 * x.std())
        return super().forward(x) / self.size


def test_a_derivative_that_is_lost_on_the_way_is_refused():
    spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 2))
    for module, name in ((Silent(), "size of Silent"), (spectral, "parametrizations.weight.0._u of Param")):
        with pytest.raises(InputError, match=f"autograd can follow, but {name}.* was written to under torch.no_grad"):
            solve(module.double())
    params, call = functional(Silent().double())
    inner = lambda p, o, batch: o * mse_loss(call(p, batch[0]), batch[1])  # noqa: E731
    loss = lambda p, o: mse_loss(call(p, X_VAL), Y_VAL)  # noqa: E731
    hypergradient(inner, loss, params, THETA["lr"], updater=SGD(0.1), steps=2, batches=LIST)


def test_integers_come_back_as_they_were():
    module = network()
    result = solve(module)
    module.load_state_dict({**result.params.params, **result.params.buffers})
    assert module[1].num_batches_tracked.dtype == torch.long
    assert module[1].num_batches_tracked == STEPS
    module.eval()
    assert mse_loss(module(X_VAL), Y_VAL).item() == pytest.approx(result.outer_loss, rel=1e-12)
