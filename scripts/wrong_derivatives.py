#!/usr/bin/env python3
"""Find operations of torch whose derivatives are wrong or missing, by differences in float64.

    scripts/wrong_derivatives.py            # a line for each operation that is not right to the third order
    scripts/wrong_derivatives.py --all -k norm

Order 1 compares the gradient with differences of the values, order 2 the second derivative with differences of the
gradient, order 3 the third with differences of the second; each along random directions. What a sweep needs is the
second order, and the third where the objective or the step differentiates twice itself. The list in
docs/troubleshooting.md is what this prints.
"""

# ruff: noqa: B008  (a default binds what a loop names)

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

D = torch.float64
STEP = 1e-5
# Relative error above which a derivative counts as wrong: differences of a smooth function are right to about 1e-8.
WRONG = 1e-5
Operation = tuple[Callable[..., Tensor], Sequence[Tensor]]


def operations() -> dict[str, Operation]:
    """Return operations by name, each with tensors to differentiate by, away from kinks."""
    torch.manual_seed(0)

    def r(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=D)

    t = torch.tensor([0, 2, 1, 2])
    x, m, v, im = r(4, 3), r(4, 3), r(4), r(2, 4, 6, 6)
    pos = r(4, 3).abs() + 0.5
    spd = (lambda a: a @ a.T + 3 * torch.eye(4, dtype=D))(r(4, 4))
    found: dict[str, Operation] = {}

    def add(name: str, function: Callable[..., Tensor], *tensors: Tensor) -> None:
        found[name] = function, tensors

    smooth = [
        "elu",
        "celu",
        "selu",
        "gelu",
        "silu",
        "mish",
        "softplus",
        "softsign",
        "tanhshrink",
        "logsigmoid",
        "sigmoid",
        "tanh",
        "softmin",
    ]
    for name in smooth:
        add(name, getattr(F, name), x)
    kinked = ["relu", "relu6", "leaky_relu", "hardtanh", "hardsigmoid", "hardswish", "softshrink", "hardshrink"]
    for name in kinked:
        add(name, getattr(F, name), x)
    add("gelu, tanh", lambda x: F.gelu(x, approximate="tanh"), x)
    add("glu", F.glu, r(4, 4))
    add("prelu", F.prelu, x, r(3).abs())
    add("softmax", lambda x: F.softmax(x, 1), x)
    add("log_softmax", lambda x: F.log_softmax(x, 1), x)
    # Norms.
    for train in (True, False):
        label = "training" if train else "evaluation"
        add(
            f"batch_norm, {label}",
            lambda x, w, b, train=train: F.batch_norm(
                x, torch.zeros(3, dtype=D), torch.ones(3, dtype=D), w, b, training=train
            ),
            x, r(3), r(3),
        )  # fmt: skip
    add("batch_norm by hand", lambda x, w: w * (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt(), x, r(3))
    add("layer_norm", lambda x, w, b: F.layer_norm(x, (3,), w, b), x, r(3), r(3))
    add("layer_norm without weights", lambda x: F.layer_norm(x, (3,)), x)
    add("group_norm", lambda x, w, b: F.group_norm(x, 2, w, b), im, r(4), r(4))
    add("instance_norm", lambda x, w, b: F.instance_norm(x, weight=w, bias=b), im, r(4), r(4))
    add("rms_norm", lambda x, w: F.rms_norm(x, (3,), w), x, r(3))
    add("local_response_norm", lambda x: F.local_response_norm(x, 2), im)
    add("normalize", lambda x: F.normalize(x, dim=1), x)
    add("weight_norm", lambda v, g: torch._weight_norm(v, g, 0), m, r(4, 1))
    add("weight_norm by hand", lambda v, g: g * v / v.norm(dim=1, keepdim=True), m, r(4, 1))
    # Losses.
    add("mse_loss", F.mse_loss, x, m)
    add("l1_loss", F.l1_loss, x, m)
    add("smooth_l1_loss", F.smooth_l1_loss, x, m)
    add("huber_loss", F.huber_loss, x, m)
    add("cross_entropy", lambda x: F.cross_entropy(x, t), x)
    add("cross_entropy, smoothed", lambda x: F.cross_entropy(x, t, label_smoothing=0.1), x)
    add("cross_entropy of probabilities", lambda x, p: F.cross_entropy(x, p.softmax(1)), x, m)
    add("cross_entropy, its weight", lambda x, w: F.cross_entropy(x, t, weight=w), x, r(3).abs())
    add("nll_loss", lambda x: F.nll_loss(x, t), x)
    add("nll_loss, its weight", lambda x, w: F.nll_loss(x, t, weight=w), x, r(3).abs())
    add("binary_cross_entropy", lambda x, y: F.binary_cross_entropy(x.sigmoid(), y.sigmoid()), x, m)
    add("bce_with_logits", lambda x, y: F.binary_cross_entropy_with_logits(x, y.sigmoid()), x, m)
    add(
        "bce_with_logits, its weight", lambda x, w: F.binary_cross_entropy_with_logits(x, m.sigmoid(), weight=w), x, pos
    )
    add(
        "bce_with_logits, its pos_weight",
        lambda x, w: F.binary_cross_entropy_with_logits(x, m.sigmoid(), pos_weight=w), x, r(3).abs(),
    )  # fmt: skip
    add("kl_div", lambda x, y: F.kl_div(x.log_softmax(1), y.softmax(1), reduction="batchmean"), x, m)
    add("poisson_nll_loss", F.poisson_nll_loss, x, pos)
    add("gaussian_nll_loss", F.gaussian_nll_loss, x, m, pos)
    add("cosine_embedding_loss", lambda x, y: F.cosine_embedding_loss(x, y, torch.ones(4, dtype=D)), x, m)
    add("hinge_embedding_loss", lambda x: F.hinge_embedding_loss(x, torch.ones(4, 3, dtype=D)), x)
    add("margin_ranking_loss", lambda x, y: F.margin_ranking_loss(x, y, torch.ones(4, 3, dtype=D)), x, m)
    add("multi_margin_loss", lambda x: F.multi_margin_loss(x, t), x)
    add("multilabel_margin_loss", lambda x: F.multilabel_margin_loss(x, t[:, None].expand(4, 3).contiguous()), x)
    add("multilabel_soft_margin_loss", lambda x: F.multilabel_soft_margin_loss(x, m.sigmoid()), x)
    add("soft_margin_loss", lambda x: F.soft_margin_loss(x, m.sign()), x)
    add("triplet_margin_loss", F.triplet_margin_loss, x, m, pos)
    add("ctc_loss", lambda x: F.ctc_loss(x.log_softmax(-1), torch.tensor([[1]]), (4,), (1,)), r(4, 1, 3))
    # Pooling, convolution, resampling.
    add("max_pool2d", lambda x: F.max_pool2d(x, 2), im)
    add("avg_pool2d", lambda x: F.avg_pool2d(x, 2), im)
    add("adaptive_avg_pool2d", lambda x: F.adaptive_avg_pool2d(x, 3), im)
    add("adaptive_max_pool2d", lambda x: F.adaptive_max_pool2d(x, 3), im)
    add(
        "fractional_max_pool2d",
        lambda x: F.fractional_max_pool2d(x, 2, 3, _random_samples=torch.full((2, 4, 2), 0.3, dtype=D)),
        im,
    )
    add("lp_pool2d", lambda x: F.lp_pool2d(x.exp(), 2.0, 2), im)
    add("max_unpool2d", lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), im)
    for n in (1, 2, 3):
        size = [2, 2] + [4] * n
        conv, back = (getattr(F, f"conv{kind}{n}d") for kind in ("", "_transpose"))
        add(f"conv{n}d", conv, r(*size), r(2, 2, *[3] * n))
        add(f"conv_transpose{n}d", back, r(*size), r(2, 2, *[3] * n))
    add("unfold", lambda x: F.unfold(x, 2), im)
    add("fold", lambda x: F.fold(F.unfold(x, 2), (6, 6), 2), im)
    for mode in ("nearest", "bilinear", "bicubic", "area"):
        add(f"interpolate, {mode}", lambda x, mode=mode: F.interpolate(x, size=9, mode=mode), im)
    add("interpolate, antialias", lambda x: F.interpolate(x, size=4, mode="bilinear", antialias=True), im)
    grid = 0.7 * torch.tanh(r(2, 3, 3, 2))
    for mode in ("bilinear", "bicubic", "nearest"):
        add(f"grid_sample, {mode}", lambda x, g, mode=mode: F.grid_sample(x, g, mode, align_corners=False), im, grid)
    add("affine_grid", lambda a: F.affine_grid(a, [2, 4, 3, 3], align_corners=False), r(2, 2, 3))
    add("pixel_shuffle", lambda x: F.pixel_shuffle(x, 2), im)
    for mode in ("reflect", "replicate", "circular", "constant"):
        add(f"pad, {mode}", lambda x, mode=mode: F.pad(x, (1, 2, 0, 1), mode), im)
    # Layers.
    i = torch.tensor([0, 1, 2, 3, 1, 3])
    add("embedding", lambda w: F.embedding(i, w), r(4, 3))
    for mode in ("mean", "sum", "max"):
        add(
            f"embedding_bag, {mode}",
            lambda w, mode=mode: F.embedding_bag(i, w, torch.tensor([0, 2, 4]), mode=mode),
            r(4, 3),
        )
    add("bilinear", F.bilinear, x, m, r(2, 3, 3))
    add("linear", F.linear, x, r(2, 3), r(2))
    q = r(1, 2, 5, 4)
    add("scaled_dot_product_attention", F.scaled_dot_product_attention, q, r(1, 2, 5, 4), r(1, 2, 5, 4))

    def with_math(q, k, v):
        return _with_math(q, k, v)

    add("scaled_dot_product_attention, MATH", with_math, q, r(1, 2, 5, 4), r(1, 2, 5, 4))
    for kind in (nn.RNNCell, nn.LSTMCell, nn.GRUCell, nn.RNN, nn.LSTM, nn.GRU):
        layer = kind(3, 2).double()
        params = dict(layer.named_parameters())

        def run(x: Tensor, *ws: Tensor, layer: nn.Module = layer, names: Sequence[str] = tuple(params)) -> Tensor:
            out = torch.func.functional_call(layer, dict(zip(names, ws, strict=True)), (x,))
            return out[0] if isinstance(out, tuple) else out

        add(
            kind.__name__, run, r(4, 2, 3) if "Cell" not in kind.__name__ else x, *(p.detach() for p in params.values())
        )
    add("cdist", lambda a, b: torch.cdist(a, b), x, m)
    add("cdist, use_mm_for_euclid_dist", lambda a, b: torch.cdist(a, b, compute_mode="use_mm_for_euclid_dist"), x, m)
    add("cdist, p=1", lambda a, b: torch.cdist(a, b, p=1.0), x, m)
    add("pdist", F.pdist, x)
    add("pairwise_distance", F.pairwise_distance, x, m)
    add("cosine_similarity", F.cosine_similarity, x, m)
    # Linear algebra.
    la = torch.linalg
    for name in ["inv", "det", "slogdet", "cholesky", "eigvalsh", "svdvals", "pinv", "matrix_exp"]:
        f = torch.matrix_exp if name == "matrix_exp" else getattr(la, name)
        add(name, lambda a, f=f: f((a + a.T) / 9)[-1] if f is la.slogdet else f((a + a.T) / 9), spd)
    add("eigh", lambda a: la.eigh((a + a.T) / 2)[1].abs(), spd)
    add("eigvals", lambda a: la.eigvals(a).abs(), r(4, 4))
    add("svd", lambda a: la.svd(a, full_matrices=False)[0].abs(), x)
    add("qr", lambda a: la.qr(a)[0], x)
    add("lu", lambda a: la.lu(a)[2], r(4, 4))
    add("solve", la.solve, spd, x)
    add("solve_triangular", lambda a, b: la.solve_triangular(a.tril(), b, upper=False), spd, x)
    add("cholesky_solve", lambda b, a: torch.cholesky_solve(b, la.cholesky(a @ a.T)), x, spd)
    add("lu_solve", lambda a, b: la.lu_solve(*la.lu_factor(a), b), spd, x)
    add("lstsq", lambda a, b: la.lstsq(a, b).solution, x, r(4, 2))
    add("householder_product", la.householder_product, x, r(3))
    add("matrix_power", lambda a: la.matrix_power(a, 3), spd)
    add("multi_dot", lambda a, b, c: la.multi_dot([a, b, c]), x, x.T.contiguous(), m)
    for p in (1, 2, 3, float("inf"), 0.5):
        add(f"vector_norm, {p}", lambda x, p=p: la.vector_norm(x, p, dim=1), x)
    for p in ("fro", "nuc", 2):
        add(f"matrix_norm, {p}", lambda x, p=p: la.matrix_norm(x, p), x)
    add("renorm", lambda x: torch.renorm(x, 2, 0, 0.5), x)
    # Reductions, scans, indices.
    for name in ["cumsum", "cumprod", "logcumsumexp"]:
        add(name, lambda x, f=getattr(torch, name): f(x, 0), x)
    for name in ["prod", "logsumexp", "var", "std"]:
        add(name, lambda x, f=getattr(torch, name): f(x, 0), x)
    for name in ["amax", "sort", "median", "kthvalue", "topk", "cummax", "mode"]:
        extra = (2,) if name in ("kthvalue", "topk") else ()
        add(
            name,
            lambda x, f=getattr(torch, name), e=extra, n=name: f(x, *e, dim=1) if n == "amax" else f(x, *e, dim=1)[0],
            x,
        )
    add("max and aminmax", lambda x: x.max() + x.aminmax()[0], x)
    add("quantile", lambda x: x.quantile(0.3, 1), x)
    add("nanmean", lambda x: x.nanmean(1), x)
    j = torch.tensor([[0, 1, 0], [2, 1, 1], [0, 0, 2], [1, 2, 3]])
    for reduce in ("sum", "mean", "prod", "amax"):
        add(f"scatter_reduce, {reduce}", lambda a, b, m=reduce: a.scatter_reduce(0, j, b, m), x, m)
        add(
            f"index_reduce, {reduce}",
            lambda a, b, m=reduce: a.index_reduce(0, t, b, m) if m != "sum" else a.index_add(0, t, b),
            x,
            m,
        )
        add(
            f"segment_reduce, {reduce}",
            lambda a, m=reduce: torch.segment_reduce(a, m.replace("amax", "max"), lengths=torch.tensor([1, 3])),
            x,
        )
    add("scatter_add and gather", lambda a, b: a.scatter_add(0, j, b).gather(0, j), x, m)
    add("index_put", lambda a, b: a.index_put((t,), b, accumulate=True), x, m)
    add("masked_scatter", lambda a, b: a.masked_scatter(a > 0, b), x, m)
    add("take_along_dim", lambda a: a.take_along_dim(j % 3, 1), x)
    add("trapezoid and diff", lambda x: torch.trapezoid(x, dim=0) + x.diff(dim=0)[0], x)
    # Transforms, complex numbers, special functions.
    for name in ["fft", "rfft", "hfft", "fft2", "rfft2"]:
        add(name, lambda x, f=getattr(torch.fft, name): torch.view_as_real(f(x)) if f(x).is_complex() else f(x), x)
    add("irfft", lambda x: torch.fft.irfft(torch.complex(x, m)), x)
    add(
        "stft",
        lambda x: torch.view_as_real(torch.stft(x, 8, return_complex=True, window=torch.ones(8, dtype=D))),
        r(40),
    )
    add("complex products", lambda a, b: torch.view_as_real(torch.complex(a, b) ** 3), x, m)
    add("angle and abs", lambda a, b: torch.complex(a, b).abs() + torch.complex(a, b).angle(), x, m)
    add("polar", lambda a, b: torch.view_as_real(torch.polar(a.exp(), b)), x, m)
    for name in ["lgamma", "digamma", "erf", "erfc", "sinc", "i0", "logit"]:
        add(name, lambda x, f=getattr(torch.special, {"lgamma": "gammaln"}.get(name, name)): f(x.sigmoid()), x)
    for name in [
        "i0e",
        "i1",
        "i1e",
        "entr",
        "ndtr",
        "log_ndtr",
        "erfcx",
        "ndtri",
        "zeta",
        "xlog1py",
        "polygamma",
        "bessel_j0",
    ]:
        f = getattr(torch.special, name)
        two = {"zeta": lambda x, f=f: f(torch.tensor(2.5, dtype=D), x + 1), "xlog1py": lambda x, f=f: f(x, x),
               "polygamma": lambda x, f=f: f(1, x + 1)}  # fmt: skip
        add(f"special.{name}", lambda x, f=two.get(name, f): f(0.1 + x.sigmoid() / 1.5), x)
    for name in [
        "atan2",
        "hypot",
        "logaddexp",
        "logaddexp2",
        "pow",
        "fmod",
        "remainder",
        "copysign",
        "maximum",
        "float_power",
        "xlogy",
        "ldexp",
    ]:
        add(name, lambda a, b, f=getattr(torch, name): f(a + 0.5, b + 0.5), pos, m.abs())
    for name in [
        "asin",
        "acosh",
        "atanh",
        "expm1",
        "log1p",
        "rsqrt",
        "reciprocal",
        "square",
        "sinh",
        "nan_to_num",
        "clamp",
    ]:
        f = getattr(torch, name)
        add(
            name,
            lambda x, f=f, n=name: f(
                x.sigmoid() / 2 + (1 if n == "acosh" else 0), *((0.1, 0.4) if n == "clamp" else ())
            ),
            x,
        )
    add(
        "lerp and addcmul",
        lambda a, b: torch.lerp(a, b, a) + torch.addcmul(a, a, b) + torch.addcdiv(a, b, a.exp()),
        x,
        m,
    )
    add("einsum", lambda a, b: torch.einsum("ij,kj->ik", a, b), x, m)
    add("kron and cross", lambda a, b: torch.kron(a, b)[0, 0] + torch.linalg.cross(a, b), x, m)
    add("baddbmm", lambda a: torch.baddbmm(a, a, a), r(2, 3, 3))
    rows = torch.stack([torch.arange(4), torch.tensor([1, 2, 3, 0])])
    add(
        "sparse.mm, its dense factor",
        lambda b: torch.sparse.mm(torch.sparse_coo_tensor(rows, v, (4, 4), check_invariants=True), b),
        x,
    )
    add(
        "sparse_coo_tensor, its values",
        lambda a, b: torch.sparse.mm(torch.sparse_coo_tensor(rows, a, (4, 4), check_invariants=True).coalesce(), b),
        v,
        x,
    )
    add("gumbel_softmax", lambda x: (torch.manual_seed(0), F.gumbel_softmax(x))[1], x)
    add("checkpoint", lambda x: torch.utils.checkpoint.checkpoint(torch.tanh, x, use_reentrant=False), x)
    add("checkpoint, reentrant", lambda x: torch.utils.checkpoint.checkpoint(torch.tanh, x, use_reentrant=True), x)
    return found


def _with_math(*tensors: Tensor) -> Tensor:
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return F.scaled_dot_product_attention(*tensors)


def derivative(function: Callable[..., Tensor], order: int, probe: Tensor, directions: Sequence[Sequence[Tensor]]):
    """Return the scalar function whose gradient is the derivative of this order, of ⟨probe, f⟩ + ‖f‖²/3."""

    def value(*tensors: Tensor) -> Tensor:
        with torch.enable_grad():
            y = function(*tensors)
            out = (y * probe + y.square() / 3).sum()  # Not linear, so that every order has something to show.
            for k in range(order - 1):
                grads = torch.autograd.grad(out, tensors, create_graph=True, allow_unused=True)
                pairs = zip(grads, directions[k], strict=True)
                out = torch.stack([(g * d).sum() for g, d in pairs if g is not None]).sum()
        return out

    return value


def error(function: Callable[..., Tensor], tensors: Sequence[Tensor], order: int) -> float:
    """Return the relative error of the derivative of an order, by differences of the order before."""
    generator = torch.Generator().manual_seed(1)

    def like(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=generator, dtype=D)

    probe = like(function(*tensors))
    directions = [[like(x) for x in tensors] for _ in range(order)]
    value = derivative(function, order, probe, directions)
    leaves = [x.clone().requires_grad_() for x in tensors]
    along = directions[order - 1]
    out = value(*leaves)
    grads = torch.autograd.grad(out, leaves, allow_unused=True)
    exact = sum(float((g * d).sum()) for g, d in zip(grads, along, strict=True) if g is not None)

    def at(h: float) -> float:
        return float(value(*((x + h * d).requires_grad_() for x, d in zip(tensors, along, strict=True))))

    # Richardson's extrapolation of central differences.
    fine, coarse = ((at(h) - at(-h)) / (2 * h) for h in (STEP, 2 * STEP))
    numeric = (4 * fine - coarse) / 3
    scale = max(abs(numeric), abs(exact), 1e-3 * abs(float(out)))
    return abs(exact - numeric) / scale if scale else 0.0


def findings(function: Callable[..., Tensor], tensors: Sequence[Tensor]) -> list[str]:
    """Return what is wrong or missing to the third order, a note for each."""
    notes = []
    for order in (1, 2, 3):
        try:
            found = error(function, tensors, order)
        except (RuntimeError, NotImplementedError) as problem:
            return [*notes, f"order {order}: none ({str(problem).splitlines()[0][:90]})"]
        if not found <= WRONG:
            notes.append(f"order {order}: relative error {found:.1e}")
    return notes


def main() -> None:
    """Print a line for each operation, with the first order at which something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="print those that are right, too")
    parser.add_argument("-k", default="", help="only operations with this in their name")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    chosen = {name: op for name, op in operations().items() if options.k in name}
    print(f"torch {torch.__version__}, {len(chosen)} operations, CPU, float64")
    for name, (function, tensors) in chosen.items():
        notes = findings(function, tensors)
        if notes or options.all:
            print(f"{name:36s} {'; '.join(notes) or 'right to order 3'}")


if __name__ == "__main__":
    main()
