"""What a page says about a run, a sweep or an ablation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lds.errors import InputError
from lds.report._ablation import Ablation
from lds.report._ablation_figures import accuracy_figure, cost_figures, fidelity_figures
from lds.report._blocks import Block, Facts, Part, Pictures, Section, Table, Text
from lds.report._curves import curves, sweep_curves
from lds.report._histograms import structure_blocks
from lds.report._neighbourhood import neighbourhood
from lds.report._numbers import count, mebibytes, percent, seconds, value
from lds.report._run import Run, source
from lds.report._structure import Known, Learned, known, learned
from lds.report._sweep import Sweep
from lds.report._tables import (
    ablation_table,
    accuracy_tables,
    config_tables,
    cost_table,
    failures,
    run_table,
    version_table,
)


@dataclass(frozen=True)
class Options:
    """What the caller wants.

    Attributes:
        node: whose neighbourhood to show; chosen when None.
        data_root: folder of the data sets; that of the run when None.
    """

    node: int | None
    data_root: str | None


def run_section(run: Run, name: str, options: Options) -> Section:
    """Return the section of one run."""
    assert run.path is not None
    graph = learned(run.path)
    facts = None if graph is None else known(run, options.data_root, graph.num_nodes)
    initial = facts.initial.shape[1] if isinstance(facts, Known) else None
    section = Section(f"{run.setting} on {run.dataset}, seed {run.seed}", f"Run in {_shown(run.path)}")
    section.parts.append(Part("", [_run_facts(run)]))
    section.parts.append(Part("Configuration", config_tables(run.config)))
    section.parts.append(Part("Learning curves", curves(run, name, initial)))
    section.parts.extend(_structure(run, graph, facts, name, options))
    if run.result is not None:
        section.parts.append(Part("Costs", [cost_table([run])]))
        section.parts.append(Part("Versions", [version_table([run])]))
    return section


def sweep_section(sweep: Sweep, name: str, options: Options) -> Section:
    """Return the section of a sweep."""
    section = Section(f"Sweep: {sweep.path.resolve().name}", f"Sweep in {_shown(sweep.path)}")
    section.parts.append(Part("", [_sweep_facts(sweep), *_unfinished(sweep)]))
    section.parts.extend(_sweep_parts(sweep, name, options))
    return section


def ablation_section(ablation: Ablation, name: str, options: Options) -> Section:
    """Return the section of an ablation."""
    config = ablation.config
    dataset = f" on {source(config)}" if source(config) is not None else ""
    section = Section(f"Ablation of the horizon{dataset}", f"Ablation in {_shown(ablation.path)}")
    section.parts.append(Part("", _recommendation(ablation)))
    if config:
        rows = [[field, value(thing)] for field, thing in config.items()]
        section.parts.append(Part("Configuration", [Table("Values", ("field", "value"), rows)]))
    section.parts.append(Part("Accuracy", _accuracy_by_horizon(ablation, name)))
    fidelity: list[Block] = [Text("There is no fidelity.csv: no trajectory has been swept yet, or all have failed.")]
    if ablation.fidelity:
        fidelity = [
            Text("The hypergradient truncated at each depth, next to that of the full sweep."),
            Pictures(fidelity_figures(ablation.fidelity, name)),
        ]
    section.parts.append(Part("Fidelity", fidelity))
    if ablation.runs:
        section.parts.append(Part("Costs by horizon", [Pictures(cost_figures(ablation.runs, name))]))
    if ablation.sweep is not None:
        section.parts.extend(_sweep_parts(ablation.sweep, name, options, accuracy=False))
    return section


def comparison_section(runs: Sequence[Run]) -> Section:
    """Return the section that compares the runs of several folders."""
    section = Section("Comparison", f"{len(runs)} runs that have ended, of all folders")
    once = list({run.key: run for run in runs}.values())
    blocks: list[Block] = [*accuracy_tables(once), run_table(once, folded=len(once) > 12)]
    if len(once) < len(runs):
        blocks.insert(0, Text("Of runs of the same configuration, only the last counts."))
    section.parts.append(Part("", blocks))
    return section


def _shown(folder: Path) -> str:
    """Return the path from here where there is one: a page that is passed on need not say more."""
    here = Path.cwd()
    return str(folder.resolve().relative_to(here) if folder.resolve().is_relative_to(here) else folder)


def _run_facts(run: Run) -> Facts | Text:
    if run.result is None:
        return Text(f"In progress, or cut off: {len(run.epochs)} outer epochs have ended, and there is no result yet.")
    best = run.best
    epochs = count(run.figure("outer_epochs")) + (f" (best {best.epoch:.0f})" if best else "")
    facts = [
        ("test accuracy", percent(run.figure("test_accuracy"))),
        ("ES accuracy", percent(run.figure("es_accuracy"))),
        ("outer epochs", epochs),
        ("time", seconds(run.figure("seconds"))),
        ("peak memory", mebibytes(run.figure("peak_rss_mb"))),
    ]
    return Facts(facts)


def _sweep_facts(sweep: Sweep) -> Facts:
    return Facts(
        [
            ("runs done", str(len(sweep.done))),
            ("failed", str(len(sweep.failed))),
            ("in progress", str(len(sweep.in_progress))),
        ]
    )


def _unfinished(sweep: Sweep) -> list[Block]:
    text = []
    if sweep.in_progress:
        names = ", ".join(run.path.name for run in sweep.in_progress if run.path is not None)
        text.append(f"In progress, or cut off: {names}.")
    if sweep.torn:
        text.append("The last line of results.jsonl was being written, and is left out.")
    return [Text(" ".join(text))] if text else []


def _sweep_parts(sweep: Sweep, name: str, options: Options, *, accuracy: bool = True) -> list[Part]:
    parts = []
    if sweep.done and accuracy:
        parts.append(Part("Accuracy", list(accuracy_tables(sweep.done))))
    parts.append(Part("Learning curves", sweep_curves(sweep.folders, name)))
    chosen = _representative(sweep.folders)
    if chosen is not None:
        assert chosen.path is not None
        graph = learned(chosen.path)
        facts = None if graph is None else known(chosen, options.data_root, graph.num_nodes)
        shown = _structure(chosen, graph, facts, name, options)
        why = f"Of the run with the best ES accuracy, {chosen.setting} on {chosen.dataset}, seed {chosen.seed}."
        parts.extend(Part(part.heading, [Text(why), *part.blocks]) for part in shown)
    if sweep.done:
        parts.append(Part("Runs and costs", [cost_table(sweep.done), run_table(sweep.done, folded=True)]))
    parts.append(Part("Failures", failures(sweep.failed)))
    parts.append(Part("Versions", [version_table(sweep.done)]))
    return parts


def _representative(runs: Sequence[Run]) -> Run | None:
    """Return the run that learned a structure and has the best ES accuracy; the test accuracy must not choose."""
    learning = [run for run in runs if run.figure("outer_steps") and run.path and (run.path / "graph.npz").exists()]
    return max(learning, key=lambda run: run.figure("es_accuracy") or 0, default=None)


def _structure(run: Run, graph: Learned | None, facts: Known | str | None, name: str, options: Options) -> list[Part]:
    if graph is None or graph.pairs.size == 0:
        if run.result is None:
            why = "The learned structure is saved when the run ends."
        elif not run.epochs or run.method == "ffnn":
            why = "This method uses no graph."
        elif graph is None:
            why = "The learned structure is not in the folder: graph.npz is missing."
        else:
            why = "No pair of nodes has an edge probability above 0.01."
        return [Part("Learned structure", [Text(why)])]
    blocks: list[Block]
    if isinstance(facts, Known):
        blocks = structure_blocks(graph, facts, name)
    else:
        if run.config.get("data") is None:
            advice = "Name its folder with --data-root."
        else:
            advice = "Put the file back, or write the report where the run was started: its path may begin there."
        blocks = [
            Text(f"Classes and initial edges are not shown, since the data set cannot be loaded: {facts}. {advice}")
        ]
    try:
        near = neighbourhood(graph, facts if isinstance(facts, Known) else None, options.node, f"{name}-node")
    except InputError as error:
        raise InputError(f"{run.path}: {error}; choose another --node") from None
    return [Part("Learned structure", blocks), Part("Learned neighbourhood", near)]


def _recommendation(ablation: Ablation) -> list[Block]:
    found = ablation.recommendation
    if found is None:
        return [Text("No run has ended well so far: there is no recommendation yet.")]
    facts = Facts([("recommended horizon", str(found.get("horizon"))), ("runs", str(len(ablation.runs)))])
    return [facts, Text(f"Reason: {found.get('reason')}")]


def _accuracy_by_horizon(ablation: Ablation, name: str) -> list[Block]:
    if not ablation.runs:
        return [Text("ablation.csv holds no run yet.")]
    tests: dict[str, dict[int, float]] = {}
    es: dict[str, dict[int, float]] = {}
    for row in sorted(ablation.runs, key=lambda row: row["horizon"]):
        horizon = f"{row['horizon']:g}"
        tests.setdefault(horizon, {})[int(row["seed"])] = row["test_accuracy"]
        es.setdefault(horizon, {})[int(row["seed"])] = row["es_accuracy"]
    full = list(tests)[-1]
    return [Pictures([accuracy_figure(ablation.runs, name)]), ablation_table(tests, es, full)]


def section(folder: Run | Sweep | Ablation, name: str, options: Options) -> Section:
    """Return the section of a folder; `name` is the prefix of the ids in it."""
    if isinstance(folder, Run):
        return run_section(folder, name, options)
    if isinstance(folder, Sweep):
        return sweep_section(folder, name, options)
    return ablation_section(folder, name, options)


def runs_of(folder: Run | Sweep | Ablation) -> list[Run]:
    """Return the runs of a folder that have ended, to be compared with those of others."""
    if isinstance(folder, Run):
        return [folder] if folder.result is not None else []
    if isinstance(folder, Sweep):
        return list(folder.done)
    return list(folder.sweep.done) if folder.sweep is not None else []


def title_of(path: Path, count_of_all: int) -> str:
    """Return the title of the page."""
    return f"Report of {path.name}" if count_of_all == 1 else f"Report of {count_of_all} folders"
