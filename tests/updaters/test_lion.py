"""Lion takes the steps of the paper's Algorithm 2, written down again here; torch has none."""

import pytest
import torch

from lds.hypergrad import hypergradient
from lds.updaters import Lion
from tests.oracles import DOUBLE, relative_error
from tests.updaters.torch_optim import run, torch_run


class TorchLion(torch.optim.Optimizer):
    """Algorithm 2 of Chen et al., line by line and in place."""

    def __init__(self, params, lr, betas, weight_decay):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for theta in group["params"]:
                m = self.state[theta].setdefault("m", torch.zeros_like(theta))
                c = m.mul(beta1).add(theta.grad, alpha=1 - beta1)
                theta.sub_(group["lr"] * (c.sign() + group["weight_decay"] * theta))
                m.mul_(beta2).add_(theta.grad, alpha=1 - beta2)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_fifty_steps_agree_with_the_algorithm(weight_decay):
    options = {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": weight_decay}
    assert relative_error(run(Lion(**options)), torch_run(TorchLion, **options)) <= 1e-12


def test_only_what_is_outside_the_sign_has_a_hypergradient():
    # Far from the minimum all signs are −1: w_T = w_0 (1 − ηλ)^T + η Σ_k (1 − ηλ)^k.
    outer = {"lr": torch.tensor(0.01, dtype=DOUBLE), "decay": torch.tensor(0.5, dtype=DOUBLE)}
    outer |= {"scale": torch.tensor(2.0, dtype=DOUBLE), "beta": torch.tensor(0.9, dtype=DOUBLE)}
    start, steps = torch.tensor([1.0, 2.0], dtype=DOUBLE), 7
    grad = hypergradient(
        lambda w, o: o["scale"] * (w - 100).square().sum(),
        lambda w, o: w.sum(),
        start,
        outer,
        updater=Lion(lambda o: o["lr"], (lambda o: o["beta"], 0.9), weight_decay=lambda o: o["decay"]),
        steps=steps,
    ).grad

    def final(lr, decay):
        shrink = 1 - lr * decay
        return (start * shrink**steps + lr * sum(shrink**k for k in range(steps))).sum()

    lr_slope, decay_slope = torch.autograd.functional.jacobian(final, (outer["lr"], outer["decay"]))
    assert torch.allclose(grad["lr"], lr_slope, rtol=1e-12)
    assert torch.allclose(grad["decay"], decay_slope, rtol=1e-12)
    assert grad["scale"] == 0
    assert grad["beta"] == 0
