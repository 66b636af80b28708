"""The command line.

Every command reads params.yaml, and reads and writes files at given paths. `dvc repro` runs the
commands of the study in order.
"""

from __future__ import annotations

import getpass
import io
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from ecgforge import __version__, console, folders, outputs, rounds
from ecgforge.console import shown
from ecgforge.dvc import lock
from ecgforge.errors import EcgforgeError, explained
from ecgforge.pipeline import warm

if TYPE_CHECKING:
    from ecgforge.params import Params

app = typer.Typer(
    help=(
        "Does synthetic ECG help an arrhythmia classifier on your data? `ecgforge repro` runs the "
        "study. The other commands run single stages, or use the results."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ParamsFile = Annotated[Path, typer.Option("--params", help="The parameter file.")]


Out = Annotated[
    Path | None,
    typer.Option(help="Output path [default: as in dvc.yaml]; written atomically."),
]
Real = Annotated[
    Path | None, typer.Option(help="A prepared record set [default: data/prepared/DATASET].")
]
Synthetic = Annotated[
    Path | None,
    typer.Option(help="A synthetic record set [default: data/synthetic/DATASET/GENERATOR]."),
]
Dataset = Annotated[
    str, typer.Argument(help="A dataset: ptbxl, chapman, merged, or another one in the parameters.")
]
Generator = Annotated[
    str,
    typer.Argument(
        help="A generator: diffwave, time_diffusion, time_vqvae, or another one in the parameters."
    ),
]
Tuned = Annotated[
    list[Path] | None,
    typer.Option(
        "--tuned", help="Tuned parameters [default: models/tuning/DATASET]; can be repeated."
    ),
]
PARAMS = Path("params.yaml")
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document on stdout, and all other text on stderr."),
]


def _out(command: str, given: Path | None, default: Path) -> Path:
    """Return the output path of a command after a check that it replaces no other files."""
    return outputs.of_command(command, given or default)


def _read(file: Path, given: list[Path] | None, dataset: str, *tuned: str) -> Params:
    """Read the parameters, with the tuned ones of a dataset if there are any."""
    from ecgforge.stages import parameters

    found = [folders.TUNED / dataset / f"{name}.yaml" for name in tuned]
    return parameters.read(file, given or [one for one in found if one.exists()])


INTERRUPTED = 130  # the exit code that typer uses for KeyboardInterrupt


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ecgforge {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


@app.command()
def check(params: ParamsFile = PARAMS, as_json: Json = False) -> None:
    """Validate all profiles of params.yaml, and print the active profile."""
    from ecgforge.stages import parameters

    with console.document(as_json):
        console.report(file=params, valid=False)
        found = parameters.read(params)
        for profile in found.profiles:
            parameters.read(params, profile=profile)
        _check_git()
        console.report(valid=True, profile=found.profile, profiles=list(found.profiles))
        print(
            f"{params} is valid; the active profile is '{found.profile}' of "
            f"{', '.join(found.profiles)}."
        )


@app.command()
def init(
    records: Annotated[
        Path, typer.Option(help="A folder of records, with a CSV or with labels in the headers.")
    ],
    name: Annotated[
        str, typer.Option(help="The name of the new source, dataset and profile.")
    ] = "mine",
    table: Annotated[
        str | None, typer.Option(help="The CSV in the folder, if several tables fit.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The new parameter file [default: NAME.yaml].")
    ] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Look at your own records, and write the parameters of a small study of them.

    The command prints rhythms, unknown labels, sampling rates, lengths, leads, patients, excluded
    records, and the time of the study. It changes no existing file.
    """
    from ecgforge.commands import init as stage

    stage.init(records, name, table, out, params)


@app.command()
def params(
    profile: Annotated[
        str | None, typer.Option(help="A profile other than the active one.")
    ] = None,
    file: ParamsFile = PARAMS,
) -> None:
    """Print the parameters of a profile, with its base merged and all defaults filled in."""
    import yaml

    from ecgforge.stages import parameters

    tree = parameters.resolved(parameters.read(file, profile=profile))
    print(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120), end="")


@app.command()
def plan(
    profile: Annotated[
        str | None, typer.Option(help="A profile other than the active one.")
    ] = None,
    params: ParamsFile = PARAMS,
    as_json: Json = False,
) -> None:
    """Print the number of cells of a profile, their run time on this machine, and the smallest
    gain that the study can detect.
    """
    from ecgforge.commands import plan as stage
    from ecgforge.stages import parameters

    with console.document(as_json):
        stage.show(parameters.read(params, profile=profile))


@app.command()
def matrix(params: ParamsFile = PARAMS) -> None:
    """Write matrix.yaml, the lists for dvc.yaml; run it after other `folds`, datasets or sweeps."""
    from ecgforge.params import Params
    from ecgforge.stages import matrix as lists

    file = params.with_name(lists.MATRIX.name)
    changed = lists.write(Params.read(params), file)
    print(f"{file} is {'written: commit it' if changed else 'up to date'}.")


@app.command()
def resolve(
    out: Annotated[Path, typer.Option(help="Output folder.")] = folders.RESOLVED,
    params: ParamsFile = PARAMS,
) -> None:
    """Write the dependencies of the stages: resolved parameters, and digests of their code."""
    from ecgforge.stages import resolve as stage

    stage.resolve(params, out)


@app.command()
def acquire(
    source: Annotated[str, typer.Argument(help="A key of `sources` in the parameters.")],
    out: Out = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Simulate, download or copy the raw records of a source."""
    from ecgforge.sources import registry
    from ecgforge.stages import parameters

    folder = _out("acquire", out, folders.RAW / source)
    found = parameters.of_sources(params)
    registry.acquire(found.source(source), folder, found.preprocessing.sampling_rate)


@app.command()
def prepare(
    raw: Annotated[
        list[Path],
        typer.Option(help="A raw folder, named like its source; repeat it to merge sources."),
    ],
    out: Annotated[Path, typer.Option(help="The record set; written atomically.")],
    params: ParamsFile = PARAMS,
) -> None:
    """Turn raw records into a record set with labels, splits, and a table of excluded records."""
    from ecgforge.params import Params
    from ecgforge.stages import prepare as stage

    stage.prepare(Params.read(params), raw, _out("prepare", out, out))


@app.command()
def cross_fit(
    name: Annotated[str, typer.Argument(help="A round, such as ptbxl_1of5.")],
    out: Out = None,
    prepared: Real = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Write a round of cross-fitting: the records of a dataset with other splits."""
    from ecgforge.params import Params
    from ecgforge.stages import cross_fitting

    folder = _out("cross-fit", out, folders.PREPARED / name)
    records = prepared or folders.PREPARED / rounds.base(name)
    cross_fitting.cross_fit(Params.read(params), name, records, folder)


@app.command()
def tune_classifier(
    dataset: Dataset, out: Out = None, real: Real = None, params: ParamsFile = PARAMS
) -> None:
    """Search for better parameters of the classifier, scored on validation records."""
    from ecgforge.stages import tune

    file = _out("tune-classifier", out, folders.TUNED / dataset / "classifier.yaml")
    tune.tune(params, dataset, None, real or folders.PREPARED / dataset, file)


@app.command()
def tune_generator(
    dataset: Dataset,
    generator: Generator,
    out: Out = None,
    real: Real = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Search for better parameters of a generator, scored on validation records."""
    from ecgforge.stages import tune

    file = _out("tune-generator", out, folders.TUNED / dataset / f"{generator}.yaml")
    tune.tune(params, dataset, generator, real or folders.PREPARED / dataset, file)


@app.command()
def train_generator(
    dataset: Dataset,
    generator: Generator,
    sweep: Annotated[
        str | None, typer.Option(help="A sweep that trains generators of its own, such as size.")
    ] = None,
    part: Annotated[
        str | None, typer.Option(help="A part of these generators, such as 2of5.")
    ] = None,
    out: Out = None,
    real: Real = None,
    tuned: Tuned = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Train a generator on the training split of a record set, and register it in MLflow.

    With --sweep, train the further generators of a sweep, such as those of fewer records, and do
    not register them.
    """
    from ecgforge.stages import train_generator as stage
    from ecgforge.stages import train_variations
    from ecgforge.sweeps.common import cells

    item = {"dataset": dataset, "generator": generator}
    item |= {key: one for key, one in (("sweep", sweep), ("part", part)) if one is not None}
    default = cells.variations(item) if sweep else folders.GENERATORS / dataset / generator
    folder = _out("train-generator", out, default)
    found = _read(params, tuned, dataset, generator)
    records = real or folders.PREPARED / dataset
    if sweep:
        train_variations.train(found, item, records, folder)
        return
    if part:
        raise EcgforgeError("--part is a part of a sweep: name it with --sweep")
    stage.train(found, dataset, generator, records, folder)


@app.command()
def synthesize(
    dataset: Dataset,
    generator: Generator,
    out: Out = None,
    model: Annotated[
        Path | None,
        typer.Option(help="A trained generator [default: models/generators/DATASET/GENERATOR]."),
    ] = None,
    real: Real = None,
    tuned: Tuned = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Generate a synthetic record set with a trained generator."""
    from ecgforge.stages import synthesize as stage

    folder = _out("synthesize", out, folders.SYNTHETIC / dataset / generator)
    found = _read(params, tuned, dataset, generator)
    trained = model or folders.GENERATORS / dataset / generator
    records = real or folders.PREPARED / dataset
    stage.synthesize(found, dataset, generator, trained, records, folder)


@app.command()
def train_classifier(
    dataset: Dataset,
    generator: Annotated[
        str | None,
        typer.Argument(help="The generator of the synthetic records; without one, TrRTeR only."),
    ] = None,
    models: Annotated[
        Path | None,
        typer.Option(help="Output folder of the classifiers [default: as in dvc.yaml]."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Output folder of the predictions [default: as in dvc.yaml]."),
    ] = None,
    real: Real = None,
    synthetic: Synthetic = None,
    baseline: Annotated[
        Path | None,
        typer.Option(help="The classifiers of TrRTeR [default: models/classifiers/DATASET/real]."),
    ] = None,
    tuned: Tuned = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Train and test the classifier in the settings of the study.

    Without a generator, these are TrRTeR and the baselines; with one, TrSTeR, TrRTeS, TrSTeS and
    TrRSTeR.
    """
    from ecgforge.stages import classify

    place = generator or folders.REAL
    trained = _out("train-classifier", models, folders.CLASSIFIERS / dataset / place)
    results = _out("train-classifier", out, folders.RESULTS / "classify" / dataset / place)
    found = _read(params, tuned, dataset, "classifier")
    records = real or folders.PREPARED / dataset
    if generator is None:
        classify.on_real(found, dataset, records, trained, results)
        return
    made = synthetic or folders.SYNTHETIC / dataset / generator
    of_real = baseline or folders.CLASSIFIERS / dataset / folders.REAL
    classify.on_synthetic(found, dataset, generator, records, made, of_real, trained, results)


@app.command()
def sweep(
    name: Annotated[str, typer.Argument(help="A sweep, such as mixture, transfer or size.")],
    dataset: Dataset,
    generator: Annotated[
        str | None,
        typer.Argument(help="The generator of the synthetic records, if the sweep uses one."),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="The classifier, in the sweep `backbones`.")
    ] = None,
    trained_on: Annotated[
        str | None,
        typer.Option(help="The dataset of the training records, in the sweep `cross_dataset`."),
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(help="A part of the experiments, such as 2of5; see sweep_targets.parts."),
    ] = None,
    out: Out = None,
    data: Annotated[
        Path, typer.Option(help="The folder with the record sets, in prepared/ and synthetic/.")
    ] = folders.DATA,
    models: Annotated[
        Path, typer.Option(help="The folder with the models, in generators/ and classifiers/.")
    ] = folders.MODELS,
    tuned: Tuned = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Run one cell of a sweep; `dvc stage list` lists the cells."""
    from ecgforge.stages import ablation
    from ecgforge.stages import sweep as stage
    from ecgforge.sweeps.common import cells
    from ecgforge.sweeps.common.registry import get

    given = {
        "trained_on": trained_on,
        "dataset": dataset,
        "generator": generator,
        "backbone": backbone,
        "part": part,
    }
    item = {key: value for key, value in given.items() if value is not None}
    get(name).check(item)
    results = _out("sweep", out, cells.results(name, item))
    generators = [generator] if generator and not trained_on else []
    found = _read(params, tuned, trained_on or dataset, "classifier", *generators)
    if name == "ablation":
        ablation.ablation(found, item, data, models, results)
    else:
        stage.sweep(found, name, item, data, models, results)


@app.command()
def quality(
    dataset: Dataset,
    generator: Generator,
    out: Out = None,
    real: Real = None,
    synthetic: Synthetic = None,
    classifiers: Annotated[
        Path | None,
        typer.Option(help="The classifiers of TrRTeR [default: models/classifiers/DATASET/real]."),
    ] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Compute the quality scores of synthetic records, with their real-vs-real baselines."""
    from ecgforge.params import Params
    from ecgforge.stages import quality as stage

    records = real or folders.PREPARED / dataset
    made = synthetic or folders.SYNTHETIC / dataset / generator
    trained = classifiers or folders.CLASSIFIERS / dataset / folders.REAL
    results = _out("quality", out, folders.RESULTS / "quality" / dataset / generator)
    stage.quality(Params.read(params), dataset, generator, records, made, trained, results)


@app.command()
def score(
    real: Annotated[
        Path,
        typer.Argument(help="A record set with training and test records of different patients."),
    ],
    synthetic: Annotated[
        Path, typer.Argument(help="The record set to score; its training records are scored.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="A CSV file for all scores, also by rhythm.")
    ] = None,
    params: ParamsFile = PARAMS,
    as_json: Json = False,
) -> None:
    """Compute the quality scores of any record set against a real one, without tracking.

    The scores are the same as those of the study.
    """
    from ecgforge.commands import score as stage
    from ecgforge.params import Params

    with console.document(as_json):
        stage.score(Params.read(params), real, synthetic, out)


@app.command()
def report(out: Out = None, params: ParamsFile = PARAMS) -> None:
    """Gather all results into reports/: answers, results.csv, metrics.json, plots, report.html."""
    from ecgforge.params import Params
    from ecgforge.stages import report as stage

    folder = _out("report", out, folders.REPORTS)
    stage.report(Params.read(params), folder)


Reference = Annotated[
    str,
    typer.Argument(
        help="name@alias, name/number, a run id, or a file or folder under models/ or data/."
    ),
]
Model = Annotated[str, typer.Argument(help="A registered model, such as ecg-classifier-merged.")]
Reason = Annotated[str, typer.Option(help="The reason, for the history.")]


@app.command()
def promote(
    name: Model,
    version: Annotated[str | None, typer.Option(help="The number of the version.")] = None,
    best: Annotated[
        bool,
        typer.Option(
            "--best",
            help="Select the version with the best macro-F1 on validation records, among those "
            "trained on the current data.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Evaluate the gates, and write nothing.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Promote a version that fails, and tag it as forced. Needs --reason.",
        ),
    ] = False,
    reason: Reason = "",
    params: ParamsFile = PARAMS,
    as_json: Json = False,
) -> None:
    """Check a version against the gates, and make it champion if it passes.

    A verdict and a model card are stored with the version.
    """
    from ecgforge.commands import promote as stage
    from ecgforge.stages import parameters

    with console.document(as_json):
        stage.promote(parameters.read(params), name, version, best, dry_run, force, reason)


@app.command()
def rollback(name: Model, reason: Reason = "") -> None:
    """Make the former champion champion again."""
    from ecgforge.commands import promote as stage

    _check_project()
    stage.rollback(name, reason)


@app.command()
def history(name: Model, as_json: Json = False) -> None:
    """Print the promotions of a model: person, time, version, reason and evidence of each."""
    from ecgforge.commands import promote as stage

    with console.document(as_json):
        _check_project()
        stage.show(name)


@app.command()
def lineage(
    reference: Reference,
    out: Annotated[
        Path | None, typer.Option(help="A file .mmd for the lineage as a Mermaid flowchart.")
    ] = None,
    crate: Annotated[
        Path | None,
        typer.Option(
            help="A new folder for the provenance of a version, and the verdict of its promotion, "
            "as an RO-Crate, which other programs can read."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the lineage of a model or a record set, down to the source.

    It shows the run, parameters, commit, record sets and generators.
    """
    from ecgforge.commands import lineage as stage

    with console.document(as_json):
        _check_project()
        stage.show(reference, out, crate)


@app.command()
def verify(
    references: Annotated[
        list[str] | None,
        typer.Argument(help="As for `lineage` [default: all versions with an alias]."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Recompute the digests of a lineage, and print the items that do not match or are missing."""
    from ecgforge.commands import lineage as stage

    with console.document(as_json):
        _check_project()
        stage.verify(references or [])


@app.command()
def reproduce(version: Annotated[str, typer.Argument(help="name@alias or name/number.")]) -> None:
    """Train a version again from its commit and data, and compare the weights."""
    from ecgforge.commands import reproduce as stage

    _check_project()
    stage.reproduce(version)


@app.command()
def withdraw(
    source: Annotated[
        str | None, typer.Argument(help="The source of the patients, such as ptbxl.")
    ] = None,
    patients: Annotated[
        list[str] | None, typer.Argument(metavar="PATIENT...", help="Patients of the source.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="A text file with one patient per line.")
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Only check that no version with an alias learned from them."),
    ] = False,
    params: ParamsFile = PARAMS,
) -> None:
    """Withdraw patients: exclude their records, and mark the versions that learned from them.

    The next `ecgforge repro` runs the cells that depend on their records again.
    """
    from ecgforge.commands import withdraw as stage

    if check == bool(source):
        raise EcgforgeError("name a source and its patients, or give only --check")
    if check:
        stage.check(params)
    else:
        stage.withdraw(params, source or "", patients or [], file)


@app.command()
def gc(yes: Annotated[bool, typer.Option("--yes", help="Remove the items.")] = False) -> None:
    """List items that no commit and no version with an alias needs; --yes removes them.

    These are files of DVC's cache, runs, versions and checkpoints.
    """
    from ecgforge.commands import gc as stage

    _check_project()
    stage.collect(yes)


@app.command()
def pull() -> None:
    """Fetch data, models and results of this commit from DVC's remote, so that `repro` need not run
    their stages.

    The same as `dvc pull`, with one line if there is no remote or if it lacks outputs.
    """
    from ecgforge.commands import transfer

    transfer.pull()


@app.command("export")
def export_study(
    file: Annotated[Path, typer.Argument(help="The new file; its name ends in .zip.")],
) -> None:
    """Write all runs, models, versions and histories of MLflow to one file, for another clone.

    DVC carries data and results: `dvc push` here, and `ecgforge pull` in the other clone.
    """
    from ecgforge.commands import transfer

    transfer.export(file)


@app.command("import")
def import_study(
    file: Annotated[Path, typer.Argument(help="A file that `ecgforge export` wrote.")],
) -> None:
    """Take over the runs, models, versions and histories of another clone.

    Nothing is merged: this clone must not have runs yet. Then `verify`, `promote` and `repro` work
    as in the other clone.
    """
    from ecgforge.commands import transfer

    transfer.import_(file)


@app.command()
def classify(
    records: Annotated[
        list[Path],
        typer.Argument(
            metavar="RECORD...", help="WFDB, EDF or DICOM records, or folders with them."
        ),
    ],
    model: Annotated[
        str, typer.Option(help="A classifier, as name@alias or name/number.")
    ] = "ecg-classifier-merged@champion",
    out: Annotated[Path | None, typer.Option(help="A CSV file for all probabilities.")] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="An SVG file with the first records on ECG paper, and their probabilities."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Classify records of any sampling rate and lead order with a registered classifier."""
    from ecgforge.commands import classify_records as stage

    with console.document(as_json):
        _check_project()
        stage.classify(records, model, out, plot)


@app.command()
def generate(
    model: Annotated[
        str, typer.Option(help="A generator, such as ecg-generator-diffwave-ptbxl@champion.")
    ],
    rhythm: Annotated[
        str, typer.Option(help="A rhythm that the generator has learned, such as AFIB.")
    ],
    out: Annotated[Path, typer.Option(help="A new folder; written atomically.")],
    number: Annotated[
        int, typer.Option("-n", "--number", min=1, max=1_000_000, help="Number of records.")
    ] = 1,
    seed: Annotated[
        int, typer.Option(min=0, help="Random seed: the same seed gives the same records.")
    ] = 0,
    rate: Annotated[
        float | None,
        typer.Option(help="Mean heart rate of the records, beats/min; only for Beat-Diffusion."),
    ] = None,
) -> None:
    """Generate WFDB records with a registered generator; they are marked as synthetic."""
    from ecgforge.commands import generate_records as stage

    _check_project()
    stage.generate(model, rhythm, number, seed, out, rate)


@app.command()
def publish(
    dataset: Dataset,
    generator: Generator,
    to: Annotated[
        Path | None,
        typer.Option("--to", help="A new folder [default: published/DATASET-GENERATOR]."),
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(
            "--license",
            help="Licence of the set, as a URL or an SPDX identifier such as CC-BY-4.0 [default: "
            "the licence of the source data, if ecgforge knows it].",
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Publish records of which too many are copies of training records; the data "
            "card says so.",
        ),
    ] = False,
    params: ParamsFile = PARAMS,
) -> None:
    """Write a synthetic set for readers without this project.

    The folder has WFDB files, labels, a data card, a description in Croissant format, and
    checksums. Nothing is uploaded. Records of patients are never written.
    """
    from ecgforge.commands import publish as stage
    from ecgforge.stages import parameters

    folder = to or folders.PUBLISHED / f"{dataset}-{generator}"
    stage.publish(parameters.read(params), dataset, generator, folder, force, licence)


@app.command()
def card(
    dataset: Dataset,
    out: Annotated[
        Path | None, typer.Option(help="A Markdown file [default: print the card].")
    ] = None,
) -> None:
    """Print the data card of a prepared set: sources, licences, counts and limits.

    The card has no records. For synthetic sets, `publish` writes a card; for models, `promote`.
    """
    from ecgforge.commands import publish as stage

    _check_project()
    stage.card(dataset, out)


@app.command()
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
) -> None:
    """Open MLflow's UI, and print links to charts of runs and to the registered models."""
    from ecgforge.tracking import runs, store

    store.serve(port, runs.EXPERIMENT, runs.CHARTS)


@app.command()
def repro(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            help="Stages or cells, such as report or classify@ptbxl-diffwave; without any, "
            "all of them."
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            show_default="number of GPUs in use, or else of CPU cores",
            help="Cells to run in parallel on this machine.",
        ),
    ] = None,
    on: Annotated[
        Literal["local", "ray"],
        typer.Option(
            help="Where cells run: on this machine, or on the nodes of the Ray cluster at "
            "RAY_ADDRESS (docs/how-to/cluster.md)."
        ),
    ] = "local",
    params: Annotated[
        Path,
        typer.Option(
            "--params",
            help="A parameter file with `base: params.yaml`, such as `ecgforge init` writes. Its "
            "keys are first copied into params.yaml.",
        ),
    ] = PARAMS,
) -> None:
    """Do the same as `dvc repro`, with independent cells in parallel."""
    from ecgforge.pipeline import cells
    from ecgforge.tracking import runs, store

    _check_git()
    if params != PARAMS:
        from ecgforge.stages import taken_over

        if taken_over.take_over(params, PARAMS):
            typer.echo(f"The keys of {params} were copied into {PARAMS}.", err=True)
    store.initialise()
    runs.end_killed()
    code = cells.repro(targets or [], jobs, on)
    if not code and (not targets or "report" in targets):
        _print_answers()
    if not code and not targets:
        typer.echo(
            "Report:  reports/report.html    Table: reports/results.csv    Metrics: dvc "
            "metrics show, dvc plots show"
        )
        typer.echo("Runs:    make ui    opens MLflow's UI on http://127.0.0.1:5000")
        if files := _changed_files():
            typer.echo(
                f"Keep:    git add {' '.join(files)} && git commit -m 'A study'    records which "
                "outputs belong to this commit"
            )
    raise typer.Exit(code)


@app.command()
def cell(
    name: Annotated[str, typer.Argument(help="A cell, such as classify@ptbxl-diffwave.")],
    above: Annotated[
        Path | None,
        typer.Option(
            help="A file as dvc.lock, with the entries of the cells that this one depends on; "
            "they are added to dvc.lock here."
        ),
    ] = None,
    entry: Annotated[
        Path | None, typer.Option(help="File for the cell's entry, in the form of dvc.lock.")
    ] = None,
) -> None:
    """Run one cell in a clone of its own, as a job of a scheduler.

    It pulls its inputs from DVC's remote, runs the stage, and pushes its outputs. `ecgforge repro
    --on ray` runs this on the nodes. `--above` gives it the entries of finished cells, and
    `--entry` writes its own for the cells after it.
    """
    from ecgforge.pipeline import remote

    raise typer.Exit(remote.run_alone(name, above, entry))


def _changed_files() -> list[str]:
    """Return the files of a study without a commit: its outputs belong to all of them."""
    from ecgforge.stages import matrix
    from ecgforge.tracking import store

    files = (lock.LOCK, str(matrix.MATRIX), str(PARAMS))
    return [one for one in files if store.git(Path.cwd(), "status", "--porcelain", "--", one)]


def _print_answers() -> None:
    """Print the answers of the report."""
    from ecgforge.report import answers

    for sentence in answers.sentences(folders.REPORTS / answers.NAME):
        console.out.print(sentence)


def _check_project() -> None:
    """Raise an error outside of a project; the command reads runs, and would make a database."""
    from ecgforge.tracking import store

    store.check_project()


def _check_git() -> None:
    """Raise an error if git does not work in the project.

    Runs and versions would have no commit, and no version could be promoted.
    """
    from ecgforge.tracking import store

    problem = store.git_problem()
    if problem:
        raise EcgforgeError(problem)


def main() -> None:
    """Run the command line; errors of the user or the machine print one line and exit non-zero."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # file names may have bytes that the terminal's encoding cannot show
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        getpass.getuser()
    except (KeyError, OSError):  # a container's user often has no name, but DVC and MLflow need one
        os.environ["USER"] = f"uid {os.getuid()}"
    try:
        if "DVC_STAGE" in os.environ and warm.ADDRESS not in os.environ:
            # plain `dvc` started this stage, and does not write dvc.lock atomically
            lock.keep(Path.cwd())
        code = app(standalone_mode=False, prog_name="ecgforge")
    except typer.TyperException as error:
        command = getattr(getattr(error, "ctx", None), "command_path", "ecgforge")
        _end(
            f"{error.format_message().rstrip('.')} (see '{command} --help')",
            getattr(error, "exit_code", 2),
        )
    except Exception as error:
        if os.environ.get("ECGFORGE_DEBUG"):
            raise
        _end(explained(error), 1)
    if code == INTERRUPTED:
        print(
            "ecgforge: interrupted; run it again: a training resumes from its last checkpoint",
            file=sys.stderr,
        )
    sys.exit(code)


def _end(message: str, code: int) -> NoReturn:
    print(f"ecgforge: {shown(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(code)
