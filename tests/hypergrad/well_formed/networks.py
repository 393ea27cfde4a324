"""Networks of many kinds as modules, with weights of the samples, a penalty and a learned rate as outer variables."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

from lds.hypergrad import functional
from lds.updaters import SGD, Adam
from tests.hypergrad.well_formed.base import EACH, WellFormed, case, normals
from tests.oracles import DOUBLE, Problem


def fit(net, x, dtype, *, updater=None, steps=3, around=None, options=None, repeats=True, meant=False):
    """Fit a module that returns a number or more a sample."""
    normal = normals(dtype, seed=1)
    params, call = functional(net.to(dtype))
    x = x.to(dtype) if x.is_floating_point() else x
    outer = {"weights": 0.5 + normal(len(x)).abs(), "log_penalty": normal() - 3, "lr": 0.05 + normal().abs() / 100}
    y = normal(len(x))

    def predict(params):
        out = call(params, x)
        return out.flatten(1).mean(1) if out.ndim > 1 else out

    def inner(params, outer):
        penalty = sum(w.square().sum() for w in params.values())
        return (outer["weights"] * (predict(params) - y).square()).mean() + outer["log_penalty"].exp() * penalty

    def outer_objective(params, outer):
        direct = 0.1 * outer["weights"].square().mean() + outer["lr"] ** 2
        return (predict(params) - y.flip(0)).square().mean() + direct

    if around is not None:
        inner, outer_objective = around(inner), around(outer_objective)
    problem = Problem(inner, outer_objective, params, outer)
    return WellFormed(problem, updater or SGD(lambda o: o["lr"]), steps, options or {}, repeats=repeats, meant=meant)


def network(name, make, *shape, dtypes=(DOUBLE,), **options):
    """Register a network, made with one seed, on normal inputs."""

    def problem(dtype):
        torch.manual_seed(0)
        return fit(make(), normals(dtype)(*shape), dtype, **options)

    case(*dtypes, name=name)(problem)


def mlp(activation):
    return nn.Sequential(nn.Linear(3, 5), activation, nn.Linear(5, 4), activation, nn.Linear(4, 1))


ACTIVATIONS = {
    "ReLU": (nn.ReLU, EACH),
    "LeakyReLU": (nn.LeakyReLU, (DOUBLE,)),
    "GELU": (nn.GELU, EACH),
    "Softplus": (nn.Softplus, (DOUBLE,)),
    "Tanh": (nn.Tanh, EACH),
    "ELU": (nn.ELU, (DOUBLE,)),
    "SiLU": (nn.SiLU, EACH),
    "Mish": (nn.Mish, EACH),
    "Hardtanh": (lambda: nn.Hardtanh(-0.3, 0.3), (DOUBLE,)),
    "Hardswish": (nn.Hardswish, (DOUBLE,)),
    "Softsign": (nn.Softsign, (DOUBLE,)),
    "PReLU": (nn.PReLU, (DOUBLE,)),
    "LogSigmoid": (nn.LogSigmoid, (DOUBLE,)),
    "Softshrink": (lambda: nn.Softshrink(0.1), (DOUBLE,)),
    "RReLU": (nn.RReLU, (DOUBLE,)),
    "ReLU in place": (lambda: nn.ReLU(inplace=True), (DOUBLE,)),
}
# Of these torch computes a gradient that is to be differentiated again by another formula.
TWO_FORMULAS = ("SiLU", "Mish")
for _name, (_make, _dtypes) in ACTIVATIONS.items():
    _repeats = _name not in TWO_FORMULAS
    network(f"mlp {_name}", lambda make=_make: mlp(make()), 8, 3, dtypes=_dtypes, repeats=_repeats)

network("dropout", lambda: nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, 1)), 8, 3)
network("GLU", lambda: nn.Sequential(nn.Linear(3, 8), nn.GLU(), nn.Linear(4, 1)), 8, 3)
network(
    "max pooling",
    lambda: nn.Sequential(nn.Conv1d(1, 3, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(9, 1)),
    *(6, 1, 8),
    dtypes=EACH,
)
network(
    "conv and BatchNorm",
    lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 1)),
    *(6, 1, 5, 5),
    dtypes=EACH,
)
network(
    "BatchNorm in evaluation mode",
    lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4).eval(), nn.Tanh(), nn.Linear(4, 1)),
    *(8, 3),
)
network(
    "BatchNorm without running statistics",
    lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Tanh(), nn.Linear(4, 1)),
    *(8, 3),
)
network(
    "conv and GroupNorm",
    lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    *(4, 1, 5, 5),
    dtypes=EACH,
    repeats=False,
)
# The gradient of the bias is zero but for rounding, and so is the momentum of Adam that averages it.
network(
    "a bias in front of a norm of each channel",
    lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(4, 4), nn.Mish(), nn.Flatten(), nn.Linear(36, 1)),
    *(4, 1, 5, 5),
    dtypes=EACH,
    updater=Adam(0.01),
    steps=5,
    repeats=False,
)
network("LayerNorm", lambda: nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.GELU(), nn.Linear(5, 1)), 8, 3)
network("RMSNorm", lambda: nn.Sequential(nn.Linear(3, 5), nn.RMSNorm(5), nn.GELU(), nn.Linear(5, 1)), 8, 3)
network(
    "InstanceNorm",
    lambda: nn.Sequential(nn.Conv1d(1, 3, 3), nn.InstanceNorm1d(3, affine=True), nn.Tanh(), nn.Flatten()),
    *(4, 1, 7),
)
network(
    "transposed conv and upsampling",
    lambda: nn.Sequential(
        nn.ConvTranspose1d(1, 2, 3, stride=2), nn.Upsample(scale_factor=2, mode="linear"), nn.Tanh(), nn.Conv1d(2, 1, 3)
    ),
    *(4, 1, 5),
)
network(
    "channels last",
    lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).to(memory_format=torch.channels_last),
    *(4, 2, 6, 6),
    dtypes=EACH,
)


class Recurrent(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.cell, self.head = cell, nn.Linear(cell.hidden_size, 1)

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


class Unrolled(Recurrent):
    """A cell, step by step."""

    def forward(self, x):
        h = x.new_zeros(len(x), self.cell.hidden_size)
        state = (h, h) if isinstance(self.cell, nn.LSTMCell) else h
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
        return self.head(state[0] if isinstance(state, tuple) else state)


for _kind in (nn.RNN, nn.LSTM, nn.GRU):
    network(_kind.__name__, lambda kind=_kind: Recurrent(kind(2, 3, batch_first=True)), 4, 5, 2, dtypes=EACH)
for _kind in (nn.RNNCell, nn.LSTMCell, nn.GRUCell):
    network(_kind.__name__, lambda kind=_kind: Unrolled(kind(2, 3)), 4, 3, 2)
network(
    "LSTM, two layers, both ways, dropout",
    lambda: Recurrent2(nn.LSTM(2, 2, 2, batch_first=True, bidirectional=True, dropout=0.5)),
    *(4, 4, 2),
)


class Recurrent2(Recurrent):
    def __init__(self, cell):
        super().__init__(cell)
        self.head = nn.Linear(2 * cell.hidden_size, 1)


def with_plain_attention(objective):
    """Run an objective with the attention that has a second derivative."""

    def call(params, outer):
        with sdpa_kernel(SDPBackend.MATH):
            return objective(params, outer)

    return call


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 1)

    def forward(self, x):
        return self.head(self.attention(x, x, x, need_weights=False)[0]).mean(1)


network("attention", SelfAttention, 3, 4, 4, around=with_plain_attention, dtypes=EACH)
network(
    "a transformer layer",
    lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True),
    *(3, 4, 4),
    around=with_plain_attention,
)


class Symmetric(nn.Module):
    def forward(self, x):
        return x.triu() + x.triu(1).mT


def parametrized(function, **options):
    def make():
        net = mlp(nn.Tanh())
        function(net)
        return net

    network(f"parametrized by {function.__name__}", make, 8, 3, **options)


def spectral_norm(net):
    parametrizations.spectral_norm(net[0])


def spectral_norm_in_evaluation_mode(net):
    parametrizations.spectral_norm(net[2]).eval()


def orthogonal(net):
    parametrizations.orthogonal(net[2])


def orthogonal_by_cayley(net):
    parametrizations.orthogonal(net[2], orthogonal_map="cayley")


def symmetric(net):
    net[2] = nn.Linear(5, 5)
    net[4] = nn.Linear(5, 1)
    parametrize.register_parametrization(net[2], "weight", Symmetric())


# In training mode each call moves the singular vectors on, which autograd takes as constants.
parametrized(spectral_norm, meant=True)
for _function in (spectral_norm_in_evaluation_mode, orthogonal, orthogonal_by_cayley, symmetric):
    parametrized(_function)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(3, 3), nn.Linear(3, 3)
        self.decode.weight = self.encode.weight
        self.again = self.encode

    def forward(self, x):
        return self.again(self.decode(self.encode(x).tanh()).tanh())


class Partly(nn.Module):
    """A frozen feature extractor under a trained head, and a parameter that nothing uses."""

    def __init__(self):
        super().__init__()
        self.frozen, self.head = nn.Linear(3, 4).requires_grad_(False), nn.Linear(4, 1)
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return self.head(self.frozen(x).tanh())


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(4))

    def forward(self, x):
        for layer in self.layers:
            x = x + F.relu_(layer(x))
        return x


class Mixture(nn.Module):
    """Experts by a softmax gate, the two best of which count."""

    def __init__(self):
        super().__init__()
        self.gate, self.experts = nn.Linear(3, 4), nn.ModuleList(nn.Linear(3, 1) for _ in range(4))

    def forward(self, x):
        best, index = self.gate(x).topk(2, dim=1)
        outputs = torch.cat([expert(x) for expert in self.experts], 1)
        return (best.softmax(1) * outputs.gather(1, index)).sum(1)


network("tied and shared modules", Tied, 8, 3)
network("frozen and unused parameters", Partly, 8, 3, dtypes=EACH)
network("residual, relu in place", Residual, 8, 3)
network("mixture of experts", Mixture, 8, 3)
network("bilinear", lambda: Pairwise(nn.Bilinear(3, 3, 1)), 8, 3)


class Pairwise(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x, x.flip(0))


@case(*EACH)
def embedding(dtype):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(6, 3), nn.Flatten(), nn.Linear(6, 1))
    return fit(net, torch.tensor([[0, 1], [2, 3], [1, 1], [5, 0]]), dtype)


@case()
def embedding_with_padding(dtype):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(6, 3, padding_idx=1, scale_grad_by_freq=False), nn.Flatten(), nn.Linear(6, 1))
    return fit(net, torch.tensor([[0, 1], [2, 3], [1, 1], [5, 0]]), dtype)


@case(*EACH)
def checkpointing(dtype):
    """Activations are computed again in the backward pass, with the dropout of the first time."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 1))
    problem = fit(net, normals(dtype)(8, 3), dtype)
    inner = problem.problem.inner

    def checkpointed(params, outer):
        return checkpoint(inner, params, outer, use_reentrant=False)

    return replace(problem, problem=problem.problem._replace(inner=checkpointed))
