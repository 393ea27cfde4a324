"""What a page says about a run, a grid of runs or an ablation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lds.ablate._ablation import ROWS
from lds.ablate._ablation_folder import CONFIG as ABLATION
from lds.ablate._ablation_folder import AblationFolder, read_ablation
from lds.errors import InputError
from lds.report._adjacency import adjacency_figures
from lds.report._confusion import confusion
from lds.report._explorer import explorer
from lds.report._figures import (
    cost_figures,
    curves,
    fidelity_figures,
    grid_curves,
    overlaid,
    score_figure,
    settings_figure,
)
from lds.report._learned_graph import Known, known, structure_blocks
from lds.report._neighbourhood import Names, neighbourhood
from lds.report._numbers import count, mebibytes, percent, seconds, sentence, value
from lds.report._page import Block, Facts, Part, Pictures, Section, Table, Text
from lds.report._tables import (
    ablation_table,
    accuracies,
    accuracy_tables,
    choice_blocks,
    config_tables,
    cost_table,
    differences,
    failures,
    run_table,
    version_table,
)
from lds.run._methods import method_of
from lds.run._reader import (
    CONFIG,
    GRAPH,
    Run,
    SavedGraph,
    read_class_names,
    read_graph,
    read_node_names,
    read_run,
    source,
)
from lds.sweep._grid_folder import GridFolder, read_grid
from lds.sweep._ledger import LEDGER

Folder = Run | GridFolder | AblationFolder


@dataclass(frozen=True)
class Options:
    """What the caller wants.

    Attributes:
        node: whose neighbourhood to show, by number or name; chosen when None.
        data_root: folder of the data sets; that of the run when None.
    """

    node: int | str | None
    data_root: str | None


def run_section(run: Run, name: str, options: Options) -> Section:
    """Return the section of one run."""
    assert run.path is not None
    graph, facts = _graph(run, options)
    initial = facts.initial.shape[1] if isinstance(facts, Known) else None
    section = Section(f"{run.setting} on {run.dataset}, seed {run.seed}", f"Run in {_shown(run.path)}")
    section.parts.append(Part("", [_run_facts(run)]))
    if chosen := choice_blocks(run):
        section.parts.append(Part("Choice", chosen))
    section.parts.append(Part("Configuration", config_tables(run.config)))
    section.parts.append(Part("Learning curves", curves(run, name, initial)))
    if run.result is not None:
        section.parts.append(Part("Classes", confusion(run.path, f"{name}-confusion", read_class_names(run.path))))
    section.parts.extend(_structure(run, graph, facts, name, options))
    if run.result is not None:
        section.parts.append(Part("Costs", [cost_table([run])]))
        section.parts.append(Part("Versions", [version_table([run])]))
    return section


def grid_section(grid: GridFolder, name: str, options: Options) -> Section:
    """Return the section of a grid of runs."""
    section = Section(f"Sweep: {grid.path.resolve().name}", f"Sweep in {_shown(grid.path)}")
    section.parts.append(Part("", [_grid_facts(grid), *_unfinished(grid)]))
    section.parts.extend(_grid_parts(grid, name, options))
    return section


def ablation_section(ablation: AblationFolder, name: str, options: Options) -> Section:
    """Return the section of an ablation."""
    config = ablation.config
    dataset = f" on {source(config)}" if source(config) is not None else ""
    section = Section(f"Ablation of the horizon{dataset}", f"Ablation in {_shown(ablation.path)}")
    section.parts.append(Part("", _recommendation(ablation)))
    if config:
        rows = [[field, value(thing)] for field, thing in config.items()]
        section.parts.append(Part("Configuration", [Table("Values", ("field", "value"), rows)]))
    section.parts.append(Part(sentence(ablation.outcome.score), _score_by_horizon(ablation, name)))
    fidelity: list[Block] = [Text("There is no fidelity.csv: no trajectory has been swept yet, or all have failed.")]
    if ablation.outcome.curve is not None:
        fidelity = [
            Text("The hypergradient truncated at each depth, next to that of the full sweep."),
            Pictures(fidelity_figures(ablation.outcome.curve, name)),
        ]
    section.parts.append(Part("Fidelity", fidelity))
    if ablation.outcome.rows:
        section.parts.append(Part("Costs by horizon", [Pictures(cost_figures(ablation.outcome.rows, name))]))
    if ablation.grid is not None:
        section.parts.extend(_grid_parts(ablation.grid, name, options, accuracy=False))
    return section


def comparison_section(folders: Sequence[Folder], name: str) -> Section:
    """Return the section that compares what several folders hold: curves over one another, accuracies, settings."""
    ended = [run for folder in folders for run in runs_of(folder)]
    section = Section("Comparison", f"{len(ended)} runs that have ended, of all folders")
    single = {_called(folder): folder for folder in folders if isinstance(folder, Run)}
    once = list({run.key: run for run in ended}.values())
    blocks: list[Block] = []
    if len(once) < len(ended):
        blocks.append(Text("Of runs of the same configuration, only the last counts."))
    if len(once) > 1:
        blocks += [*accuracy_tables(once), run_table(once, folded=len(once) > 12)]
    if blocks:
        section.parts.append(Part("", blocks))
    if curves_of := overlaid(single, name):
        section.parts.append(Part("Learning curves", curves_of))
    if len(single) > 1 and (differing := differences(single)):
        section.parts.append(Part("Settings", list(differing)))
    return section


def score_tables(folders: Sequence[Folder]) -> list[Table]:
    """Return the tables of scores: by horizon of ablations, by setting of all other runs together."""
    tables = [ablation_table(f.outcome) for f in folders if isinstance(f, AblationFolder) and f.outcome.rows]
    others = [run for folder in folders if not isinstance(folder, AblationFolder) for run in runs_of(folder)]
    return tables + accuracy_tables(list({run.key: run for run in others}.values()))


def _called(run: Run) -> str:
    assert run.path is not None
    return run.path.resolve().name


def _shown(folder: Path) -> str:
    """Return the path from here where there is one: a page that is passed on need not say more."""
    here = Path.cwd()
    return str(folder.resolve().relative_to(here) if folder.resolve().is_relative_to(here) else folder)


def _run_facts(run: Run) -> Facts | Text:
    if run.result is None:
        return Text(f"In progress, or cut off: {len(run.epochs)} outer epochs have ended, and there is no result yet.")
    best = run.best
    epochs = count(run.figure("outer_epochs")) + (f" (best {best.epoch})" if best else "")
    facts = [
        ("test accuracy", percent(run.figure("test_accuracy"))),
        ("ES accuracy", percent(run.figure("es_accuracy"))),
        ("outer epochs", epochs),
        ("time", seconds(run.figure("seconds"))),
        ("peak memory", mebibytes(run.figure("peak_rss_mb"))),
    ]
    return Facts(facts)


def _grid_facts(grid: GridFolder) -> Facts:
    return Facts(
        [
            ("runs done", str(len(grid.done))),
            ("failed", str(len(grid.failed))),
            ("in progress", str(len(grid.in_progress))),
        ]
    )


def _unfinished(grid: GridFolder) -> list[Block]:
    text = []
    if grid.in_progress:
        names = ", ".join(run.path.name for run in grid.in_progress if run.path is not None)
        text.append(f"In progress, or cut off: {names}.")
    if grid.torn:
        text.append("The last line of results.jsonl was being written, and is left out.")
    return [Text(" ".join(text))] if text else []


def _grid_parts(grid: GridFolder, name: str, options: Options, *, accuracy: bool = True) -> list[Part]:
    parts = []
    if grid.done and accuracy:
        pictures = [
            settings_figure(dataset, tests, f"{name}-accuracy-{number}")
            for number, (dataset, tests) in enumerate(accuracies(grid.done).items())
            if any(tests.values())
        ]
        parts.append(Part("Accuracy", [Pictures(pictures), *accuracy_tables(grid.done)]))
    parts.append(Part("Learning curves", grid_curves(grid.folders, name)))
    chosen = _representative(grid.folders)
    if chosen is not None:
        shown = _structure(chosen, *_graph(chosen, options), name, options)
        why = f"Of the run with the best ES accuracy, {chosen.setting} on {chosen.dataset}, seed {chosen.seed}."
        assert chosen.path is not None
        classes = confusion(chosen.path, f"{name}-confusion", read_class_names(chosen.path))
        shown.insert(0, Part("Classes", classes))
        parts.extend(Part(part.heading, [Text(why), *part.blocks]) for part in shown)
    if grid.done:
        parts.append(Part("Runs and costs", [cost_table(grid.done), run_table(grid.done, folded=True)]))
    parts.append(Part("Failures", failures(grid.failed)))
    parts.append(Part("Versions", [version_table(grid.done)]))
    return parts


def _representative(runs: Sequence[Run]) -> Run | None:
    """Return the run that learned a structure and has the best ES accuracy; the test accuracy must not choose."""
    learning = [run for run in runs if run.figure("outer_steps") and run.path and (run.path / GRAPH).exists()]
    return max(learning, key=lambda run: run.figure("es_accuracy") or 0, default=None)


def _graph(run: Run, options: Options) -> tuple[SavedGraph | None, Known | str | None]:
    """Return what a run has learned, and what its data set says about the nodes or why that is not to be had."""
    graph = None if run.path is None else read_graph(run.path)
    return graph, None if graph is None else known(run, options.data_root, graph.num_nodes)


def _structure(
    run: Run, graph: SavedGraph | None, facts: Known | str | None, name: str, options: Options
) -> list[Part]:
    if graph is None or graph.pairs.size == 0:
        method = method_of(run.method, run.result)
        if run.result is None:
            why = "The learned structure is saved when the run ends."
        elif method is not None and not method.uses_graph:
            why = "This method uses no graph."
            if method.name != run.method:
                why = f"{method.name}, which was chosen, uses no graph."
        elif graph is None:
            why = "The learned structure is not in the folder: graph.npz is missing."
        else:
            why = "No pair of nodes has an edge probability above 0.01."
        return [Part("Learned structure", [Text(why)])]
    assert run.path is not None  # As there is a graph.
    names = Names(read_node_names(run.path, graph.num_nodes), read_class_names(run.path))
    blocks: list[Block]
    if isinstance(facts, Known):
        pictures = adjacency_figures(graph, facts, name, names)
        blocks = [*structure_blocks(graph, facts, name), Pictures(pictures)]
    else:
        if run.config.get("data") is None:
            advice = "Name its folder with --data-root."
        else:
            advice = "Put the file back, or write the report where the run was started: its path may begin there."
        blocks = [
            Text(f"Classes and initial edges are not shown, since the data set cannot be loaded: {facts}. {advice}")
        ]
    sure = facts if isinstance(facts, Known) else None
    try:
        start, near = neighbourhood(graph, sure, options.node, f"{name}-node", names)
    except InputError as error:
        raise InputError(f"{run.path}: {error}; choose another --node") from None
    near.append(explorer(graph, sure, start, f"{name}-explorer", names))
    return [Part("Learned structure", blocks), Part("Learned neighbourhood", near)]


def _recommendation(ablation: AblationFolder) -> list[Block]:
    found = ablation.recommendation
    if found is None:
        return [Text("No run has ended well so far: there is no recommendation yet.")]
    facts = Facts([("recommended horizon", str(found.get("horizon"))), ("runs", str(len(ablation.outcome.rows)))])
    return [facts, Text(f"Reason: {found.get('reason')}")]


def _score_by_horizon(ablation: AblationFolder, name: str) -> list[Block]:
    if not ablation.outcome.rows:
        return [Text("ablation.csv holds no run yet.")]
    return [Pictures([score_figure(ablation.outcome, name)]), ablation_table(ablation.outcome)]


def read_folder(path: Path) -> Folder:
    """Read a folder as what its files say that it is.

    Raises:
        InputError: there is no such folder, or its files say nothing.
        DataError: a file is malformed.
    """
    try:
        is_folder = path.is_dir()
    except OSError as error:
        raise InputError(f"{path} must be a folder of a run, a sweep or an ablation, but {error.strerror}") from error
    if not is_folder:
        came = "a file" if path.exists() else "nothing"
        raise InputError(f"{path} must be a folder of a run, a sweep or an ablation, but {came} is there")
    if (path / ROWS).exists() or (path / ABLATION).exists():
        return read_ablation(path)
    if (path / LEDGER).exists():
        return read_grid(path)
    if (path / CONFIG).exists():
        return read_run(path)
    raise InputError(
        f"{path} must hold a run (config.yaml), a sweep (results.jsonl) or an ablation (ablation.csv), "
        "but holds none of these; name the folder that was given as --out"
    )


def section(folder: Folder, name: str, options: Options) -> Section:
    """Return the section of a folder; `name` is the prefix of the ids in it."""
    if isinstance(folder, Run):
        return run_section(folder, name, options)
    if isinstance(folder, GridFolder):
        return grid_section(folder, name, options)
    return ablation_section(folder, name, options)


def runs_of(folder: Folder) -> list[Run]:
    """Return the runs of a folder that have ended, to be compared with those of others."""
    if isinstance(folder, Run):
        return [folder] if folder.result is not None else []
    if isinstance(folder, GridFolder):
        return list(folder.done)
    return list(folder.grid.done) if folder.grid is not None else []


def title_of(path: Path, count_of_all: int) -> str:
    """Return the title of the page."""
    return f"Report of {path.name}" if count_of_all == 1 else f"Report of {count_of_all} folders"
