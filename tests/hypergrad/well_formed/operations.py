"""One operation of torch after another inside of the inner objective, reached by params and by θ."""

import torch
import torch.nn.functional as F
from torch.func import grad, hessian, jacrev, jvp, vmap

from lds.updaters import SGD
from tests.hypergrad.well_formed.base import EACH, WellFormed, case, normals
from tests.oracles import DOUBLE, Problem

INDEX = torch.tensor([0, 2, 1, 2, 3])
MASK = torch.tensor([[True, False, True, True]] * 4)


def operation(name, function, *dtypes, **options):
    """Register a function f of w and θ, both of shape (4, 4), whose square is a part of L and of F; θ is near one."""

    def build(dtype):
        normal = normals(dtype)
        w, theta, target = normal(4, 4) / 2, torch.eye(4, dtype=dtype) + normal(4, 4) / 10, normal(4, 4)

        def inner(p, o):
            y = function(p, o)
            return y.abs().square().mean() + (p - target).square().mean() / 2

        return WellFormed(
            Problem(
                inner, lambda p, o: (p - target.mT).square().mean() + function(p, o / 2).abs().square().mean(), w, theta
            ),
            SGD(0.1),
            **options,
        )

    case(*(dtypes or (DOUBLE,)), name=f"operation {name}")(build)


def spd(w, theta):
    return w @ w.mT + theta @ theta.mT


def coo(rows, values):
    return torch.sparse_coo_tensor(rows, values, (4, 4), check_invariants=True)


def sparse(w, theta):
    rows = torch.stack([INDEX[:4], INDEX[1:]])
    return torch.sparse.mm(coo(rows, torch.ones(4, dtype=w.dtype)), w @ theta)


def sparse_values(w, theta):
    rows = torch.stack([torch.arange(4), torch.tensor([1, 2, 3, 0])])
    return torch.sparse.mm(coo(rows, theta.diagonal()).coalesce(), w)


def in_place(w, theta):
    y = w @ theta
    y[:, 0] = 2 * y[:, 1]
    y[1:].mul_(0.5)
    return y.add_(theta).tanh_()


class Cube(torch.autograd.Function):
    """A backward that can be differentiated again."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


def per_sample(w, theta):
    return vmap(grad(lambda row, t: (row @ t).tanh().sum()), (0, None))(w, theta)


def gauss_newton(w, theta):
    return jacrev(lambda v: torch.tanh(w @ v))(theta[0])


def curvature(w, theta):
    return hessian(lambda v: (w @ v).tanh().square().sum())(theta[0])


def tangent(w, theta):
    return jvp(lambda v: torch.tanh(v @ theta), (w,), (theta,))[1]


def loop(w, theta):
    y = w
    while float(y.detach().abs().max()) > 0.5:  # The number of rounds depends on the data.
        y = (y @ theta).tanh() / 2
    return y


operation("matmul", torch.matmul, *EACH)
operation("einsum", lambda w, t: torch.einsum("ij,kj,kl->il", w, t, w), *EACH)
operation("cumsum", lambda w, t: (w * t).cumsum(0))
operation("cumprod", lambda w, t: (1 + w * t).cumprod(1))
operation("logcumsumexp", lambda w, t: (w @ t).logcumsumexp(1))
operation("fft", lambda w, t: torch.fft.fft(w @ t), *EACH)
operation("rfft and back", lambda w, t: torch.fft.irfft(torch.fft.rfft(w) * torch.fft.rfft(t), n=4))
operation("complex inside", lambda w, t: torch.view_as_real(torch.complex(w, t) ** 2 * torch.exp(1j * w)).sum(-1))
operation("polar", lambda w, t: torch.polar(w.exp(), t @ w).real)
operation("interpolate", lambda w, t: F.interpolate((w @ t)[None, None], scale_factor=2, mode="bilinear"))
operation("bicubic", lambda w, t: F.interpolate((w @ t)[None, None], size=7, mode="bicubic"))
operation("scatter_add", lambda w, t: torch.zeros_like(w).scatter_add(0, INDEX[:4].expand(4, 4), w @ t), *EACH)
operation("index_add", lambda w, t: torch.zeros_like(w).index_add(0, INDEX, (w @ t)[INDEX]))
operation(
    "scatter_reduce amax", lambda w, t: torch.zeros_like(w).scatter_reduce(0, INDEX[:4].expand(4, 4), w @ t, "amax")
)
operation("gather", lambda w, t: (w @ t).gather(1, INDEX[:4].expand(4, 4)))
operation("index_put", lambda w, t: t.index_put((INDEX[:2], INDEX[1:3]), w[0, :2], accumulate=True) @ w)
operation("masked_fill", lambda w, t: (w @ t).masked_fill(MASK, 0.0))
operation("masked softmax", lambda w, t: (w @ t).masked_fill(~MASK, -torch.inf).softmax(1), *EACH)
operation("where", lambda w, t: torch.where(w > 0, w * t, t.sin()))
operation("nan_to_num", lambda w, t: (w @ t).nan_to_num())
operation("inverse", lambda w, t: torch.linalg.inv(spd(w, t)))
operation("cholesky", lambda w, t: torch.linalg.cholesky(spd(w, t)), *EACH)
operation("solve", lambda w, t: torch.linalg.solve(spd(w, t), w), *EACH)
operation("cholesky_solve", lambda w, t: torch.cholesky_solve(w, torch.linalg.cholesky(spd(w, t))))
operation("triangular solve", lambda w, t: torch.linalg.solve_triangular(t.tril() + torch.eye(4), w, upper=False))
operation("slogdet", lambda w, t: torch.linalg.slogdet(spd(w, t))[1])
operation("matrix_exp", lambda w, t: torch.matrix_exp(w @ t))
operation("matrix_power", lambda w, t: torch.linalg.matrix_power(w + t, 3))
operation("eigvalsh", lambda w, t: torch.linalg.eigvalsh(spd(w, t) + torch.diag(torch.arange(4.0))))
operation("eigh", lambda w, t: torch.linalg.eigh(spd(w, t) + torch.diag(torch.arange(4.0)))[1].square())
operation("svdvals", lambda w, t: torch.linalg.svdvals(w + 3 * t.cumsum(0)))
operation("qr", lambda w, t: torch.linalg.qr(w + 2 * t)[0])
operation("pinv", lambda w, t: torch.linalg.pinv(w + 2 * t))
operation("lstsq", lambda w, t: torch.linalg.lstsq(w + 2 * t, t).solution, repeats=False)
operation("kron", lambda w, t: torch.kron(w, t))
operation("conv", lambda w, t: F.conv1d(w[:, None], t[:2, None, :3]))
operation("unfold", lambda w, t: F.unfold((w @ t)[None, None], 2))
operation("avg_pool", lambda w, t: F.avg_pool2d((w @ t)[None], 2))
operation("lp_pool", lambda w, t: F.lp_pool1d((w @ t).exp()[None], 2.0, 2))
operation("pad", lambda w, t: F.pad((w @ t)[None], (1, 2), "reflect"))
operation("logsumexp", lambda w, t: (w @ t).logsumexp(1))
operation("normalize", lambda w, t: F.normalize(w @ t, dim=1))
operation("cosine similarity", lambda w, t: F.cosine_similarity(w, t))
operation("var and std", lambda w, t: (w @ t).var(0) + (w @ t).std(1))
operation("prod", lambda w, t: (w + t).prod(1))
operation("sort", lambda w, t: (w @ t).sort(1)[0] * torch.arange(4))
operation("median", lambda w, t: (w @ t).median(1)[0])
operation("topk", lambda w, t: (w @ t).topk(2)[0])
operation("amax", lambda w, t: (w @ t).amax(1))
operation("roll, flip and rot90", lambda w, t: (w @ t).roll(1, 0).flip(1).rot90())
operation("erf and lgamma", lambda w, t: torch.erf(w) + torch.lgamma(1 + t.square() + w.square()))
operation("bessel and digamma", lambda w, t: torch.special.i0(w) + torch.digamma(1 + t.square() + w.square()))
operation("atan2 and hypot", lambda w, t: torch.atan2(w, t + 2) + torch.hypot(w, t + 2))
operation("softmin and log_softmax", lambda w, t: F.softmin(w @ t, 1) + F.log_softmax(w, 0))
operation("cross_entropy", lambda w, t: F.cross_entropy(w @ t, INDEX[:4], label_smoothing=0.1))
operation("smooth losses", lambda w, t: F.huber_loss(w, t) + F.smooth_l1_loss(w @ t, t))
operation(
    "kl, poisson and gaussian losses",
    lambda w, t: F.poisson_nll_loss(w, t.square()) + F.gaussian_nll_loss(w, t, 1 + t**2),
)
operation("triplet loss", lambda w, t: F.triplet_margin_loss(w, t, w @ t))
operation("hinge", lambda w, t: (1 - (w @ t) * torch.ones(4).cumsum(0)).relu())
operation("bce with logits", lambda w, t: F.binary_cross_entropy_with_logits(w @ t, t.sigmoid()))
operation("sparse product", sparse, *EACH)
operation("sparse values", sparse_values)
operation("in place", in_place, *EACH)
operation("a custom function", lambda w, t: Cube.apply(w @ t), *EACH)
operation("per-sample gradients", per_sample, *EACH)
operation("a Jacobian", gauss_newton)
operation("a Hessian", curvature)
# Of a leaf that is a view of a longer tensor, torch copies the tangent, and adds up in another order.
operation("a tangent", tangent, repeats=False)
operation("a loop that depends on data", loop)
operation("statistics that are held fixed", lambda w, t: (w - w.detach().mean(0)) @ t, meant=True)
operation("views", lambda w, t: (w.T.reshape(2, 8).unfold(1, 4, 2)[0] @ t).unsqueeze(0).expand(3, -1, -1))
operation("cdist by products", lambda w, t: torch.cdist(w, 2 + t, compute_mode="use_mm_for_euclid_dist"))
