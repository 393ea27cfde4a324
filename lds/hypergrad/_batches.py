"""Minibatches: the batch of step t is a function of the seed and of t, whoever asks for it and however often.

A *source* is what a user gave, as epochs of batches that can be asked for by their place; `StepBatches` binds one to a
seed and hands the objective of every step its batch. Random access is what replay, resume and differences need, so
what can only be iterated over is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import optree
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from lds._random import BATCH, ORDER, mix, reseed
from lds._updater import Objective, PyTree
from lds.errors import InputError
from lds.hypergrad._guards import check_count

# Their order is a function of torch's generators alone.
_SAMPLERS = (BatchSampler, RandomSampler, SequentialSampler, SubsetRandomSampler, WeightedRandomSampler)
# Epochs whose order is remembered, and batches: a sweep asks for the last step again and again.
_EPOCHS, _KEPT = 2, 2
_AGAIN = "since the sweep and every check ask for a step's batch again"


@dataclass(frozen=True, eq=False)
class Batches:
    """Minibatches of tensors, or of a map-style dataset, for `batches=`.

    Of tensors, all rows of a batch are taken at once, which is many times faster than a `DataLoader`, which takes them
    one by one. Of a dataset it is `DataLoader(dataset, batch_size, shuffle)`; give a `DataLoader` itself for workers
    and samplers.

    The batch of step t is a function of the seed and of t. With `shuffle` each epoch of `len(batches)` steps has an
    order of its own.

    Args:
        data: a pytree of tensors with rows to choose from, such as `(x, y)` or `{"x": x, "index": torch.arange(n)}`, or
            a `torch.utils.data.Dataset`.
        batch_size: rows a batch.
        shuffle: whether each epoch has an order of its own; else all have that of the data.
        drop_last: whether to leave out the last batch of an epoch where it is smaller than the others.
        collate_fn: of a dataset, makes a batch of a list of samples; that of `DataLoader` when None.

    Raises:
        InputError: the batch size is no integer ≥ 1, the data are neither, are empty, or are fewer than a batch with
            `drop_last`; tensors have different numbers of rows.

    Example:
        >>> import torch
        >>> from lds.hypergrad import Batches, hypergradient
        >>> from lds.updaters import SGD
        >>> batches = Batches((torch.ones(6), torch.zeros(6)), batch_size=2)
        >>> def inner(w, theta, batch):
        ...     x, y = batch
        ...     return (w * x - y).square().mean() + theta * w**2
        >>> problem = (inner, lambda w, theta: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> hypergradient(*problem, updater=SGD(0.25), steps=3, batches=batches).grad.shape
        torch.Size([])
    """

    data: Any = field(repr=False)
    batch_size: int
    shuffle: bool = True
    drop_last: bool = False
    collate_fn: Callable[[list[Any]], Any] | None = None

    def __post_init__(self) -> None:
        check_count("batch_size", self.batch_size, least=1)
        if not isinstance(self.data, Dataset) and self.collate_fn is not None:
            raise InputError("collate_fn belongs to a dataset, got it with tensors, whose rows need none; leave it out")
        _check_some(self._source, "Batches")

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return len(self._source)

    @cached_property
    def _source(self) -> Source:
        if not isinstance(self.data, Dataset):
            return _Rows(self)
        if isinstance(self.data, IterableDataset):
            raise _iterable(self.data)
        options: dict[str, Any] = {"shuffle": self.shuffle and _length(self.data) > 0, "drop_last": self.drop_last}
        return _Loader(DataLoader(self.data, int(self.batch_size), collate_fn=self.collate_fn, **options))


class Source(Protocol):
    """Epochs of batches that can be asked for by their place."""

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        ...

    def key(self, seed: int, epoch: int, place: int) -> Any:
        """Return what `fetch` needs to know of a batch; it may seed the generators."""
        ...

    def fetch(self, key: Any) -> Any:
        """Return the batch."""
        ...

    def ahead(self, steps: Iterable[tuple[int, Any]], seed: int) -> Iterator[Any] | None:
        """Return the batches of (step, key) as workers make them, None where there are none."""
        ...


def as_source(batches: object) -> Source:
    """Return what was given for `batches=` as a source.

    Raises:
        InputError: a batch of it cannot be asked for again, or there is none.
    """
    name = type(batches).__name__
    if isinstance(batches, Batches):
        return batches._source
    source: Source
    if isinstance(batches, DataLoader):
        source = _Loader(batches)
    elif isinstance(batches, IterableDataset):
        raise _iterable(batches)
    elif isinstance(batches, Dataset):
        raise InputError(
            f"batches must say how large a batch is, got the dataset {name}; give Batches(dataset, batch_size=…) or a "
            "DataLoader"
        )
    elif isinstance(batches, Sequence) and not isinstance(batches, (str, bytes)):
        source = _Given(batches)
    else:
        if isinstance(batches, Iterator):
            what, advice = f"the iterator {name}", "give what it iterates over: the DataLoader itself, or a list"
        elif isinstance(batches, type):
            what, advice = f"the class {batches.__name__}", "make an object of it"
        elif isinstance(batches, Tensor):
            what, advice = f"a tensor of shape {tuple(batches.shape)}", "give Batches(x, batch_size=…), or x.split(…)"
        elif isinstance(batches, np.ndarray):
            what = f"an array of shape {batches.shape}"
            advice = "give Batches(torch.as_tensor(x), batch_size=…)"
        elif isinstance(batches, Mapping):
            what, advice = f"a {name}", "give Batches(data, batch_size=…), or [batch] if it is the only batch"
        else:
            what = f"a {name}"
            advice = "give a list of it, or derive its class from collections.abc.Sequence if its items are batches"
        raise InputError(f"batches must be a sequence, Batches or a DataLoader, {_AGAIN}, got {what}; {advice}")
    _check_some(source, name)
    return source


def _check_some(source: Source, name: str) -> None:
    if len(source) == 0:
        raise InputError(
            f"batches must hold a batch, but {name} has none; give data, and fewer a batch where drop_last leaves out "
            "an only one that is too small"
        )


def _iterable(data: object) -> InputError:
    return InputError(
        f"batches must be asked for by their number, {_AGAIN}, but {type(data).__name__} is an IterableDataset; give a "
        "list of its batches, such as list(itertools.islice(loader, 100)), or a map-style dataset"
    )


def _length(data: Any) -> int:
    try:
        return len(data)
    except (TypeError, NotImplementedError) as error:
        raise InputError(
            f"batches must have a known number, but {type(data).__name__} has no length; write its __len__, or give a "
            "list of batches"
        ) from error


class _Given:
    """Batches as they were given, in their order; epoch after epoch the same."""

    def __init__(self, batches: Sequence[Any]) -> None:
        self._batches = batches
        if isinstance(batches, (list, tuple)) and len(batches) > 1:  # A pair (x, y) is one batch, and no two of them.
            _check_like(_structure(batches[0]), _structure(batches[1]), 1)

    def __len__(self) -> int:
        return len(self._batches)

    def key(self, seed: int, epoch: int, place: int) -> int:
        """Return the place."""
        return place

    def fetch(self, key: int) -> Any:
        """Return the batch."""
        return self._batches[key]

    def ahead(self, steps: Iterable[tuple[int, Any]], seed: int) -> None:
        """Return None: they are there."""


class _Rows:
    """Rows of tensors."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._orders: dict[tuple[int, int], Tensor] = {}
        if isinstance(batches.data, list):
            raise InputError(
                "data must be a pytree of tensors with rows, or a torch.utils.data.Dataset, got a list, which may be "
                "of samples; give DataLoader(samples, batch_size), or a tuple of tensors"
            )
        leaves = optree.tree_leaves(batches.data)
        if not leaves or not all(isinstance(x, Tensor) and x.ndim for x in leaves):
            found = sorted({"a scalar" if isinstance(x, Tensor) else type(x).__name__ for x in leaves}) or ["nothing"]
            raise InputError(
                f"data must be a pytree of tensors with rows, or a torch.utils.data.Dataset, got {', '.join(found)}; "
                "convert arrays with torch.as_tensor"
            )
        sizes = sorted({len(x) for x in leaves})
        if len(sizes) > 1:
            raise InputError(
                f"tensors of data must have as many rows, one a sample, got {', '.join(map(str, sizes))}; give what "
                "all batches share in a closure"
            )
        self._size = sizes[0]

    def __len__(self) -> int:
        whole, rest = divmod(self._size, self._batches.batch_size)
        return whole + (rest > 0 and not self._batches.drop_last)

    def key(self, seed: int, epoch: int, place: int) -> Tensor:
        """Return the rows."""
        size = self._batches.batch_size
        return self._order(seed, epoch)[place * size : (place + 1) * size]

    def _order(self, seed: int, epoch: int) -> Tensor:
        if not self._batches.shuffle:
            seed = epoch = 0
        if (order := self._orders.get((seed, epoch))) is None:
            generator = torch.Generator().manual_seed(mix(seed, epoch, ORDER))
            shuffled = self._batches.shuffle
            order = torch.randperm(self._size, generator=generator) if shuffled else torch.arange(self._size)
            _remember(self._orders, (seed, epoch), order, _EPOCHS)
        return order

    def fetch(self, key: Tensor) -> PyTree:
        """Return the rows of all tensors."""
        return optree.tree_map(lambda x: x[key], self._batches.data)

    def ahead(self, steps: Iterable[tuple[int, Any]], seed: int) -> None:
        """Return None: they are there."""


class _Loader:
    """A loader of a map-style dataset, by its own sampler and collate_fn."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        name = type(loader).__name__
        if isinstance(loader.dataset, IterableDataset):
            raise _iterable(loader.dataset)
        own = type(loader)
        if own.__iter__ is not DataLoader.__iter__ or own._get_iterator is not DataLoader._get_iterator:
            raise InputError(
                f"batches must be asked for by their number, {_AGAIN}, but {name} makes them in an iterator of its "
                "own; give list(loader), or a DataLoader with a collate_fn"
            )
        self._loader = loader
        batched = loader.batch_sampler is not None
        self._sampler: Any = loader.batch_sampler if batched else loader.sampler
        self._fetch = _Fetch(loader.dataset, loader.collate_fn, batched)
        self._length = _length(self._sampler)
        self._orders: dict[tuple[int, int], _Order] = {}
        chain = (self._sampler, getattr(self._sampler, "sampler", None))
        found = (getattr(x, "generator", None) for x in (loader, *chain))
        self._generators = list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())
        # A list of indices has no state, and torch's samplers have none.
        self._trusted = all(x is None or type(x) in (*_SAMPLERS, list, tuple, range) for x in chain)

    def __len__(self) -> int:
        return self._length

    def key(self, seed: int, epoch: int, place: int) -> Any:
        """Return the indices of the samples, or what else the sampler gave."""
        if (order := self._orders.get((seed, epoch))) is None:
            order = _Order(self, seed, epoch)
            if not self._trusted:
                self._check_repeats(order, seed, epoch)
            _remember(self._orders, (seed, epoch), order, _EPOCHS)
        return order[place]

    def fetch(self, key: Any) -> Any:
        """Return the samples, collated."""
        return self._fetch(key)

    def ahead(self, steps: Iterable[tuple[int, Any]], seed: int) -> Iterator[Any] | None:
        """Return the batches of (step, key) as the loader's workers make them, None where it has none."""
        loader = self._loader
        if not loader.num_workers:
            return None
        return iter(
            DataLoader(
                _Seeded(self._fetch, seed),
                batch_size=None,
                sampler=steps,
                num_workers=loader.num_workers,
                collate_fn=_same,
                timeout=loader.timeout,
                worker_init_fn=loader.worker_init_fn,
                multiprocessing_context=loader.multiprocessing_context,
                prefetch_factor=loader.prefetch_factor,
            )
        )

    def start(self) -> Iterator[Any]:
        """Return the sampler's iterator."""
        return iter(self._sampler)

    def draw(self, indices: Iterator[Any], *numbers: int) -> Any:
        """Return what the sampler gives next, on generators seeded by the numbers; None at its end."""
        states = [g.get_state() for g in self._generators]
        reseed(*numbers)
        for generator in self._generators:
            generator.manual_seed(mix(*numbers))
        try:
            return next(indices, None)
        finally:
            for generator, state in zip(self._generators, states, strict=True):
                generator.set_state(state)

    def _check_repeats(self, order: _Order, seed: int, epoch: int) -> None:
        """Raise InputError unless a sampler of the user's starts the same way again."""
        if str(order[0]) != str(_Order(self, seed, epoch)[0]):
            name = type(self._sampler).__name__
            inner = getattr(self._sampler, "sampler", None)
            raise InputError(
                f"the order of batches must be a function of torch's, numpy's and random's generators, {_AGAIN}, but "
                f"{name if inner is None else type(inner).__name__} of the loader gave another one when asked again; "
                "let it draw from these, or give list(loader)"
            )


class _Order:
    """The order of one epoch, as far as it was asked for: a sampler may draw as it goes."""

    def __init__(self, loader: _Loader, seed: int, epoch: int) -> None:
        self._loader, self._numbers = loader, (seed, epoch, ORDER)
        self._indices = loader.start()
        self._found: list[Any] = []

    def __getitem__(self, place: int) -> Any:
        last = len(self._loader) - 1
        while len(self._found) <= place:
            drawn = len(self._found)
            self._found.append(self._loader.draw(self._indices, *self._numbers, drawn))
            ended = self._found[-1] is None
            if ended or (drawn == last and self._loader.draw(self._indices, *self._numbers, last + 1) is not None):
                raise InputError(
                    f"the sampler of the loader must give as many batches as it says, {last + 1}, but gave "
                    f"{drawn if ended else 'more'} in epoch {self._numbers[1]}; correct its __len__, or give "
                    "list(loader)"
                )
        return self._found[place]


@dataclass(frozen=True)
class _Fetch:
    """Makes a batch of indices, as a DataLoader does."""

    dataset: Any
    collate_fn: Callable[[Any], Any]
    batched: bool

    def __call__(self, key: Any) -> Any:
        if not self.batched:
            return self.collate_fn(self.dataset[key])
        if getattr(self.dataset, "__getitems__", None):
            return self.collate_fn(self.dataset.__getitems__(key))
        return self.collate_fn([self.dataset[i] for i in key])


@dataclass(frozen=True)
class _Seeded(Dataset[Any]):
    """What a worker runs: a batch, on generators seeded by the step as in the main process."""

    fetch: _Fetch
    seed: int

    def __getitem__(self, item: tuple[int, Any]) -> Any:
        step, key = item
        reseed(self.seed, step, BATCH)
        return self.fetch(key)


def _same(batch: Any) -> Any:
    return batch


def _remember(kept: dict[Any, Any], key: Any, value: Any, most: int) -> None:
    """Put a value into a dict of at most so many, in place of the oldest."""
    if len(kept) >= most:
        del kept[next(iter(kept))]
    kept[key] = value


class StepBatches:
    """The batches of one trajectory by step, and the inner objective with that of a step.

    Workers of a loader make the batches of the steps up to `end` ahead of the recorder. Whoever asks for another step
    than the next one gets its batch from this process; it is the same.

    Args:
        source: where they come from.
        seed: seed of their order, and of what a dataset draws.
        end: the step after the last one that is recorded.
        count: how many batches an objective is the mean over.
    """

    def __init__(self, source: Source, seed: int, end: int, count: int = 1) -> None:
        self._source, self._seed, self._end, self._count = source, seed, end, count
        self._kept: dict[int, Any] = {}
        self._structure: str | None = None
        self._workers: Iterator[Any] | None = None
        self._next: int | None = None

    def over(self, count: int) -> StepBatches:
        """Return batches whose objective is the mean over so many, of one epoch where that has as many."""
        return StepBatches(self._source, self._seed, 0, count)

    def bind(self, inner: Callable[..., Tensor], step: int, cuda: frozenset[int]) -> Objective:
        """Return the inner objective with the batch of a step; seeds the generators, so call it inside `forked`."""
        size = len(self._source)
        # A batch that comes twice would count twice: the next epoch where the rest of this one is too short.
        first = step if step % size + self._count <= size else -(-step // size) * size
        batches = [self._batch(t, cuda) for t in range(first, first + self._count)]
        tree: PyTree = batches
        leaves = optree.tree_leaves(tree)
        tensors = [x for x in leaves if isinstance(x, Tensor) and not x.is_inference()]
        if any(x.requires_grad for x in tensors):
            raise InputError(
                f"batches are constants to the hypergradient, but a tensor in that of step {step} requires grad; "
                "compute with params and outer in the inner objective, or .detach() it"
            )

        def objective(params: PyTree, outer: PyTree) -> Tensor:
            versions = [x._version for x in tensors]
            values = [inner(params, outer, batch) for batch in batches]
            if versions != [x._version for x in tensors]:
                raise InputError(
                    f"the inner objective must not write to its batch, but changed that of step {step} in place; work "
                    "on a copy, such as batch.clone()"
                )
            return values[0] if len(values) == 1 else torch.stack(values).mean()

        return objective

    def _batch(self, step: int, cuda: frozenset[int]) -> Any:
        if step not in self._kept:
            with torch.enable_grad():  # So that a dataset that computes with trainable tensors is noticed.
                batch = self._ahead(step) if step < self._end else _NONE
                if batch is _NONE:
                    key = self._key(step)
                    reseed(self._seed, step, BATCH, cuda=cuda)
                    batch = self._source.fetch(key)
            self._check(step, batch)
            _remember(self._kept, step, batch, _KEPT)
        return self._kept[step]

    def _key(self, step: int) -> Any:
        return self._source.key(self._seed, *divmod(step, len(self._source)))

    def _ahead(self, step: int) -> Any:
        """Return the batch from a worker, `_NONE` where this is not the step that they are at."""
        if self._next is None:  # The first step that anybody asks for: the recorder begins.
            self._next = step
            if step + 1 < self._end:
                steps = ((t, self._key(t)) for t in range(step, self._end))
                self._workers = self._source.ahead(steps, self._seed)
        if self._workers is None or step != self._next:
            return _NONE
        batch = next(self._workers)
        self._next += 1
        if self._next == self._end:
            self._workers = None  # Which ends them.
        return batch

    def _check(self, step: int, batch: Any) -> None:
        """Raise InputError unless a batch is like those before."""
        found = _structure(batch)
        self._structure = self._structure or found
        _check_like(self._structure, found, step)


_NONE = object()


def _check_like(needed: str, found: str, step: int) -> None:
    if found != needed:
        raise InputError(
            f"all batches must have one structure, but that of step {step} is {found}, and others are {needed}; give "
            "batches that only differ in their sizes"
        )


def _structure(batch: Any) -> str:
    """Describe what batches have in common: of a list not the length, which may be the number of samples."""
    if isinstance(batch, Tensor):
        return f"{batch.dtype}[{', '.join(':' * batch.ndim)}]"
    if isinstance(batch, Mapping):
        return f"{{{', '.join(f'{key!r}: {_structure(batch[key])}' for key in sorted(batch, key=str))}}}"
    if isinstance(batch, list):
        return f"[{', '.join(sorted(set(map(_structure, batch))))}]"
    if isinstance(batch, tuple):
        return f"({', '.join(map(_structure, batch))})"
    return type(batch).__name__
