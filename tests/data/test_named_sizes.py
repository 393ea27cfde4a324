"""Sizes that `lds data list` shows, against the tables in the documentation of PyTorch Geometric."""

import re

import pytest
import torch_geometric.datasets

from lds.data.named import NAMED, Named

COUNTS = ("nodes", "edges", "features", "classes")


def table(cls):
    """The rows of a class's table, by the name of the data set in lower case, '' where there is only one."""
    text = getattr(torch_geometric.datasets, cls).__doc__ or ""
    cells = re.findall(r"^\s*(\* )?- (.+)$", text[text.find(".. list-table") :], re.MULTILINE)
    rows = []
    for first, cell in cells if ".. list-table" in text else []:
        if first:
            rows.append([])
        rows[-1].append(cell.strip())
    found = {}
    for row in rows[1:]:
        values = dict(zip(rows[0], row, strict=True))
        name = values.pop("Name", "").lower().replace("-", "_")
        found[name] = {key.strip("#"): int(value.replace(",", "")) for key, value in values.items()}
    return found


SHOWN = {
    name: (source, rows[key])
    for name, source in NAMED.items()
    if isinstance(source, Named) and (rows := table(source.cls))
    for key in [source.title.lower() if source.title and source.title.lower() in rows else ""]
    if key in rows
}


def test_most_sets_have_a_table():
    assert len(SHOWN) >= 16


@pytest.mark.parametrize("name", SHOWN)
def test_sizes_are_those_of_the_table(name):
    source, row = SHOWN[name]
    for count in ("nodes", "features", "classes"):
        assert getattr(source, count) == row[count], count
    if source.collection != "geom-gcn":  # There the table counts links in both directions, duplicates and self loops.
        assert source.edges in (row["edges"], row["edges"] // 2)
