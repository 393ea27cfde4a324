"""`lds train`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

from jsonargparse import Namespace

from lds._signals import Interrupted
from lds.cli._parser import ConfigFile, Parser
from lds.errors import InputError
from lds.run import BaselineConfig, TrainConfig, replay_failure, resume, train
from lds.run._reader import CONFIG, PROGRESS, RESULT, read_config


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = Parser(description="Train one model and write a run folder, or go on with a run that was cut off.")
    parser.add_argument("--config", action=ConfigFile, help="YAML file with any of the options below")
    parser.add_class_arguments(TrainConfig, as_group=False)
    parser.add_argument("--out", type=str, default=None, help="folder of the run; must be new or empty")
    parser.add_argument(
        "--resume",
        type=str,
        default=None,
        help="folder of a run to go on with, as it is configured; --data-root says where its data lies now",
    )
    parser.add_argument(
        "--replay-failure",
        type=str,
        default=None,
        help="folder of a run that ended on NaN or infinity: run into it again",
    )
    parser.add_argument(
        "--log",
        type=Literal["tensorboard"] | None,
        default=None,
        help="tensorboard: write event files too; a run that is resumed goes on with them",
    )
    parser.add_argument("--progress", type=bool, default=True, help="show a progress bar")
    commands.add_subcommand("train", parser)


def run(options: Namespace) -> int:
    """Train, print the test accuracy, return the exit code."""
    values: dict[str, Any] = options.as_dict()
    values.pop("config")
    progress, folder, out = values.pop("progress"), values.pop("resume"), values.pop("out")
    failed, log = values.pop("replay_failure"), values.pop("log")
    if failed is not None:
        _check_alone("--replay-failure", failed, values, resume=folder, out=out, log=log)
        print(replay_failure(Path(failed), config=_moved(failed, values["data_root"])))
        return 0
    if folder is not None:
        _check_alone("--resume", folder, values, out=out, log=log)
        out = folder
        with _what_is_saved(Path(out)):
            result = resume(Path(folder), config=_moved(folder, values["data_root"]), progress=progress)
    else:
        source = values["dataset"] if values["data"] is None else values["data"]
        for name, value in (("--dataset or --data", source), ("--out", out)):
            if value is None:
                raise InputError(f"{name} is needed, or --resume with the folder of a run")
        with _what_is_saved(Path(out)):
            result = train(TrainConfig(**values), Path(out), progress=progress, log=log)
    print(f"test accuracy {result['test_accuracy']:.4f} after {result['outer_epochs']} outer epochs; run folder {out}")
    return 0


@contextmanager
def _what_is_saved(out: Path) -> Iterator[None]:
    """Have a stop say what there is to go on with."""
    try:
        yield
    except Interrupted as stop:
        if (out / RESULT).exists():
            hint = f"the run in {out} has ended"
        elif (out / PROGRESS).exists():
            hint = f"lds train --resume {out} goes on from here"
        else:
            hint = "nothing was saved"
            if (out / CONFIG).exists():
                hint += f"; lds train --resume {out} starts anew"
        raise Interrupted(stop.number, hint) from None


def _moved(folder: str, data_root: str | None) -> TrainConfig | BaselineConfig | None:
    """Return the configuration of a run whose data lies elsewhere; None where nobody said so."""
    return None if data_root is None else replace(read_config(Path(folder)), data_root=data_root)


def _check_alone(option: str, folder: str, values: dict[str, Any], **others: str | None) -> None:
    options = [field for field in fields(TrainConfig) if field.name != "data_root"]
    given = [field.name for field in options if values[field.name] not in (field.default, None)]
    given += [name for name, value in others.items() if value is not None]
    if given:
        name = given[0].replace("_", "-")
        raise InputError(f"{option} takes everything from {folder}, but --{name} came with it; drop one of them")
