"""Optimizers of torch.optim become updaters: the same steps as the optimizer itself, group by group."""

import copy
import inspect

import pytest
import torch
from torch import nn

from lds.errors import InputError
from lds.hypergrad import functional, hypergradient, record
from lds.updaters import SGD, Adam, AdamW, Groups, Muon, from_torch
from lds.updaters.schedules import Exponential
from tests.oracles import DOUBLE, Problem, central_differences, relative_error, unroll

X = torch.linspace(-1, 1, 24, dtype=DOUBLE).reshape(8, 3).sin()
Y = torch.linspace(2, -1, 16, dtype=DOUBLE).reshape(8, 2).cos()


@pytest.fixture(autouse=True)
def double():
    """torch keeps scalars of its state in the default dtype."""
    torch.set_default_dtype(DOUBLE)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).to(DOUBLE)


def loss(output):
    return (output - Y).square().mean()


def steps_of(optimizer, net, count):
    """The parameters after some steps of the optimizer itself, which are taken."""
    for _ in range(count):
        optimizer.zero_grad()
        loss(net(X)).backward()
        optimizer.step()
    return {name: p.detach().clone() for name, p in net.named_parameters() if p.requires_grad}


def steps_of_updater(updater, net, count):
    params, call = functional(net)
    return record(lambda p, o: loss(call(p, X)), params, (), updater=updater, steps=count, horizon=0).final_state.params


def assert_same(optimizer, net, count=50, tolerance=1e-10):
    updater = from_torch(optimizer, net)
    found = steps_of_updater(updater, net, count)
    before = {name: p.detach().clone() for name, p in net.named_parameters() if p.requires_grad}
    assert relative_error(found, before) > 1e-4
    assert relative_error(found, steps_of(optimizer, net, count)) <= tolerance


OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"lr": 0.1}),
    "sgd-nesterov": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "sgd-dampened": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "maximize": True}),
    "adadelta": (torch.optim.Adadelta, {"lr": 0.5, "rho": 0.8, "weight_decay": 0.1}),
    "adagrad": (torch.optim.Adagrad, {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.1, "eps": 1e-14}),
    "adam": (torch.optim.Adam, {"lr": 0.02, "betas": (0.8, 0.9), "weight_decay": 0.1, "eps": 1e-14}),
    "adam-amsgrad": (torch.optim.Adam, {"lr": 0.02, "amsgrad": True, "eps": 1e-14}),
    "adam-decoupled": (
        torch.optim.Adam,
        {"lr": 0.02, "weight_decay": 0.3, "decoupled_weight_decay": True, "eps": 1e-14},
    ),
    "adamax": (torch.optim.Adamax, {"lr": 0.02, "weight_decay": 0.1}),
    "adamw": (torch.optim.AdamW, {"lr": 0.02, "weight_decay": 0.3, "eps": 1e-14}),
    "asgd": (torch.optim.ASGD, {"lr": 0.1, "lambd": 0.1, "t0": 5}),
    "nadam": (torch.optim.NAdam, {"lr": 0.02, "momentum_decay": 0.1, "eps": 1e-14}),
    "radam": (torch.optim.RAdam, {"lr": 0.02, "betas": (0.8, 0.9), "eps": 1e-14}),
    "rmsprop": (torch.optim.RMSprop, {"lr": 0.01, "momentum": 0.5, "centered": True, "eps": 1e-14}),
    "rprop": (torch.optim.Rprop, {"lr": 0.01}),
}
if hasattr(torch.optim, "Adafactor"):  # From torch 2.5 on.
    OPTIMIZERS["adafactor"] = (torch.optim.Adafactor, {"lr": 0.05, "eps": (1e-4, 1e-2), "weight_decay": 0.1})
OPTIMIZERS = {
    name: (kind, options)
    for name, (kind, options) in OPTIMIZERS.items()
    if options.keys() <= inspect.signature(kind).parameters.keys()  # Adam's decoupled_weight_decay, from torch 2.7 on.
}
needs_names = pytest.mark.skipif(not hasattr(torch.serialization, "skip_data"), reason="torch takes these from 2.6 on")

needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has Muon from 2.9 on")
ALL = pytest.mark.parametrize(("kind", "options"), OPTIMIZERS.values(), ids=OPTIMIZERS)


class TestSteps:
    @ALL
    def test_are_those_of_the_optimizer(self, kind, options, net):
        assert_same(kind(net.parameters(), **options), net)

    @ALL
    def test_go_on_where_the_optimizer_stands(self, kind, options, net):
        optimizer = kind(net.parameters(), **options)
        steps_of(optimizer, net, 7)
        assert_same(optimizer, net, 20)

    def test_each_run_goes_on_from_there(self, net):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        steps_of(optimizer, net, 3)
        updater = from_torch(optimizer, net)
        first = steps_of_updater(updater, net, 5)
        assert relative_error(steps_of_updater(updater, net, 5), first) == 0
        assert relative_error(steps_of_updater(SGD(0.1, 0.9), net, 5), first) > 1e-3
        updater.init(functional(net)[0])["0.weight"].zero_()
        assert relative_error(steps_of_updater(updater, net, 5), first) == 0

    @needs_muon
    def test_of_muon_have_the_bits_of_bfloat16(self, net):
        net[0].bias, net[2].bias = None, None
        optimizer = torch.optim.Muon(net.parameters(), lr=0.02)
        assert from_torch(optimizer, net).dtype == torch.bfloat16
        assert from_torch(optimizer, net, dtype=None) == Muon(0.02)
        assert_same(optimizer, net)
        steps_of(optimizer, net, 3)
        assert_same(optimizer, net, 20)

    @ALL
    def test_of_groups_are_those_of_each(self, kind, options, net):
        groups = [
            {"params": net[0].parameters()},
            {"params": net[2].weight, "lr": options["lr"] / 2},
            {"params": net[2].bias, "lr": options["lr"] / 3},
        ]
        optimizer = kind(groups, **options)
        assert isinstance(from_torch(optimizer, net), Groups)
        assert_same(optimizer, net)
        steps_of(optimizer, net, 3)
        assert_same(optimizer, net, 20)

    def test_options_may_differ_from_group_to_group(self, net):
        groups = [
            {"params": net[0].parameters(), "momentum": 0.9, "nesterov": True},
            {"params": net[2].parameters(), "weight_decay": 0.1, "maximize": True, "own": "ignored"},
        ]
        assert_same(torch.optim.SGD(groups, lr=0.01), net)

    def test_frozen_parameters_stay(self, net):
        net[0].requires_grad_(False)
        optimizer = torch.optim.Adam(net.parameters(), lr=0.02, eps=1e-14)
        assert_same(optimizer, net)
        groups = [{"params": net[0].parameters()}, {"params": net[2].parameters()}]
        assert_same(torch.optim.SGD(groups, lr=0.1), net)

    def test_tied_weights_come_once(self):
        class Tied(nn.Module):
            def __init__(self):
                super().__init__()
                self.encoder, self.decoder = nn.Linear(3, 3), nn.Linear(3, 3)
                self.decoder.weight, self.out = self.encoder.weight, nn.Linear(3, 2)

            def forward(self, x):
                return self.out(self.decoder(self.encoder(x).tanh()))

        torch.manual_seed(0)
        net = Tied().to(DOUBLE)
        assert_same(torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.5), net)

    @needs_names
    def test_the_names_of_parameters_do_not_matter(self, net):
        assert_same(torch.optim.SGD(net.named_parameters(), lr=0.1), net)

    def test_how_torch_computes_does_not_matter(self, net):
        assert from_torch(torch.optim.SGD(net.parameters(), 0.1, foreach=True), net) == SGD(0.1)
        assert from_torch(torch.optim.SGD(net.parameters(), 0.1, differentiable=True), net) == SGD(0.1)


class TestCoefficients:
    @needs_names
    def test_a_tensor_is_a_constant(self, net):
        rate = torch.tensor([0.1])
        optimizer = torch.optim.Adam(net.parameters(), lr=rate, betas=(torch.tensor(0.8), torch.tensor(0.9)), eps=1e-14)
        updater = from_torch(optimizer, net)
        assert updater.lr.shape == ()
        rate.mul_(0)
        assert updater.lr == 0.1
        rate.add_(0.1)
        assert_same(optimizer, net)

    def test_learned_ones_take_the_place_of_constants(self, net):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
        updater = from_torch(optimizer, net, lr=lambda o: o["lr"], momentum=lambda o: o["momentum"])
        params, call = functional(net)
        outer = {"lr": torch.tensor(0.1), "momentum": torch.tensor(0.9)}
        problem = Problem(
            lambda p, o: loss(call(p, X)),
            lambda p, o: loss(call(p, X.flip(0))) + o["lr"] * o["momentum"],
            params,
            outer,
        )
        found = hypergradient(*problem, updater=updater, steps=8)
        assert relative_error(found.grad, unroll(problem, updater, 8).grad) <= 1e-12
        assert relative_error(found.grad, central_differences(problem, updater, 8)) <= 1e-7
        assert relative_error(found.params, steps_of(optimizer, net, 8)) <= 1e-12

    def test_a_list_has_one_for_each_group(self, net):
        optimizer = torch.optim.SGD([{"params": net[0].parameters()}, {"params": net[2].parameters()}], lr=0.1)
        updater = from_torch(optimizer, net, lr=[lambda o: o[0], lambda o: o[1]])
        params, call = functional(net)
        problem = Problem(
            lambda p, o: loss(call(p, X)),
            lambda p, o: loss(call(p, X.flip(0))) + o.prod(),
            params,
            torch.tensor([0.1, 0.2]),
        )
        found = hypergradient(*problem, updater=updater, steps=8).grad
        assert relative_error(found, central_differences(problem, updater, 8)) <= 1e-7
        assert abs(found[0] - found[1]) > 1e-4

    def test_learned_ones_go_on_where_the_optimizer_stands(self, net):
        optimizer = torch.optim.NAdam(net.parameters(), lr=0.02, eps=1e-14)
        steps_of(optimizer, net, 4)
        learned = from_torch(optimizer, net, betas=(torch.tensor(0.9), 0.999))
        assert relative_error(steps_of_updater(learned, net, 10), steps_of(optimizer, net, 10)) <= 1e-10

    @pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adagrad])
    def test_a_schedule_counts_from_the_beginning_of_a_run(self, kind, net):
        optimizer = kind(net.parameters(), lr=0.1)
        steps_of(optimizer, net, 3)
        found = steps_of_updater(from_torch(optimizer, net, lr=Exponential(0.1, 0.9)), net, 5)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        for _ in range(5):
            expected = steps_of(optimizer, net, 1)
            scheduler.step()
        assert relative_error(found, expected) <= 1e-7

    def test_a_scheduler_is_given_as_a_schedule(self, net):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        updater = from_torch(optimizer, net, lr=Exponential(0.1, 0.9))
        found = steps_of_updater(updater, net, 10)
        for _ in range(10):
            expected = steps_of(optimizer, net, 1)
            scheduler.step()
        assert relative_error(found, expected) <= 1e-12

    def test_names_are_checked(self, net):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        with pytest.raises(InputError, match=r"SGD has no coefficient rate; its options are dampening, lr, .*"):
            from_torch(optimizer, net, rate=0.1)
        with pytest.raises(InputError, match=r"lr must be one coefficient or a list .* each of 1 groups, got 2"):
            from_torch(optimizer, net, lr=[0.1, 0.2])


class TestParams:
    def test_of_any_nesting(self):
        w = [torch.tensor([1.0, 2.0], requires_grad=True), {"b": torch.tensor(3.0, requires_grad=True)}]
        optimizer = torch.optim.SGD([{"params": [w[0]]}, {"params": [w[1]["b"]], "lr": 0.2}], lr=0.1)
        updater = from_torch(optimizer, w)
        found = hypergradient(
            lambda p, o: (p[0].square().sum() + p[1]["b"] ** 2) / 2,
            lambda p, o: p[0].sum() + o,
            [w[0].detach(), {"b": w[1]["b"].detach()}],
            torch.tensor(1.0),
            updater=updater,
            steps=2,
        ).params
        assert torch.allclose(found[0], w[0].detach() * 0.81)
        assert torch.allclose(found[1]["b"], w[1]["b"].detach() * 0.64)

    def test_one_tensor(self):
        w = torch.ones(2, requires_grad=True)
        assert from_torch(torch.optim.SGD([w], 0.1), w) == SGD(0.1)


class Own(torch.optim.SGD):
    pass


class TestRefusals:
    def refuse(self, words, optimizer, net, **coefficients):
        state = copy.deepcopy(optimizer.state_dict()) if isinstance(optimizer, torch.optim.Optimizer) else None
        with pytest.raises(InputError, match=words) as caught:
            from_torch(optimizer, net, **coefficients)
        assert "\n" not in str(caught.value)
        if state is not None:
            assert str(optimizer.state_dict()) == str(state)

    @pytest.mark.parametrize("name", ["LBFGS", "SparseAdam"])
    def test_no_counterpart(self, name, net):
        optimizer = getattr(torch.optim, name)(net.parameters())
        self.refuse(
            rf"from_torch knows SGD, Adadelta, .* but torch\.optim\..*\.{name} has no counterpart", optimizer, net
        )

    def test_a_class_of_ones_own(self, net):
        self.refuse(r"but .*test_from_torch\.Own has no counterpart", Own(net.parameters(), 0.1), net)

    @pytest.mark.parametrize(
        ("optimizer", "found"), [(torch.optim.SGD, "the class SGD"), (Adam(), "Adam"), (None, "NoneType")]
    )
    def test_no_optimizer(self, optimizer, found, net):
        self.refuse(rf"from_torch needs an optimizer of torch.optim such as .* got {found}", optimizer, net)

    def test_another_module(self, net):
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        self.refuse(
            r"the optimizer must be that of Linear, but 4 of its parameters are not, one of shape \(4, 3\)",
            optimizer,
            nn.Linear(3, 4),
        )

    def test_copies_of_the_parameters(self, net):
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        self.refuse(
            r"the optimizer must be that of params, but 4 of .* \(not copies of them\)", optimizer, functional(net)[0]
        )

    def test_part_of_a_module(self, net):
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        self.refuse(r"the optimizer must be that of Linear, but 2 of its parameters are not", optimizer, net[2])

    def test_groups_that_leave_params_out(self, net):
        optimizer = torch.optim.SGD(net[0].parameters(), 0.1)
        self.refuse(
            r"the groups of the optimizer must cover all trainable parameters of Sequential, but '2.bias' is in none "
            r"\(2 such in all\); add it, or freeze it",
            optimizer,
            net,
        )

    def test_all_frozen(self, net):
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        net.requires_grad_(False)
        self.refuse("Sequential must have a trainable parameter, got none", optimizer, net)

    def test_a_scheduler(self, net):
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.9**t)
        self.refuse(
            r"cannot see what the learning-rate scheduler of the optimizer will do; give the rates", optimizer, net
        )

    def test_hooks(self, net):
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        optimizer.register_step_post_hook(lambda *args: None)
        self.refuse(r"cannot take over what hooks do, but torch.optim.SGD has step hooks", optimizer, net)

    def test_a_rate_to_be_learned(self, net):
        optimizer = torch.optim.SGD(net.parameters(), lr=torch.tensor(0.1, requires_grad=True), differentiable=True)
        self.refuse(
            r"lr of the optimizer asks for a gradient; .* from_torch\(optimizer, module, lr=lambda outer: outer.*",
            optimizer,
            net,
        )
        assert from_torch(optimizer, net, lr=0.2) == SGD(0.2)

    def test_options_out_of_range(self, net):
        optimizer = torch.optim.Adam(net.parameters(), eps=0)
        self.refuse(r"group 0 of torch.optim.Adam has no counterpart: eps must lie in .* got 0", optimizer, net)
        assert from_torch(optimizer, net, eps=1e-12) == Adam(eps=1e-12)

    def test_different_numbers_of_steps(self, net):
        optimizer = torch.optim.Adam(net.parameters())
        loss(net(X)).backward()
        net[0].weight.grad = None
        optimizer.step()
        self.refuse(r"has taken as many steps with every param of a group, but its state has \[0, 1\]", optimizer, net)

    def test_options_changed_after_the_first_step(self, net):
        optimizer = torch.optim.RMSprop(net.parameters())
        steps_of(optimizer, net, 1)
        optimizer.param_groups[0]["momentum"] = 0.5
        self.refuse(r"the state of torch.optim.RMSprop must hold all that its options need", optimizer, net)

    def test_no_module(self, net):
        self.refuse(
            r"from_torch needs the module of the optimizer, or a pytree of its parameters, got str",
            torch.optim.SGD(net.parameters(), 0.1),
            "net",
        )

    def test_other_params_than_those_of_the_state(self, net):
        optimizer = torch.optim.Adam(net.parameters())
        steps_of(optimizer, net, 1)
        with pytest.raises(
            InputError, match=r"the optimizer has slots for params .* give those of functional\(module\)"
        ):
            from_torch(optimizer, net).init({"w": torch.ones(2)})


def test_a_fresh_optimizer_is_the_plain_updater(net):
    net[0].bias = None
    assert from_torch(torch.optim.AdamW(net.parameters(), 0.1), net) == AdamW(0.1)


@needs_muon
def test_a_fresh_muon_is_the_plain_updater(net):
    net[0].bias = None
    assert isinstance(from_torch(torch.optim.Muon([net[0].weight]), nn.Sequential(net[0])), Muon)
