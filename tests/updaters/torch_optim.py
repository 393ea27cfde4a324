"""The optimizers of torch as oracles: the same steps on the same problem."""

from lds.hypergrad import record
from tests.oracles import Problem, regression, relative_error


def flat_problem():
    """The regression problem with its params in a flat dict, as torch.optim wants a list."""
    nested = regression()
    first, (last,) = nested.params["layers"]

    def nest(p):
        return {"layers": [{"w": p["w"], "b": p["b"]}, (p["last"],)], "scale": p["scale"]}

    params = {"w": first["w"], "b": first["b"], "last": last, "scale": nested.params["scale"]}
    return Problem(lambda p, o: nested.inner(nest(p), o), None, params, nested.outer)


def torch_run(optimizer_class, steps=50, *, scheduler=None, clip=None, problem=None, **options):
    """The params after some steps of an optimizer of torch; `clip` changes the gradients of a list of params."""
    problem = problem or flat_problem()
    params = {k: v.clone().requires_grad_() for k, v in problem.params.items()}
    optimizer = optimizer_class(params.values(), **options)
    schedule = scheduler(optimizer) if scheduler else None
    for _ in range(steps):
        optimizer.zero_grad()
        problem.inner(params, problem.outer).backward()
        if clip:
            clip(list(params.values()))
        optimizer.step()
        if schedule:
            schedule.step()
    return {k: v.detach() for k, v in params.items()}


def run(updater, steps=50, *, problem=None):
    """The params after some steps of an updater."""
    problem = problem or flat_problem()
    return record(
        problem.inner, problem.params, problem.outer, updater=updater, steps=steps, horizon=0
    ).final_state.params


def assert_differs_by_epsilon(updater_class, optimizer_class, **options):
    """Assert that 50 steps agree but for ε inside the root or outside.

    The two roots differ by ε/√v of themselves. √v is at least 1e-2 here, and 50 steps make a difference grow by less
    than a factor of a hundred.
    """
    errors = [
        relative_error(run(updater_class(eps=eps, **options)), torch_run(optimizer_class, eps=eps, **options))
        for eps in (1e-14, 1e-9, 1e-8)
    ]
    assert errors[0] <= 1e-10
    assert errors[2] <= 1e-4
    # Of first order in ε, so that nothing else makes them differ.
    assert 9 <= errors[2] / errors[1] <= 11
