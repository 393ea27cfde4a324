import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lds.data import DATASETS, data_root, fetch, listing, load, verify
from lds.data.named import NAMED
from lds.errors import DataError, InputError

NAMES = ["cora", "citeseer", "pubmed", "wine", "breast_cancer", "digits", "iris", "20newsgroups", *NAMED]


def test_the_names() -> None:
    assert list(DATASETS) == NAMES


@pytest.mark.parametrize("call", [load, fetch, verify])
def test_an_unknown_name_lists_the_known_ones(call: type) -> None:
    with pytest.raises(DataError) as error:
        call("nope")
    assert str(error.value) == f"name must be one of {', '.join(NAMES)}, but 'nope' came"


def test_the_root_is_the_argument_then_the_variable_then_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDS_DATA_ROOT", "from-variable")
    assert data_root("given") == Path("given")
    assert data_root(Path("given")) == Path("given")
    assert data_root() == Path("from-variable")
    monkeypatch.setenv("LDS_DATA_ROOT", "")
    assert data_root() == Path("data")
    monkeypatch.delenv("LDS_DATA_ROOT")
    assert data_root() == Path("data")


def test_load_looks_below_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LDS_DATA_ROOT", str(tmp_path / "from-variable"))
    with pytest.raises(DataError, match="from-variable"):
        load("cora")


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5, None])
def test_a_bad_seed_is_refused(seed: int) -> None:
    with pytest.raises(InputError, match=r"seed must be an integer from 0 to 2\*\*32 - 1, but .* came"):
        load("iris", seed=seed)


def test_the_largest_seed_and_numpy_integers_are_seeds() -> None:
    load("iris", seed=2**32 - 1)
    assert torch.equal(load("iris", seed=np.int64(3)).train_mask, load("iris", seed=3).train_mask)


@pytest.mark.parametrize("name", ["cora", "digits"])
def test_the_global_random_state_stays(data_root: Path, name: str) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    load(name, root=data_root, seed=5, retain=0.5 if name == "cora" else 1.0)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (np.random.get_state()[1].tolist(), random.getstate())


def test_the_listing_says_what_is_there(tmp_path: Path) -> None:
    lines = listing(tmp_path)
    assert [line.name for line in lines] == NAMES
    assert [line.name for line in lines if line.present] == [*NAMES[3:7], "karate"]
    assert (lines[1].nodes, lines[1].edges, lines[1].features, lines[1].classes) == (3327, 4552, 3703, 6)
    assert "Planetoid" in lines[0].origin
    assert lines[3].origin == "built into scikit-learn"


def test_the_listing_sees_cora(cora_copy: Path) -> None:
    assert [line.present for line in listing(cora_copy)[:3]] == [True, False, False]
    (cora_copy / "planetoid" / "Cora" / "raw" / "ind.cora.y").unlink()
    assert not listing(cora_copy)[0].present


@pytest.mark.parametrize("call", [fetch, verify])
def test_built_in_sets_need_nothing(call: type, tmp_path: Path) -> None:
    result = call("iris", tmp_path)
    assert result.ok
    assert result.message == "iris is built into scikit-learn: nothing to fetch, nothing to verify"
    assert list(tmp_path.iterdir()) == []


def test_verify_real_and_absent_files(data_root: Path, tmp_path: Path) -> None:
    assert verify("cora", data_root).ok
    assert verify("citeseer", data_root).message == "citeseer: 8 of 8 files are there with the right checksum"
    absent = verify("cora", tmp_path)
    assert not absent.ok
    assert {file.state for file in absent.files} == {"missing"}


def test_the_import_is_light() -> None:
    code = "import sys, lds.data; sys.exit(bool({'sklearn', 'torch_geometric'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
