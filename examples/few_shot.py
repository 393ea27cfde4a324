"""Learning to learn: MAML, ANIL and Meta-SGD on 5-way 1-shot tasks of letters, against first-order methods.

    python examples/few_shot.py
    python examples/few_shot.py --choose   # how the settings were chosen, on an alphabet of its own
    python examples/few_shot.py --quick    # in seconds

A task shows one image of each of five letters, and asks which letter others are. A network adapts to it by a few steps
of SGD. What is learned, over tasks of Latin letters, is where these steps start from: all weights (MAML), also a step
size for each of them (Meta-SGD), or a body that all tasks share and the start of a head that alone adapts (ANIL).
`unroll` returns the adapted weights attached to autograd, so that the loss on the other images is differentiated
through the steps. First-order MAML takes the gradient at the adapted weights in its place, Reptile the way there.
"Plain training" learns to tell all Latin letters apart, and then puts a new head on it; "random weights" has learned
nothing. All are judged by tasks of Greek letters; the settings of each were chosen on Cyrillic ones. The images are
drawn from the fonts of matplotlib, 16 faces of each letter.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import matplotlib
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lds.hypergrad import functional, unroll
from lds.updaters import SGD, PyTree

PICTURE = Path(__file__).parent / "pictures" / "few_shot.png"
# Greek and Cyrillic without letters that are printed as one of the alphabets before.
LATIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
CYRILLIC = "БДЖЗИЦЧШЩЪЫЭЮЯбвджзийцчшщъыэюя"
GREEK = "ΓΔΘΛΞΠΣΦΨΩβδεζηθλμξπσςτφχψω"
FAMILIES = {
    "DejaVuSans": ("", "-Bold", "-Oblique", "-BoldOblique"),
    "DejaVuSansMono": ("", "-Bold", "-Oblique", "-BoldOblique"),
    "DejaVuSerif": ("", "-Bold", "-Italic", "-BoldItalic"),
    "STIXGeneral": ("", "Bol", "Italic", "BolIta"),
}
FACES = [family + style for family, styles in FAMILIES.items() for style in styles]
SIZE, WAYS, QUERIES, HIDDEN = 16, 5, 10, 64
STEPS = 5  # of adaptation in training; in the end TEST_STEPS[-1]
TEST_STEPS = (0, 1, 2, 3, 5, 7, 10)
HEAD = ("4.weight", "4.bias")
Weights = dict[str, Tensor]
Task = tuple[Tensor, Tensor]


class Setting(NamedTuple):
    """Step size of the adaptation, and of Adam, which learns what the adaptation starts from."""

    inner_lr: float
    outer_lr: float


# Chosen by --choose, each from its grid: by Cyrillic letters, and with other seeds than those that are reported.
SETTINGS = {
    "MAML": Setting(0.4, 0.003),
    "Meta-SGD": Setting(0.4, 0.01),
    "ANIL": Setting(0.4, 0.003),
    "first-order MAML": Setting(0.1, 0.003),
    "Reptile": Setting(0.1, 0.003),
    "plain training": Setting(0.03, 0.01),
    "random weights": Setting(0.4, 0.01),
}
# Smaller where steps go further, and one where they are learned.
INNER_LRS = {"Meta-SGD": (0.4,), "plain training": (0.03, 0.1), "random weights": (0.4, 1.0)}
GRIDS = {
    method: [Setting(*lrs) for lrs in product(INNER_LRS.get(method, (0.1, 0.4)), (0.003, 0.01))] for method in SETTINGS
}


@cache
def letters(alphabet: str) -> Tensor:
    """Return images of each letter in the 16 faces of matplotlib's fonts, turned a little: [letters, 32, 256]."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    generator = random.Random(0)
    drawn = []
    for letter, face, _ in product(alphabet, FACES, range(2)):
        font = ImageFont.truetype(str(folder / f"{face}.ttf"), 14)
        image = Image.new("L", (SIZE, SIZE))
        at = [SIZE / 2 + generator.uniform(-1, 1) for _ in range(2)]
        ImageDraw.Draw(image).text((at[0], at[1]), letter, fill=255, font=font, anchor="mm")
        image = image.rotate(generator.uniform(-15, 15), Image.Resampling.BILINEAR)
        drawn.append(torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).float() / 255)
    return torch.stack(drawn).view(len(alphabet), 2 * len(FACES), -1)


def tasks(classes: Tensor, count: int, generator: torch.Generator) -> tuple[Task, Task]:
    """Return what is shown in a number of tasks, and what is asked: images [count, n, 256] and labels [count, n]."""
    ways = torch.stack([torch.randperm(len(classes), generator=generator)[:WAYS] for _ in range(count)])
    places = torch.rand(count, WAYS, classes.shape[1], generator=generator).argsort(-1)[..., : 1 + QUERIES]
    images = classes[ways[..., None], places]
    labels = torch.arange(WAYS).expand(count, -1)
    asked = images[:, :, 1:].flatten(1, 2), labels.repeat_interleave(QUERIES, dim=1)
    return (images[:, :, 0], labels), asked


class Learner:
    """What the adaptation starts from, and how it is learned."""

    def __init__(self, method: str, setting: Setting, seed: int) -> None:
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Linear(SIZE * SIZE, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, WAYS)
        )
        start, self.call = functional(network)
        self.method, self.setting = method, setting
        self.weights: Weights = {name: w.requires_grad_() for name, w in start.items()}
        self.adapts = HEAD if method == "ANIL" else tuple(self.weights)
        self.body = {name: w for name, w in self.weights.items() if name not in self.adapts}
        self.log_rates: Weights = {}
        if method == "Meta-SGD":
            size = torch.tensor(setting.inner_lr).log()
            self.log_rates = {name: size.expand(w.shape).clone().requires_grad_() for name, w in self.weights.items()}
            self.updater = SGD(lr=lambda outer: {name: rate.exp() for name, rate in outer["log_rates"].items()})
        else:
            self.updater = SGD(lr=setting.inner_lr)
        learned = [*self.weights.values(), *self.log_rates.values()]
        self.optimizer = torch.optim.Adam(learned, lr=setting.outer_lr)

    def loss(self, adapted: Weights, body: Weights, tasks: Task) -> Tensor:
        """Return the sum of the losses of all tasks, each by weights of its own: the leading dimension of `adapted`."""

        def of_one(w: Weights, x: Tensor, y: Tensor) -> Tensor:
            return cross_entropy(self.call({**body, **w}, x), y)

        total: Tensor = torch.func.vmap(of_one)(adapted, *tasks).sum()
        return total

    def adapt(self, shown: Task, steps: int) -> Weights:
        """Return the weights after a number of steps on each task, attached to autograd."""
        count = len(shown[0])

        def inner(params: PyTree, outer: PyTree) -> Tensor:
            return self.loss(params, outer["body"], shown)

        start = {name: self.weights[name].expand(count, *self.weights[name].shape).clone() for name in self.adapts}
        outer = {"body": self.body, "log_rates": self.log_rates}
        w: Weights = unroll(inner, start, outer, updater=self.updater, steps=steps)
        return w

    def learn(self, shown: Task, asked: Task) -> None:
        """Take a step by some tasks."""
        self.optimizer.zero_grad()
        count = len(shown[0])
        if self.method in ("first-order MAML", "Reptile"):
            with torch.no_grad():
                w = self.adapt(shown, STEPS)
            if self.method == "Reptile":  # Towards the adapted weights.
                for name, start in self.weights.items():
                    start.grad = start.detach() - w[name].mean(0)
            else:  # The gradient at w_T, taken for the one in w_0.
                w = {name: x.requires_grad_() for name, x in w.items()}
                grads = torch.autograd.grad(self.loss(w, {}, asked) / count, list(w.values()))
                for start, grad in zip(self.weights.values(), grads, strict=True):
                    start.grad = grad.sum(0)
        else:
            w = self.adapt(shown, STEPS)
            torch.autograd.backward(self.loss(w, self.body, asked) / count)
        self.optimizer.step()

    def train_plainly(self, classes: Tensor, iterations: int, size: int) -> None:
        """Learn to tell all classes apart, and put a new head on what was learned."""
        head = torch.zeros(len(classes), HIDDEN, requires_grad=True)
        body = {name: w for name, w in self.weights.items() if name not in HEAD}
        optimizer = torch.optim.Adam([*body.values(), head], lr=self.setting.outer_lr)
        x, y = classes.flatten(0, 1), torch.arange(len(classes)).repeat_interleave(classes.shape[1])
        for _ in range(iterations):
            batch = torch.randint(len(x), (size,))
            w = {**body, HEAD[0]: head, HEAD[1]: torch.zeros(len(classes))}
            optimizer.zero_grad()
            torch.autograd.backward(cross_entropy(self.call(w, x[batch]), y[batch]))
            optimizer.step()
        with torch.no_grad():
            for name in HEAD:
                self.weights[name].zero_()

    def accuracies(self, shown: Task, asked: Task) -> list[float]:
        """Return the mean accuracy over tasks, after each of TEST_STEPS."""

        def of_one(w: Weights, x: Tensor, y: Tensor) -> Tensor:
            right: Tensor = self.call({**self.body, **w}, x).argmax(1) == y
            return right.float().mean()

        with torch.no_grad():
            return [float(torch.func.vmap(of_one)(self.adapt(shown, s), *asked).mean()) for s in TEST_STEPS]


def run(method: str, setting: Setting, seed: int, args: argparse.Namespace, judged: str) -> list[float]:
    """Train one learner on Latin letters; return its accuracies on another alphabet."""
    learner, generator = Learner(method, setting, seed), torch.Generator().manual_seed(seed)
    if method == "plain training":
        learner.train_plainly(letters(LATIN), args.iterations, args.tasks * WAYS * (1 + QUERIES))
    elif method != "random weights":
        for _ in range(args.iterations):
            learner.learn(*tasks(letters(LATIN), args.tasks, generator))
    generator.manual_seed(1000 + seed)  # The same tasks for all methods.
    return learner.accuracies(*tasks(letters(judged), args.judged, generator))


def nearest(seed: int, args: argparse.Namespace) -> float:
    """Return the accuracy of the class of the nearest image that is shown."""
    (x, _), (x_asked, y) = tasks(letters(GREEK), args.judged, torch.Generator().manual_seed(1000 + seed))
    return float((torch.cdist(x_asked, x).argmin(-1) == y).float().mean())


def choose(args: argparse.Namespace) -> None:
    """Print the accuracy of each setting on validation tasks, with seeds that are not reported."""
    for method in SETTINGS:
        for setting in GRIDS[method]:
            found = [run(method, setting, 100 + seed, args, CYRILLIC)[-1] for seed in range(3)]
            print(f"{method:18s} {setting}: {100 * statistics.mean(found):.1f} %", flush=True)


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Run the example; return the figures that it prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PICTURE)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--tasks", type=int, default=16, help="tasks in a step of what is learned")
    parser.add_argument("--judged", type=int, default=200, help="tasks that a learner is judged by")
    parser.add_argument("--choose", action="store_true", help="print validation accuracies by setting")
    parser.add_argument("--quick", action="store_true", help="two seeds, fewer and smaller steps")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    if args.quick:
        args.seeds, args.iterations, args.tasks, args.judged = 2, 40, 8, 50
    if args.choose:
        choose(args)
        return {}

    found = {
        method: torch.tensor([run(method, setting, seed, args, GREEK) for seed in range(args.seeds)])
        for method, setting in SETTINGS.items()
    }
    last = {method: 100 * accuracies[:, -1] for method, accuracies in found.items()}
    print(f"accuracy (%) on Greek letters after {TEST_STEPS[-1]} steps, {args.seeds} seeds; difference to MAML")
    for method, a in last.items():
        more = a - last["MAML"]
        print(f"{method:18s} {a.mean():5.1f} ± {a.std():3.1f}   {more.mean():+5.1f} ± {more.std():3.1f}")
    by_image = 100 * torch.tensor([nearest(seed, args) for seed in range(args.seeds)])
    print(f"{'nearest image':18s} {by_image.mean():5.1f} ± {by_image.std():3.1f}")

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for method, accuracies in found.items():
        left.plot(TEST_STEPS, 100 * accuracies.mean(0), label=method, marker=".")
        right.plot(last[method], [method] * args.seeds, "o", alpha=0.6)
    left.axhline(100 / WAYS, color="gray", lw=0.8, ls=":")
    left.set(xlabel="steps on one image of each of five letters", ylabel="accuracy on Greek letters (%)")
    left.axhline(float(by_image.mean()), color="gray", lw=0.8, ls="--")
    left.text(0, float(by_image.mean()), "nearest image", va="bottom", fontsize="x-small")
    left.legend(fontsize="x-small")
    right.set(xlabel="accuracy after the last step, each seed (%)")
    right.invert_yaxis()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=120)
    return {method: float(a.mean()) for method, a in last.items()}


if __name__ == "__main__":
    main()
