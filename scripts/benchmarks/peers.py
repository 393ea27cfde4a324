"""The same hypergradient by other packages, each used as its documentation says.

    pip install .[peers]                                            # torchopt 0.7.3, higher 0.2.1
    pip install --no-deps betty-ml==0.1.1 boat-torch==1.1.1         # what they say of numpy and torch is out of date
    pip install bergson==2.5.1 && pip uninstall torchvision torchaudio

(torchvision only where its build is for another torch; bergson's trainer does not use it.) Betty 0.1.1 is the last one
that unrolls. A package that is not installed raises `MissingError`, a missing feature `UnsupportedError`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from unrolls import MissingError, Rule, Task, Tree, UnsupportedError, Weights, gradients, leaves


def needs(module: str) -> Any:
    """Import a module of a package that may not be there."""
    if importlib.util.find_spec(module.split(".")[0]) is None:
        raise MissingError(f"{module.split('.')[0]} is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(module)


def _torchopt_optimizer(rule: Rule, eps_root: float) -> Any:
    torchopt = needs("torchopt")
    decay = {"weight_decay": rule.weight_decay}
    if rule.name == "adam":
        return torchopt.adam(rule.lr, rule.betas, rule.eps, eps_root=eps_root, **decay)
    if rule.name == "adamw":
        return torchopt.adamw(rule.lr, rule.betas, rule.eps, eps_root=eps_root, **decay)
    if rule.name == "rmsprop":
        return torchopt.rmsprop(rule.lr, rule.alpha, rule.eps, **decay)
    return torchopt.sgd(rule.lr, rule.momentum, nesterov=rule.name == "nesterov", **decay)


def torchopt(task: Task, rule: Rule, steps: int, horizon: int | None = None, eps_root: float = 0.0) -> Tree:
    """TorchOpt's functional API; truncated with its `stop_gradient`."""
    package = needs("torchopt")
    optimizer = _torchopt_optimizer(rule, eps_root)
    outer, params = leaves(task.outer), leaves(task.params)
    state = optimizer.init(params)
    for t in range(steps):
        if horizon is not None and t == steps - horizon:
            package.stop_gradient(params)
            package.stop_gradient(state)
        grads = torch.autograd.grad(
            task.inner(params, outer), list(params.values()), create_graph=True, allow_unused=True
        )
        grads = dict(zip(params, grads, strict=True))
        updates, state = optimizer.update(grads, state, params=params, inplace=False)
        params = package.apply_updates(params, updates, inplace=False)
    return gradients(task.outer_objective(params, outer), outer)


def higher(task: Task, rule: Rule, steps: int) -> Tree:
    """higher's inner-loop context around an optimizer of torch.optim."""
    package = needs("higher")
    if rule.name == "adamw":
        raise UnsupportedError("higher has no AdamW")
    outer, model = leaves(task.outer), Weights(task)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with package.innerloop_ctx(model, rule.torch_optimizer(model.parameters())) as (fmodel, optimizer):
            for _ in range(steps):
                optimizer.step(fmodel(outer))
            params = dict(zip(task.params, fmodel.parameters(), strict=True))
            return gradients(task.outer_objective(params, outer), outer)


class OuterVariables(nn.Module):
    """The outer variables as a module that returns them."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.names = list(task.outer)
        self.values = nn.ParameterList(nn.Parameter(value.detach().clone()) for value in task.outer.values())

    def forward(self) -> Tree:
        return dict(zip(self.names, self.values, strict=True))


def betty(task: Task, rule: Rule, steps: int) -> Tree:
    """Betty's `IterativeProblem` below an `ImplicitProblem` whose gradient is taken instead of applied."""
    problems, configs = needs("betty.problems"), needs("betty.configs")
    engine = needs("betty").Engine if hasattr(needs("betty"), "Engine") else needs("betty.engine").Engine
    if not hasattr(problems, "IterativeProblem"):
        raise UnsupportedError("this Betty has no IterativeProblem, its unrolled differentiation")
    if rule.name == "rmsprop":
        raise UnsupportedError("Betty has no differentiable RMSprop")
    result: Tree = {}

    class Lower(problems.IterativeProblem):
        def get_batch(self) -> tuple[()]:
            return ()

        def training_step(self, batch: Any) -> Tensor:
            return self.fmodule(self.params, self.buffers, self.upper())

    class Upper(problems.ImplicitProblem):
        def get_batch(self) -> tuple[()]:
            return ()

        def training_step(self, batch: Any) -> Tensor:
            return task.outer_objective(dict(zip(task.params, self.lower.params, strict=False)), self.module())

        def custom_optimizer_step(self) -> None:
            for name, value in self.module().items():
                result[name] = torch.zeros_like(value) if value.grad is None else value.grad.detach().clone()

    model, outer = Weights(task), OuterVariables(task)
    logging.disable(logging.INFO)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        lower = Lower(
            "lower",
            configs.Config(unroll_steps=steps, first_order=False, retain_graph=True),
            module=model,
            optimizer=rule.torch_optimizer(model.parameters()),
        )
        upper = Upper(
            "upper",
            configs.Config(first_order=False),
            module=outer,
            optimizer=torch.optim.SGD(outer.parameters(), lr=1.0),
        )
        engine(
            problems=[upper, lower],
            config=configs.EngineConfig(train_iters=steps, valid_step=steps + 1),
            dependencies={"u2l": {upper: [lower]}, "l2u": {lower: [upper]}},
        ).run()
    return result


def boat_lower(feed: dict[str, Any], upper: nn.Module, lower: nn.Module, **_: Any) -> Tensor:
    return lower(upper())


def boat_upper(feed: dict[str, Any], upper: nn.Module, lower: nn.Module, params: Any = None, **_: Any) -> Tensor:
    task: Task = feed["task"]
    values = list(lower.parameters()) if params is None else list(params)
    return task.outer_objective(dict(zip(task.params, values, strict=True)), upper())


def boat(task: Task, rule: Rule, steps: int, horizon: int | None = None) -> Tree:
    """BOAT's reverse mode (NGD with RAD); truncated by its RGT."""
    package = needs("boat_torch")
    if rule.name == "adamw":
        raise UnsupportedError("BOAT unrolls with higher, which has no AdamW")
    model, outer = Weights(task), OuterVariables(task)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = {
            "fo_op": None,
            "gm_op": ["NGD"],
            "na_op": ["RAD"] if horizon is None else ["RGT", "RAD"],
            "lower_level_model": model,
            "upper_level_model": outer,
            "lower_level_var": list(model.parameters()),
            "upper_level_var": list(outer.parameters()),
            "lower_level_opt": rule.torch_optimizer(model.parameters()),
            "upper_level_opt": torch.optim.SGD(outer.parameters(), lr=1.0),
            "lower_iters": steps,
            "device": "cpu",
            "RGT": {"truncate_iter": 0 if horizon is None else steps - horizon},
            "GDA": {"alpha_init": 0.0, "alpha_decay": 1.0},
            "DI": {"lr": 0.0},
            "accumulate_grad": False,
            "copy_last_param": False,
            "return_grad": True,
            "loss_log_path": str(Path(folder) / "losses.json"),
        }
        losses = {
            "lower_level_loss": {"function": f"{__name__}.boat_lower"},
            "upper_level_loss": {"function": f"{__name__}.boat_upper"},
        }
        problem = package.Problem(config, losses)
        problem.build_ll_solver()
        problem.build_ul_solver()
        grads, _ = problem.run_iter({"task": task}, {"task": task}, current_iter=0)
    return dict(zip(task.outer, grads, strict=True))


class OuterStream:
    """What bergson's trainer asks of its data: batches by step, and the `weights` to differentiate by.

    bergson differentiates by weights of training examples; here the outer variables, flattened, stand in their place.
    """

    device = torch.device("cpu")

    def __init__(self, outer: Tree, steps: int) -> None:
        self.weights = nn.Parameter(torch.cat([value.detach().flatten() for value in outer.values()]))
        self._steps = steps

    @property
    def requires_grad(self) -> bool:
        return self.weights.requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.weights.requires_grad = value

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"outer": self.weights, "shift_loss_mask": torch.ones(1)}


def bergson(task: Task, rule: Rule, steps: int, eps_root: float = 0.0) -> Tree:
    """bergson's MAGIC: checkpoints of every √T-th step on disk, segments run again, one VJP a step."""
    trainer_module = needs("bergson.magic.trainer")
    if rule.name == "rmsprop":
        raise UnsupportedError("bergson offers AdamW, Muon and SGD")
    sizes = [value.numel() for value in task.outer.values()]

    def unflatten(flat: Tensor) -> Tree:
        parts = zip(task.outer.items(), flat.split(sizes), strict=True)
        return {name: part.view_as(value) for (name, value), part in parts}

    class Model(Weights):
        def forward(self, outer: Tensor, shift_loss_mask: Tensor) -> Tensor:
            return super().forward(unflatten(outer))

    trainer, state = trainer_module.Trainer.initialize(Model(task), _torchopt_optimizer(rule, eps_root))
    stream = OuterStream(task.outer, steps)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        state = trainer.train(state, stream, inplace=True, save_dir=folder, save_mode="sqrt")
        params, outer = leaves(state.params), leaves({"": stream.weights})
        loss = task.outer_objective({name: params[name] for name in task.params}, unflatten(outer[""]))
        direct = gradients(loss, outer, retain_graph=True)[""]
        zeros = [torch.zeros_like(x) for x in state.differentiable_tensors()[len(params) :]]
        backward = trainer_module.BackwardState(gradients(loss, params), zeros, torch.zeros_like(stream.weights))
        backward = trainer.backward(folder, stream, backward, state, inplace=True, save_mode="sqrt")
    return unflatten(backward.weight_grads.detach() + direct)


def hypertorch(task: Task, rule: Rule, steps: int) -> Tree:
    """hypertorch's `reverse`, were it to be had."""
    raise MissingError(
        "hypertorch is published as source only; the package that pip installs under its name is another one"
    )


PEERS: dict[str, Callable[..., Tree]] = {
    "torchopt": torchopt,
    "higher": higher,
    "betty": betty,
    "boat": boat,
    "bergson": bergson,
    "hypertorch": hypertorch,
}
