"""The description of a sweep."""

import pytest

from lds.errors import InputError
from lds.run import BaselineConfig, TrainConfig
from lds.sweep import Spec

RUN = "{dataset: wine, method: knn-gcn}"


def spec(tmp_path, text, **options):
    (tmp_path / "spec.yaml").write_text(text)
    return Spec.read(tmp_path / "spec.yaml", **options)


def test_grids(tmp_path):
    read = spec(
        tmp_path,
        "name: grids\ndescription: two of them\nruns:\n"
        "- {dataset: cora, method: [gcn, lds], outer_lr: 2, seed: [0, 1]}\n"
        "- {dataset: wine, method: svm, C: [1, 0.5]}\n",
    )
    assert (read.name, read.description) == ("grids", "two of them")
    assert read.configs == (
        TrainConfig("cora", "gcn", outer_lr=2.0, seed=0),
        TrainConfig("cora", "gcn", outer_lr=2.0, seed=1),
        TrainConfig("cora", "lds", outer_lr=2.0, seed=0),
        TrainConfig("cora", "lds", outer_lr=2.0, seed=1),
        BaselineConfig("wine", "svm", C=1.0),
        BaselineConfig("wine", "svm", C=0.5),
    )


def test_quick(tmp_path):
    text = f"name: a\nruns: [{RUN}]\nquick: [{{dataset: iris, method: knn-gcn}}]\n"
    assert spec(tmp_path, text).configs == (TrainConfig("wine", "knn-gcn"),)
    quick = spec(tmp_path, text, quick=True)
    assert (quick.name, quick.configs) == ("a-quick", (TrainConfig("iris", "knn-gcn"),))


def test_as_yaml_reads_the_same(tmp_path):
    read = spec(tmp_path, f"name: a\ndescription: θ\nruns: [{RUN}, {{dataset: iris, method: knn-lds, k: [3, 4]}}]\n")
    assert spec(tmp_path, read.as_yaml()) == read


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a sweep must be a mapping with name, description, runs, quick, got NoneType"),
        ("- 1", "a sweep must be a mapping"),
        ("name: [", "must be a YAML file, but is not"),
        ("name: !!python/object/apply:os.getcwd []", "must be a YAML file, but is not"),
        (f"runs: [{RUN}]", "name must be a text that can name a folder, got None"),
        (f"name: a/b\nruns: [{RUN}]", "name must be a text that can name a folder, got 'a/b'"),
        (f"name: a\ndescription: 3\nruns: [{RUN}]", "description must be a text, got 3"),
        (f"name: a\ncolour: red\nruns: [{RUN}]", "'colour' is no part of a sweep; it has name"),
        ("name: a", "runs must be a list with at least one grid, got None"),
        ("name: a\nruns: []", r"runs must be a list with at least one grid, got \[\]"),
        (f"name: a\nruns: {RUN}", "runs must be a list with at least one grid"),
        ("name: a\nruns: [3]", "grid 1 must be a mapping of fields of a run to values, got 3"),
        (f"name: a\nruns: [{RUN}, {{}}]", "grid 2 must be a mapping"),
        ("name: a\nruns: [{dataset: wine, method: knn-gcn, k: []}]", "k of grid 1 must have at least one value"),
        ("name: a\nruns: [{dataset: wine, method: knn-gcn, tau: five}]", "grid 1: tau must be an integer, got 'five'"),
        ("name: a\nruns: [{dataset: wine, method: knn-gcn, k: [3, 4.5]}]", "grid 1: k must be an integer, got 4.5"),
        ("name: a\nruns: [{dataset: wine, method: magic}]", "grid 1: method must be one of"),
        ("name: a\nruns: [{dataset: wine, method: knn-gcn, colour: red}]", "grid 1: knn-gcn knows no colour"),
        ("name: a\nruns: [{dataset: wine, method: knn-gcn, retain: 2}]", r"grid 1: retain must lie in \[0, 1\]"),
        ("name: a\nruns: [{method: knn-gcn}]", "grid 1: a run needs dataset"),
        ("name: a\nruns: [{dataset: wine, method: knn-gcn, seed: [1, 1]}]", "every run must be there once"),
        (f"name: a\nruns: [{RUN}, {{dataset: wine, method: knn-gcn, k: 10}}]", "every run must be there once"),
        ("name: a\nruns:\n- dataset: wine\n  seed: [1]\n  seed: [2]", "the mapping in line 3 must have every key once"),
        ("name: a\nname: b\n", "must have every key once, but has name twice"),
        ("name: \0", "must be a YAML file, but is not"),
    ],
)
def test_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as caught:
        spec(tmp_path, text)
    assert "spec.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_quick_runs(tmp_path):
    with pytest.raises(InputError, match="a has no runs under `quick`"):
        spec(tmp_path, f"name: a\nruns: [{RUN}]\n", quick=True)


def test_unreadable(tmp_path):
    with pytest.raises(InputError, match=r"absent\.yaml cannot be read: No such file"):
        Spec.read(tmp_path / "absent.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(InputError, match=r"bytes\.yaml"):
        Spec.read(tmp_path / "bytes.yaml")
