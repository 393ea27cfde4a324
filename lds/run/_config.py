"""The configuration of a run: which data, which method, which values. Imports nothing heavy.

The command line is built from `TrainConfig`; files of plain values become a configuration by `make_config`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from lds._checks import meant, text_fault
from lds.errors import DataError, InputError
from lds.run._methods import BASELINES, METHOD, METHODS, EstimatorMethod, NetworkMethod, owners, parse_chosen

_KINDS = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}


# What goes with data sets that have names, too.
_OF_ALL_DATA = ("dataset", "data_root", "split", "features", "scale")


@dataclass(frozen=True)
class DataConfig:
    """The part of a run's configuration that names its data: a data set, or else the user's own file.

    Args:
        dataset: name of a data set, see `lds data list`; or else give data.
        data: file of your own data set, such as .csv, .npz, .pt or .gml, see `lds.data.read`.
        label: data in a table: column of the labels; label when not given.
        id: data in a table: column of the nodes' names, "" for none; id, where there is such a column, when not given.
        edges: data in a table: file of edges; no edges when not given.
        sep: data in a text: what separates cells, one character, tab or space; found out when not given.
        drop: data in a table: columns to leave out, separated by commas.
        one_hot: data in a table: columns of categories, separated by commas, which become columns of 0 and 1; all for
            those that hold texts.
        impute: data in a table: none, or mean, which puts the mean of a column into its gaps.
        unlabelled: data: a text that marks unlabelled nodes, beside -1 and what is missing.
        features: given, tfidf (rare words weighted more), identity (a column per node) or degree (a column for each
            number of neighbours).
        scale: none, unit (rows of length 1), standard (columns to mean 0 and deviation 1), or row (absolute values of
            a row to sum 1); when not given, standard for wine and breast_cancer, none for others.
        weights: data: refuse weights of edges other than 1, or start θ from them (initial), or drop them.
        split: which of several splits to take, where the data brings them; the first, 0, when not given.
        train_size: data without masks: nodes to train on; 10 % of the labelled ones when not given.
        val_size: data without masks: nodes for the outer objective; 10 % when not given.
        es_size: data without masks: nodes to stop early on; 10 % when not given.
        data_root: folder of the data sets that have names; $LDS_DATA_ROOT, else data/, when not given.

    Raises:
        InputError: neither dataset nor data is there, or both, or an option of data without it.
    """

    dataset: str | None = None
    data: str | None = field(default=None, kw_only=True)
    label: str | None = field(default=None, kw_only=True)
    id: str | None = field(default=None, kw_only=True)
    edges: str | None = field(default=None, kw_only=True)
    sep: str | None = field(default=None, kw_only=True)
    drop: str | None = field(default=None, kw_only=True)
    one_hot: str | None = field(default=None, kw_only=True)
    impute: Literal["none", "mean"] = field(default="none", kw_only=True)
    unlabelled: str | None = field(default=None, kw_only=True)
    features: Literal["given", "tfidf", "identity", "degree"] = field(default="given", kw_only=True)
    scale: Literal["none", "unit", "standard", "row"] | None = field(default=None, kw_only=True)
    weights: Literal["refuse", "initial", "drop"] = field(default="refuse", kw_only=True)
    split: int | None = field(default=None, kw_only=True)
    train_size: int | None = field(default=None, kw_only=True)
    val_size: int | None = field(default=None, kw_only=True)
    es_size: int | None = field(default=None, kw_only=True)
    data_root: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for part in fields(self):
            value = getattr(self, part.name)
            if isinstance(value, str) and (fault := text_fault(value)) is not None:
                raise InputError(
                    f"{part.name} must be a text that can be written, but {value!r:.80} {fault}; rename it"
                )
        if self.dataset is None and self.data is None:
            raise InputError("a run needs dataset, a name, or data, a file of your own, but neither came; give one")
        if self.data is not None:
            if self.dataset is not None:
                raise InputError(f"a run is on dataset or data, but {self.dataset} and {self.data} came; drop one")
            return
        for option in fields(DataConfig):
            if option.name not in _OF_ALL_DATA and getattr(self, option.name) != option.default:
                raise InputError(
                    f"{option.name} belongs to data, a file of your own, but dataset {self.dataset} came with it; "
                    "drop one"
                )

    @property
    def source(self) -> str:
        """What to call the data: the name of the data set, or the file."""
        return str(self.dataset if self.data is None else self.data)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class TrainConfig(DataConfig):
    """One training run.

    Its data is named by dataset, or by data and the options that go with it, see `DataConfig`.

    Args:
        method: lds (start from the given graph), knn-lds (from a kNN graph), gcn and knn-gcn (no structure learned),
            gcn-rnd (gcn with random edges added in every step of training), ffnn (the same network without a graph),
            frozen (like lds, or knn-lds where no graph is given, but θ is never updated), or auto (of ffnn, knn-gcn,
            gcn and lds or knn-lds, the one that does best on held-out folds of the labelled nodes).
        retain: share of the given edges to keep, in [0, 1].
        train_on: train, or train+val to train on the validation nodes too, as the fair control of structure learning,
            which spends their labels on θ; not for lds and knn-lds.
        candidates: pairs that θ is learned on, in place of all pairs: knn:K (the K nearest of each node), random:R (R
            random ones per node), given (the edges of the data), separated by commas; memory grows with their number.
        folds: fixed trains the weights on the training nodes and chooses θ on the validation nodes; rotating shares
            out the nodes of both anew in every outer epoch.
        refit: networks to train last, whose mean predicts: on training and validation nodes once θ is learned, or on
            the fixed graph; 0 keeps the network of the best epoch, or trains one.
        self_training: share of the nodes predicted to be of a class, the most confident first, on which these networks
            are trained once more as if that was their label; kept where it is better on the early-stopping nodes.
        score: with candidates, what the probability of an edge is a function of, moved by Adam with step size
            outer_lr: logit (its logit) or metric (a learned distance of features); itself, moved by projected gradient
            steps, when not given.
        denoising: coefficient of a self-supervised term of the outer objective: neighbours are to tell the features of
            a node.
        tau: sets interval and horizon, where these are not given.
        interval: inner steps between two updates of θ.
        horizon: steps that the sweep goes back over; may be longer than the interval.
        outer_lr: initial step size of θ.
        learn_inner_lr: learn the inner learning rate along with θ.
        inner_lr: inner learning rate.
        weight_decay: coefficient of the L2 penalty on the first layer.
        decay: where the L2 penalty applies: first (the first layer) or all (every layer).
        hidden: hidden units.
        dropout: dropout after the first layer.
        k: number of neighbours in the kNN graph.
        metric: distance of the kNN graph; tfidf is cosine with rare words weighted more, for bags of words.
        random_edges: gcn-rnd: expected number of edges added in a step, as a share of the given ones; 0.5 when not
            given.
        patience: outer epochs without improvement on the early-stopping nodes.
        max_epochs: outer epochs, at most; unlimited when not given.
        samples: graphs averaged for a prediction.
        noise: replay or resample the draws of the inner steps in the sweep.
        model: network in place of the GCN of the paper: gcn, sage, sgc or appnp of lds.nn, or your own,
            package.module:Class, made with the numbers of features and classes and called with (x, graph), or, on
            candidates, with (x, edge_index, edge_weight) as those of torch_geometric.
        init_args: further arguments of the model, e.g. "{hidden_channels: 32, num_layers: 2}".
        updater: inner updater, a name of lds.updaters such as SGD or AdamW, or package.module:Class; Adam when not
            given.
        updater_args: arguments of the updater, e.g. "{momentum: 0.9}"; lr is inner-lr when not given.
        device: where to train, such as cpu or cuda:0.
        seed: seed of the split, the deleted edges and the training.

    Example:
        >>> config = TrainConfig("wine", "knn-lds", k=20, tau=10)
        >>> config.source, config.seed
        ('wine', 0)
    """

    method: NetworkMethod = "lds"
    retain: float = 1.0
    train_on: Literal["train", "train+val"] = "train"
    candidates: str | None = None
    folds: Literal["fixed", "rotating"] = "fixed"
    refit: int = 0
    self_training: float = 0.0
    score: Literal["logit", "metric"] | None = None
    denoising: float = 0.0
    tau: int = 5
    interval: int | None = None
    horizon: int | None = None
    outer_lr: float = 1.0
    learn_inner_lr: bool = False
    inner_lr: float = 0.02
    weight_decay: float = 5e-4
    decay: Literal["first", "all"] = "first"
    hidden: int = 16
    dropout: float = 0.5
    k: int = 10
    metric: Literal["cosine", "minkowski", "tfidf"] = "cosine"
    random_edges: float | None = None
    patience: int = 20
    max_epochs: int | None = None
    samples: int = 16
    noise: Literal["replay", "resample"] = "replay"
    model: str | None = field(default=None, kw_only=True)
    init_args: str | None = field(default=None, kw_only=True)
    updater: str | None = field(default=None, kw_only=True)
    updater_args: str | None = field(default=None, kw_only=True)
    device: str = field(default="cpu", kw_only=True)
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_parts()
        if self.method not in METHODS:
            raise InputError(
                f"method must be one of {', '.join(METHODS)}, got {self.method!r}{meant(self.method, METHOD)}"
            )
        if not (math.isfinite(self.retain) and 0 <= self.retain <= 1):
            raise InputError(f"retain must lie in [0, 1], got {self.retain}")
        if self.hidden < 1:
            raise InputError(f"hidden must be at least 1, got {self.hidden}")
        if self.refit < 0:
            raise InputError(f"refit must be an integer >= 0, got {self.refit}")
        if not (math.isfinite(self.denoising) and self.denoising >= 0):
            raise InputError(f"denoising must be finite and >= 0, got {self.denoising}")
        if METHOD[self.method].learner == "choice":
            if self.train_on != "train":
                raise InputError(
                    f"{self.method} compares train with train+val, but train_on {self.train_on} came; drop it"
                )
            if self.weights == "initial":
                raise InputError(
                    f"{self.method} compares networks on the given graph as it is, but weights initial came, which are "
                    "to start θ from; drop the weights, or name a method such as lds"
                )
        if self.train_on != "train" and METHOD[self.method].learns_structure:
            raise InputError(
                f"train_on {self.train_on} belongs to methods that learn no structure, but {self.method} chooses θ by "
                "the labels of the validation nodes; drop it"
            )
        if self.score is not None and self.candidates is None:
            raise InputError(
                "score needs candidates, the pairs that it is about, but none came; give e.g. knn:20,given"
            )
        if self.candidates is not None:
            parse_candidates(self.candidates)
        _refuse_of_other_methods(self, "random_edges")

    def _check_parts(self) -> None:
        for name, arguments in (("model", "init_args"), ("updater", "updater_args")):
            path, values = getattr(self, name), getattr(self, arguments)
            if name == "model" and path is not None and path.lower() in NETWORKS:
                object.__setattr__(self, name, path.lower())
            elif path is not None and (name == "model" or ":" in path) and not _IMPORT_PATH.fullmatch(path):
                known = NETWORKS if name == "model" else ()
                advice = meant(path, known) or "; put a colon before the class"
                needed = ", ".join((*known, "or package.module:Class")) if known else "package.module:Class"
                raise InputError(f"{name} must be {needed}, got {path!r:.80}{advice}")
            if values is None:
                continue
            if path is None:
                raise InputError(f"{arguments} belongs to {name}, but {values!r:.80} came without it; name one")
            # In one form, so that the same arguments are the same run.
            text = json.dumps(parse_arguments(arguments, values), sort_keys=True, ensure_ascii=False)
            object.__setattr__(self, arguments, text)
        if self.model is not None:
            taken = NETWORKS.get(self.model, {})
            for name, default in (("hidden", TrainConfig.hidden), ("dropout", TrainConfig.dropout)):
                if getattr(self, name) == default:
                    continue
                if name not in taken:
                    takers = [network for network, options in NETWORKS.items() if name in options]
                    raise InputError(
                        f"{name} belongs to {', '.join(takers)} of the package, but model {self.model} came; give what "
                        "it takes in init_args"
                    )
                if taken[name] in parse_arguments("init_args", self.init_args):
                    raise InputError(
                        f"{name} and {taken[name]} of init_args are the same, but both came; give one of them"
                    )

    def fitted(self, chosen: str | None) -> TrainConfig:
        """Return the configuration of what a run has fitted: for auto, that of the alternative that it has chosen."""
        if METHOD[self.method].learner != "choice" or chosen is None:
            return self
        method, train_on = parse_chosen(chosen)
        return replace(self, method=cast(NetworkMethod, method), train_on=train_on)

    def without_effect(self, *, has_edges: bool) -> list[str]:
        """Return the options that were given, and that the method makes no use of on data with, or without, edges."""
        method = METHOD[self.method]
        if method.learner == "choice":
            # Of what it compares, no other makes use of more than these two.
            first, second = (
                self.fitted(name).without_effect(has_edges=has_edges)
                for name in ("knn-gcn", "lds" if has_edges else "knn-lds")
            )
            return [name for name in first if name in second]
        graph, kinds = method.initial(has_edges=has_edges), dict(parse_candidates(self.candidates or ""))
        learns = method.learner == "structure"
        unused = []
        if graph != "given" and not (learns and "given" in kinds):
            unused += ["edges", "retain"]
        if graph != "given":
            unused.append("weights")
        if graph != "knn":
            unused.append("k")
            if not (learns and "knn" in kinds):
                unused.append("metric")
        if not learns:
            unused += ["candidates", *_OF_STRUCTURES]
        if not method.learns_structure:
            unused += ["score", "denoising", "folds", "horizon", "outer_lr", "learn_inner_lr", "noise"]
        values = {option.name: option.default for option in fields(TrainConfig)}
        return [name for name in dict.fromkeys(unused) if getattr(self, name) != values[name]]


@dataclass(frozen=True)
class BaselineConfig(DataConfig):
    """One run of a baseline of scikit-learn, which sees features and labels but no edges.

    Its data is named by dataset, or by data and the options that go with it, see `DataConfig`. A hyperparameter that is
    not given has scikit-learn's default.

    Args:
        method: logreg (logistic regression), svm (support vectors, RBF kernel), random-forest, or label-propagation.
        C: inverse strength of the regularisation, > 0; logreg and svm.
        gamma: γ of the RBF kernel exp(−γ ‖x − y‖²), > 0; svm and label-propagation.
        n_neighbors: label-propagation over a kNN graph instead of the RBF kernel: its number of neighbours.
        n_estimators: number of trees; random-forest.
        max_depth: depth of a tree, at most; random-forest.
        train_on: train, or train+val to train on the validation nodes too.
        seed: seed of the split and of the random forest.

    Raises:
        InputError: an unknown method, a hyperparameter that the method does not use, or one out of range.

    Example:
        >>> BaselineConfig("iris", "svm", C=10.0).hyperparameters
        {'C': 10.0}
    """

    method: EstimatorMethod = "logreg"
    C: float | None = None
    gamma: float | None = None
    n_neighbors: int | None = None
    n_estimators: int | None = None
    max_depth: int | None = None
    train_on: Literal["train", "train+val"] = "train"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in BASELINES:
            raise InputError(f"method must be one of {', '.join(BASELINES)}, got {self.method!r}")
        for name in ("C", "gamma", "n_neighbors", "n_estimators", "max_depth"):
            _refuse_of_other_methods(self, name)
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} must be finite and > 0, got {value!r}")
        if self.gamma is not None and self.n_neighbors is not None:
            raise InputError(
                "label-propagation needs gamma (RBF kernel) or n_neighbors (kNN graph), "
                f"got gamma={self.gamma} and n_neighbors={self.n_neighbors}; drop one"
            )

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The hyperparameters that were given."""
        values = {name: getattr(self, name) for name in METHOD[self.method].hyperparameters}
        return {name: value for name, value in values.items() if value is not None}


# Of the methods that learn θ, or hold it.
_OF_STRUCTURES = (
    "tau",
    "interval",
    "horizon",
    "outer_lr",
    "learn_inner_lr",
    "patience",
    "max_epochs",
    "samples",
    "noise",
)
_CANDIDATES = ("knn", "random", "given")
# Networks of lds.nn by their short names, and the options that they take, by what they call them.
_SIZES = {"hidden": "hidden_channels", "dropout": "dropout"}
NETWORKS: Mapping[str, Mapping[str, str]] = {"gcn": _SIZES, "sage": _SIZES, "sgc": {}, "appnp": _SIZES}
_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
# Arguments of the parts that a configuration names, which files may hold as mappings.
_ARGUMENTS = ("init_args", "updater_args")
# YAML 1.1 takes a power of ten without a dot for a text.
_POWER = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


def parse_arguments(name: str, text: str | None) -> dict[str, Any]:
    """Return arguments by their names from YAML such as {hidden_channels: 32, act: elu}.

    Raises:
        InputError: the text is no mapping of names to numbers, texts and lists of these.
    """
    from lds._read import parse_yaml

    try:
        found = parse_yaml(text or "{}")
    except DataError as error:
        raise InputError(f"{name} must be YAML such as {{layers: 2}}, got {text!r:.80}: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(key, str) and key.isidentifier() for key in found):
        raise InputError(f"{name} must be names and values such as {{layers: 2}}, got {text!r:.80}; write it so")
    return {key: _plain(name, value) for key, value in found.items()}


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(name, part) for part in value]
    if isinstance(value, str) and _POWER.fullmatch(value):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{name} must hold finite numbers, got {value}; change it")
    if value is not None and not isinstance(value, bool | int | float | str):
        raise InputError(f"{name} must hold numbers, texts and lists of these, got {value!r:.80}; change it")
    return value


def parse_candidates(text: str) -> list[tuple[str, int]]:
    """Return kinds of candidate pairs and their numbers a node, 0 for the given edges.

    Raises:
        InputError: the text is none of knn:K, random:R and given, separated by commas.
    """
    found: list[tuple[str, int]] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        kind, colon, number = part.partition(":")
        whole = number.isascii() and number.isdecimal() and len(number) < 10 and int(number) > 0
        if (
            kind not in _CANDIDATES
            or kind in dict(found)
            or (bool(colon) == (kind == "given"))
            or (colon and not whole)
        ):
            raise InputError(
                "candidates must be some of knn:K, random:R and given, each once and separated by commas, got "
                f"{part!r:.80}; write e.g. knn:20,random:5,given"
            )
        found.append((kind, int(number or 0)))
    if text and not found:
        raise InputError("candidates must name some pairs, got none; write e.g. knn:20,random:5,given")
    return found


def _refuse_of_other_methods(config: TrainConfig | BaselineConfig, name: str) -> None:
    """Refuse a value of a hyperparameter that the method of the configuration does not have."""
    value = getattr(config, name)
    if value is not None and name not in METHOD[config.method].hyperparameters:
        raise InputError(f"{name} belongs to {' and '.join(owners(name))}, but {config.method} got {value!r}; drop it")


def make_config(mapping: Mapping[str, Any]) -> TrainConfig | BaselineConfig:
    """Return the configuration of a run from its fields by name; the method decides which fields there are.

    An integer will do where a number is needed.

    Raises:
        InputError: no mapping, an unknown method or field, no data, or a value of the wrong type or out of range.

    Example:
        >>> make_config({"dataset": "wine", "method": "svm", "C": 1}).C
        1.0
        >>> type(make_config({"dataset": "wine", "method": "knn-lds"})).__name__
        'TrainConfig'
    """
    if not isinstance(mapping, Mapping):
        raise InputError(f"a configuration must be fields and their values, got {mapping!r:.80}")
    method = mapping.get("method", TrainConfig.method)
    if method not in METHODS + BASELINES:
        raise InputError(
            f"method must be one of {', '.join(METHODS + BASELINES)}, got {method!r:.80}{meant(method, METHOD)}"
        )
    kind = BaselineConfig if method in BASELINES else TrainConfig
    known = {field.name: field for field in fields(kind)}
    unknown = [str(name) for name in mapping if name not in known]
    if unknown:
        raise InputError(
            f"{method} knows no {', '.join(unknown):.80}; its fields are {', '.join(known)}{meant(unknown[0], known)}"
        )
    hints = get_type_hints(kind)
    mapping = {
        name: _as_text(name, value) if name in _ARGUMENTS and isinstance(value, Mapping) else value
        for name, value in mapping.items()
    }
    return kind(**{name: _checked(name, value, hints[name]) for name, value in mapping.items()})


def _as_text(name: str, value: Mapping[Any, Any]) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must hold numbers, texts and lists of these, got {value!r:.80}; change it") from error


def _checked(name: str, value: Any, hint: Any) -> Any:
    options = get_args(hint) if get_origin(hint) in (UnionType, Union) else (hint,)
    for option in options:
        if get_origin(option) is Literal:
            if value in get_args(option):
                return value
        elif type(value) is option:
            return value
    if float in options and type(value) is int:
        return float(value)
    hint = next(option for option in options if option is not NoneType)
    needed = f"one of {', '.join(get_args(hint))}" if get_origin(hint) is Literal else _KINDS[hint]
    # YAML 1.1 reads 1e-3 as a text, since it has no dot.
    number = isinstance(value, str) and hint in (int, float)
    advice = "write it without quotes, and a power of ten as 1.0e-3" if number else "change it"
    raise InputError(f"{name} must be {needed}, got {value!r:.80}; {advice}")
