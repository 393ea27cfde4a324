"""Where a run stands, saved now and then, so that it can go on after it was cut off.

progress.pt is for going on; failure.pt, of the same format, is for running into a failure again.
"""

from __future__ import annotations

import math
import os
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from lds._callbacks import Callback, FoldRecord
from lds._files import open_file, write_atomically
from lds._read import load_tensors, reason
from lds._signals import Interrupted, StopRequest
from lds._version import __version__
from lds.errors import DataError, InputError
from lds.learner._kept import Kept
from lds.learner._progress import Resumable
from lds.run._config import TrainConfig
from lds.run._data import fingerprint
from lds.run._environment import difference, threads, versions
from lds.run._reader import CONFIG, PROGRESS, other_field

if TYPE_CHECKING:
    from torch_geometric.data import Data

# Saving takes at most this share of the time, by the cost of the last one.
_SHARE = 0.02
# 2 had θ in another layout, and the logits of the best epoch.
_FORMAT = 3
# The member of the archive that holds the best θ, where that is large; torch reads one whose members are in its folder.
_BEST = "archive/best_theta"
_PLAIN = bool | int | float | str | None
# The part of the progress that a comparison of learners has found.
_COMPARED = "compared"


class ProgressSaver(Callback):
    """Saves where a run stands as often as a small share of its time allows, and when it is asked to stop.

    Args:
        folder: the run folder.
        config: that of the run; another one is refused when it is resumed.
        data: the data set; another one is refused, too.
        spent: seconds that earlier processes spent on the run.
        request: whether to stop.
        compared: what a comparison of learners found before, see `lds.learner.choose`; what it finds is added.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        data: Data,
        spent: float,
        request: StopRequest,
        compared: Sequence[FoldRecord] = (),
    ) -> None:
        self._path = folder / PROGRESS
        self._config = config
        self._fingerprint = fingerprint(data)
        self._spent = spent
        self._request = request
        self.compared = list(compared)
        self._began = self._due = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds spent on the run, by all its processes."""
        return self._spent + time.perf_counter() - self._began

    def on_resumable(self, dump: Callable[[], dict[str, Any]]) -> None:
        """Save if it is time; raise `Interrupted` after that if a stop was asked for.

        Raises:
            Interrupted: a stop was asked for.
            StorageError: the file cannot be written.
        """
        began = time.perf_counter()
        if began >= self._due or self._request.number is not None:
            # A learner of this package has it without copies of θ.
            self._save(dump.live() if isinstance(dump, Resumable) else dump())
            ended = time.perf_counter()
            self._due = ended + (ended - began) / _SHARE
        self.obey()

    def on_fold(self, record: FoldRecord) -> None:
        """Save what a learner did on a fold, which is little; raise `Interrupted` after that if a stop was asked for.

        Raises:
            Interrupted: a stop was asked for.
            StorageError: the file cannot be written.
        """
        self.compared.append(record)
        self._save({})
        self.obey()

    def obey(self) -> None:
        """Raise `Interrupted` if a stop was asked for.

        Raises:
            Interrupted: a stop was asked for.
        """
        if self._request.number is not None:
            raise Interrupted(self._request.number, f"lds train --resume {self._path.parent} goes on from here")

    def _save(self, progress: dict[str, Any]) -> None:
        if self.compared:
            progress = {**progress, _COMPARED: [asdict(record) for record in self.compared]}
        write_atomically(self._path, pack(self._config, self._fingerprint, self.seconds, progress))


@dataclass(frozen=True)
class _Saved:
    """What a file holds: the progress, and what its numbers depend on."""

    versions: dict[str, Any]
    threads: int
    config: dict[str, Any]
    data: str
    seconds: float
    progress: dict[str, Any]


def pack(
    config: Mapping[str, Any], data_fingerprint: str, seconds: float, progress: dict[str, Any]
) -> Callable[[BinaryIO], None]:
    """Return what writes a file that `read_progress` reads.

    θ goes from where it is to the file. torch.save needs tensors in memory: a best θ that is not there becomes a member
    of the archive by itself.
    """
    import torch

    progress, apart = dict(progress), None
    best = progress.get("best")
    if best is not None and isinstance(kept := best["theta"], Kept):
        apart = kept if kept.is_large else None
        told = {"member": _BEST, "numel": kept.numel, "dtype": str(kept.dtype).removeprefix("torch.")}
        progress["best"] = {**best, "theta": kept.tensor() if apart is None else told}
    saved = _Saved(versions(), threads(), dict(config), data_fingerprint, seconds, progress)

    def write(file: BinaryIO) -> None:
        torch.save({"format": _FORMAT, **vars(saved)}, file)
        if apart is not None:
            with zipfile.ZipFile(file, "a") as archive, archive.open(_BEST, "w", force_zip64=True) as member:
                for part in apart.parts():
                    member.write(part.cpu().numpy().data)

    return write


def _take_apart(path: Path, progress: dict[str, Any]) -> dict[str, Any]:
    """Return the progress with the best θ that is a member of the archive by itself, if there is one.

    Raises:
        DataError: it is not what it is said to be; the message is the reason alone.
        OSError: it cannot be read.
    """
    import torch

    best = progress.get("best")
    if not isinstance(best, dict) or not isinstance(told := best.get("theta"), dict):
        return progress
    dtype = {"float32": torch.float32, "float64": torch.float64}.get(str(told.get("dtype")))
    numel = told.get("numel")
    if told.get("member") != _BEST or dtype is None or type(numel) is not int:
        raise DataError("the best θ is not said to be a member of the archive")
    with os.fdopen(open_file(path, os.O_RDONLY), "rb") as file, zipfile.ZipFile(file) as archive:
        if _BEST not in archive.namelist() or archive.getinfo(_BEST).file_size != numel * dtype.itemsize:
            raise DataError("the best θ is missing, or of another size")
        with archive.open(_BEST) as member:

            def parts() -> Iterator[torch.Tensor]:
                while part := member.read(1 << 22):
                    yield torch.frombuffer(bytearray(part), dtype=dtype)

            kept = Kept(numel, dtype, torch.device("cpu"), parts())
    return {**progress, "best": {**best, "theta": kept}}


def read_progress(
    folder: Path, config: Mapping[str, Any], data: Data, name: str = PROGRESS
) -> tuple[dict[str, Any] | None, float]:
    """Return what was saved last and the seconds spent until then; None and 0 where nothing was.

    Only numbers, texts and tensors are read: a file that holds anything else runs no code.

    Raises:
        DataError: the file cannot be read, or is damaged.
        InputError: it is that of another version of a package, another number of threads, another configuration, or
            other data: the numbers that follow would be others.
    """
    path = folder / name
    again = "and the run starts anew" if name == PROGRESS else f"and lds train --resume {folder} runs into it again"
    try:
        saved = _checked(load_tensors(path))
        if saved is not None:
            saved = replace(saved, progress=_take_apart(path, saved.progress))
    except FileNotFoundError:
        return None, 0.0
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}; check the file and its rights, and try again"
        ) from error
    except DataError as error:
        raise DataError(
            f"{path} must be what a run saved, but is damaged: {reason(error)}; remove it, {again}"
        ) from error
    if saved is None:
        raise InputError(
            f"{path} was saved by another version of lds than this one, {__version__}, or remove the file, {again}"
        )
    otherwise = difference(saved.versions, saved.threads) or _other_config(saved.config, config)
    if otherwise is None and saved.data != fingerprint(data):
        otherwise = f"for other data than {folder} is resumed with; bring that data back, or give its --data-root"
    if otherwise is not None:
        raise InputError(f"{path} was saved {otherwise}, or remove the file, {again}")
    return saved.progress, saved.seconds


def take_compared(path: Path, progress: dict[str, Any] | None) -> tuple[list[FoldRecord], dict[str, Any] | None]:
    """Return what a comparison of learners has found, and the progress of what was chosen; None where there is none.

    Raises:
        DataError: it is damaged.
    """
    if progress is None or _COMPARED not in progress:
        return [], progress
    values = progress[_COMPARED]
    try:
        found = [_fold_record(value) for value in values]
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{path / PROGRESS} must be what a run saved, but is damaged: what was compared is no list of folds; "
            "remove it, and the run starts anew"
        ) from error
    return found, {name: value for name, value in progress.items() if name != _COMPARED} or None


def _fold_record(value: Any) -> FoldRecord:
    record = FoldRecord(**value)
    columns = (record.nodes, record.losses, record.right)
    if not all(isinstance(column, tuple | list) and len(column) == len(record.nodes) for column in columns):
        raise TypeError
    if not all(isinstance(loss, float) and math.isfinite(loss) for loss in record.losses):
        raise TypeError
    if type(record.learner) is not str or type(record.fold) is not int or type(record.folds) is not int:
        raise TypeError
    return replace(
        record,
        nodes=tuple(map(int, record.nodes)),
        losses=tuple(record.losses),
        right=tuple(map(bool, record.right)),
    )


def _checked(values: Any) -> _Saved | None:
    """Return what a file holds, if its parts are of the right types; None where it is of another format.

    Raises:
        DataError: a part is missing, or of another type; the message is the reason alone.
    """
    if not isinstance(values, dict) or type(values.get("format")) is not int:
        raise DataError("it does not say its format")
    if values["format"] != _FORMAT:  # Files of another format hold other things.
        return None
    kinds = {"versions": dict, "threads": int, "config": dict, "data": str, "seconds": float, "progress": dict}
    for part, kind in kinds.items():
        if type(values.get(part)) is not kind:
            raise DataError(f"{part} is no {kind.__name__}")
    for part in ("versions", "config"):
        if not all(isinstance(value, _PLAIN) for value in values[part].values()):
            raise DataError(f"{part} holds more than numbers and texts")
    return _Saved(**{part: values[part] for part in kinds})


def _other_config(saved: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    """Return the first field in which the configurations differ, and what to do; None where there is none."""
    # A field that a later version added had its default.
    then = {field.name: field.default for field in fields(TrainConfig)} if config.keys() > saved.keys() else {}
    if (difference := other_field({**then, **saved}, config)) is None:
        return None
    field, then, now = difference
    return f"with {field:.80} {then!r:.80}, but {CONFIG} says {now!r:.80}; put it back"
