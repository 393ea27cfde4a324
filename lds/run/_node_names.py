"""The names of a run's nodes."""

from __future__ import annotations

from pathlib import Path

from lds._read import parse_json, reason
from lds.errors import DataError
from lds.run._folder import NODE_NAMES


def read_node_names(folder: Path, num_nodes: int) -> list[str] | None:
    """Return the names of the nodes of a run, in the order of their numbers; None where its data named none.

    Raises:
        DataError: the file is damaged, or that of another run.
    """
    from lds.data.own._parts import name_fault as fault

    path = folder / NODE_NAMES
    if not path.exists():
        return None
    try:
        names = parse_json(path.read_bytes())
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("it is no list of texts")
        if not len(set(names)) == len(names) == num_nodes:
            raise ValueError(f"it holds {len(set(names))} different ones for {num_nodes} nodes")
        for name in names:
            if (wrong := fault(name)) is not None:
                raise ValueError(f"one {wrong}")
    except (OSError, DataError, ValueError) as error:
        raise DataError(
            f"{path} must hold the names of the nodes as a run saved them, but {reason(error)}; "
            "run again, or remove it to have numbers"
        ) from error
    return names
