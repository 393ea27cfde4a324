"""The descriptions of the experiments."""

from collections import Counter, defaultdict

import pytest
import yaml

from lds.ablate import AblationConfig
from lds.run import TrainConfig
from lds.sweep import Spec
from lds.sweep._spec import identity, key
from tests.experiments.conftest import EXPERIMENTS

SPECS = ("table1", "missing_edges", "beyond", "learners")
DATASETS = ("wine", "breast_cancer", "digits", "cora", "citeseer")


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", SPECS)
def test_each_run_is_one_of_equally_many_seeds(name, quick):
    spec = Spec.read(EXPERIMENTS / f"{name}.yaml", quick=quick)
    settings = defaultdict(set)
    for config in spec.configs:
        settings[key({name: value for name, value in identity(config).items() if name != "seed"})].add(config.seed)
    more = {config.dataset for config in spec.configs if config.seed >= 5}
    small = {"table1": {"iris", "wine", "breast_cancer"}, "learners": {"wine", "breast_cancer", "digits"}}
    assert more == (set() if quick else small.get(name, set()))
    assert set(map(frozenset, settings.values())) <= {frozenset(range(n)) for n in ((2,) if quick else (5, 20))}
    # The same seeds for all that is chosen among.
    seeds = defaultdict(set)
    for config in spec.configs:
        seeds[config.dataset, config.method, getattr(config, "train_on", "")].add(config.seed)
    for config in spec.configs:
        setting = key({name: value for name, value in identity(config).items() if name != "seed"})
        assert settings[setting] == seeds[config.dataset, config.method, getattr(config, "train_on", "")]
    assert spec.name == (f"{name}-quick" if quick else name)


def test_budgets_of_table1():
    configs = [c for c in Spec.read(EXPERIMENTS / "table1.yaml").configs if c.seed == 0]
    same = [c for c in configs if c.train_on == "train+val"]
    # Pixels as they are come on top of the grid, which has the scale of the paper.
    settings = Counter((c.dataset, c.method) for c in configs if c not in same and c.scale != "none")
    control = Counter((c.dataset, c.method) for c in same)
    assert [control[dataset, "knn-gcn"] for dataset in (*DATASETS, "iris")] == [8, 8, 16, 10, 10, 16]
    for method in ("logreg", "svm", "random-forest", "label-propagation", "ffnn", "knn-gcn"):
        assert [settings[dataset, method] for dataset in DATASETS] == [16] * 5
    assert [settings[dataset, "knn-lds"] for dataset in DATASETS] == [16, 8, 4, 2, 1]
    assert [settings[dataset, "frozen"] for dataset in DATASETS] == [8, 4, 4, 2, 1]
    # No graph is given: frozen must not start from that of the data set.
    assert all(c.retain == 0 for c in configs if c.method == "frozen" and c.dataset in ("cora", "citeseer"))


def test_missing_edges_give_every_method_one_setting():
    configs = [c for c in Spec.read(EXPERIMENTS / "missing_edges.yaml").configs if c.seed == 0]
    settings = Counter((c.dataset, c.retain, c.method, c.train_on) for c in configs)
    assert set(settings.values()) == {1}
    assert len(settings) == 2 * 4 * 5


def test_truncation():
    values = yaml.safe_load((EXPERIMENTS / "truncation.yaml").read_text())
    lists = {name: values.pop(name) for name in ("horizons", "seeds")}
    config = AblationConfig(TrainConfig(**values), **lists)
    assert list(config.horizons) == [0, 1, 5, 10, 20]


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda path: path.name)
def test_the_command_stands_at_the_head(path):
    command = f"python experiments/{path.stem}.py [--quick]"
    assert command in path.read_text().splitlines()[0]
    assert command in path.with_suffix(".py").read_text().split('"""')[1]
