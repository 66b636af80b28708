"""What a person types.

Every command reads params.yaml, takes paths and writes paths; `dvc repro` starts them in their
order.
"""

from __future__ import annotations

import getpass
import io
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from ecgforge import __version__, folders, outputs
from ecgforge.console import shown
from ecgforge.dvc import lock
from ecgforge.errors import EcgforgeError, explained
from ecgforge.pipeline import warm

if TYPE_CHECKING:
    from ecgforge.params import Params

app = typer.Typer(
    help=(
        "Does synthetic ECG help an arrhythmia classifier, on your data? `dvc repro` runs the "
        "study; these are its stages."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ParamsFile = Annotated[
    Path, typer.Option("--params", help="The parameters; the only source of them.")
]


Out = Annotated[
    Path | None,
    typer.Option(help="Where to write [default: as in dvc.yaml]; it appears whole or not at all."),
]
Real = Annotated[
    Path | None, typer.Option(help="A prepared record set [default: data/prepared/DATASET].")
]
Synthetic = Annotated[
    Path | None,
    typer.Option(help="A synthetic record set [default: data/synthetic/DATASET/GENERATOR]."),
]
Dataset = Annotated[
    str, typer.Argument(help="ptbxl, chapman, merged, or another name listed in the parameters.")
]
Generator = Annotated[
    str,
    typer.Argument(
        help="diffwave, time_diffusion, time_vqvae, or another one listed in the parameters."
    ),
]
Tuned = Annotated[
    list[Path] | None,
    typer.Option("--tuned", help="What tuning found [default: models/tuning/DATASET]; repeat it."),
]
PARAMS = Path("params.yaml")


def _out(command: str, given: Path | None, default: Path) -> Path:
    """Return the output of a command, once it is known that it replaces nothing of other people."""
    return outputs.of_command(command, given or default)


def _read(file: Path, given: list[Path] | None, dataset: str, *tuned: str) -> Params:
    """Read the parameters, with those that tuning found for a dataset where it ran."""
    from ecgforge.stages import parameters

    found = [folders.TUNED / dataset / f"{name}.yaml" for name in tuned]
    return parameters.read(file, given or [one for one in found if one.exists()])


INTERRUPTED = 130  # the exit code that typer makes of KeyboardInterrupt


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
def check(params: ParamsFile = PARAMS) -> None:
    """Validate params.yaml whole, every profile of it, and say which is in use."""
    from ecgforge.stages import parameters

    found = parameters.read(params)
    _refuse_git_that_refuses()
    print(
        f"{params} is valid; the profile in use is '{found.profile}' of "
        f"{', '.join(found.profiles)}."
    )


@app.command()
def params(
    profile: Annotated[str | None, typer.Option(help="Other than the one in use.")] = None,
    file: ParamsFile = PARAMS,
) -> None:
    """Print the parameters of a profile, with its base merged and all defaults filled in."""
    from ecgforge.stages import parameters

    print(parameters.resolved(parameters.read(file).with_profile(profile)), end="")


@app.command()
def plan(
    profile: Annotated[str | None, typer.Option(help="Other than the one in use.")] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Say, before anything runs, how many cells a profile needs, and roughly how long they take on
    this machine.
    """
    from ecgforge.commands import plan as stage
    from ecgforge.stages import parameters

    stage.show(parameters.read(params).with_profile(profile))


@app.command()
def resolve(
    out: Annotated[Path, typer.Option(help="A folder.")] = folders.RESOLVED,
    params: ParamsFile = PARAMS,
) -> None:
    """Write what the stages depend on: resolved parameters, and digests of the code behind each."""
    from ecgforge.stages import resolve as stage

    stage.resolve(params, out)


@app.command()
def acquire(
    source: Annotated[str, typer.Argument(help="A name under `sources` in the parameters.")],
    out: Out = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Simulate, download or copy the raw WFDB records of a source."""
    from ecgforge.sources import registry
    from ecgforge.stages import parameters

    folder = _out("acquire", out, folders.RAW / source)
    found = parameters.read(params)
    registry.acquire(found.source(source), folder, found.preprocessing.sampling_rate)


@app.command()
def prepare(
    raw: Annotated[
        list[Path], typer.Option(help="A raw folder named like its source; repeat it to merge.")
    ],
    out: Annotated[Path, typer.Option(help="The record set; it appears whole or not at all.")],
    params: ParamsFile = PARAMS,
) -> None:
    """Turn raw records into a record set: labels, filters, splits, and a table of exclusions."""
    from ecgforge.params import Params
    from ecgforge.stages import prepare as stage

    stage.prepare(Params.read(params), raw, _out("prepare", out, out))


@app.command()
def tune_classifier(
    dataset: Dataset, out: Out = None, real: Real = None, params: ParamsFile = PARAMS
) -> None:
    """Look for better parameters of the classifier, by trials judged on validation records."""
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
    """Look for better parameters of a generator, by trials judged on validation records."""
    from ecgforge.stages import tune

    file = _out("tune-generator", out, folders.TUNED / dataset / f"{generator}.yaml")
    tune.tune(params, dataset, generator, real or folders.PREPARED / dataset, file)


@app.command()
def train_generator(
    dataset: Dataset,
    generator: Generator,
    out: Out = None,
    real: Real = None,
    tuned: Tuned = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Train a generator on the training split of a record set, tracked and registered by MLflow."""
    from ecgforge.stages import train_generator as stage

    folder = _out("train-generator", out, folders.GENERATORS / dataset / generator)
    found = _read(params, tuned, dataset, generator)
    records = real or folders.PREPARED / dataset
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
    """Draw a synthetic record set from a trained generator."""
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
        str | None, typer.Argument(help="Of the synthetic records; none means TrRTeR only.")
    ] = None,
    models: Out = None,
    out: Out = None,
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

    Without a generator: TrRTeR and its baselines. With one: TrSTeR, TrRTeS, TrSTeS and TrRSTeR.
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
    name: Annotated[str, typer.Argument(help="Such as mixture, transfer or size.")],
    dataset: Dataset,
    generator: Annotated[
        str | None, typer.Argument(help="Of the synthetic records, where the sweep needs them.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="The classifier of the sweep `backbones`.")
    ] = None,
    trained_on: Annotated[
        str | None, typer.Option(help="The dataset that `cross_dataset` trains on.")
    ] = None,
    out: Out = None,
    data: Annotated[
        Path, typer.Option(help="The folder of prepared/ and synthetic/ record sets.")
    ] = folders.DATA,
    models: Annotated[
        Path, typer.Option(help="The folder of generators/ and classifiers/.")
    ] = folders.MODELS,
    tuned: Tuned = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Run one cell of a comparison past the five settings; `ecgforge plan` lists them."""
    from ecgforge import grid
    from ecgforge.stages import ablation
    from ecgforge.stages import sweep as stage

    given = {
        "trained_on": trained_on,
        "dataset": dataset,
        "generator": generator,
        "backbone": backbone,
    }
    item = {key: value for key, value in given.items() if value is not None}
    results = _out("sweep", out, grid.results(name, item))
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
    """Score synthetic records against real ones, each score next to its real-vs-real baseline."""
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
        Path, typer.Argument(help="The record set to judge; its training records are.")
    ],
    out: Annotated[Path | None, typer.Option(help="A CSV of all scores, by rhythm too.")] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Score any record set against a real one, whoever made it: the same scores as the study's,
    without tracking.
    """
    from ecgforge.commands import score as stage
    from ecgforge.params import Params

    stage.score(Params.read(params), real, synthetic, out)


@app.command()
def report(out: Out = None, params: ParamsFile = PARAMS) -> None:
    """Gather all results into reports/: results.csv, metrics.json, plots, and report.html."""
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
Reason = Annotated[str, typer.Option(help="Why; it stays in the history.")]


@app.command()
def promote(
    name: Model,
    version: Annotated[str | None, typer.Option(help="The number of the version.")] = None,
    best: Annotated[
        bool,
        typer.Option("--best", help="The best on validation records of those of the current data."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Judge, and write nothing.")] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Promote it though it fails; it is marked for ever. Needs a reason."
        ),
    ] = False,
    reason: Reason = "",
    params: ParamsFile = PARAMS,
) -> None:
    """Judge a version by the gates in the parameters and, if it passes, make it champion, with a
    verdict and a model card.
    """
    from ecgforge.commands import promote as stage
    from ecgforge.stages import parameters

    stage.promote(parameters.read(params), name, version, best, dry_run, force, reason)


@app.command()
def rollback(name: Model, reason: Reason = "") -> None:
    """Make the former champion champion again."""
    from ecgforge.commands import promote as stage

    stage.rollback(name, reason)


@app.command()
def history(name: Model) -> None:
    """Say who made which version champion, when, why, and on what evidence."""
    from ecgforge.commands import promote as stage

    stage.show(name)


@app.command()
def lineage(
    reference: Reference,
    out: Annotated[
        Path | None, typer.Option(help="Write it as a Mermaid flowchart, a file .mmd.")
    ] = None,
) -> None:
    """Print and draw where a model or a record set comes from: run, parameters, commit, record
    sets, generators, down to the source.
    """
    from ecgforge.commands import lineage as stage

    stage.show(reference, out)


@app.command()
def verify(
    references: Annotated[
        list[str] | None,
        typer.Argument(help="As for lineage; none means all versions that have an alias."),
    ] = None,
) -> None:
    """Recompute the digests of a lineage, and name what no longer matches or is missing."""
    from ecgforge.commands import lineage as stage

    stage.verify(references or [])


@app.command()
def reproduce(version: Annotated[str, typer.Argument(help="name@alias or name/number.")]) -> None:
    """Train a version again, from its commit and data, in a scratch folder, and compare the
    weights.
    """
    from ecgforge.commands import reproduce as stage

    stage.reproduce(version)


@app.command()
def gc(yes: Annotated[bool, typer.Option("--yes", help="Remove them.")] = False) -> None:
    """List what neither a commit nor the lineage of an aliased version needs: files of DVC's cache,
    runs, versions, checkpoints.
    """
    from ecgforge.commands import gc as stage

    stage.collect(yes)


@app.command()
def classify(
    records: Annotated[
        list[Path],
        typer.Argument(
            metavar="RECORD...", help="WFDB records, or folders of them, searched whole."
        ),
    ],
    model: Annotated[
        str, typer.Option(help="A classifier, as name@alias or name/number.")
    ] = "ecg-classifier-merged@champion",
    out: Annotated[Path | None, typer.Option(help="A CSV of all probabilities.")] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="An SVG of the first records on ECG paper, with their probabilities."),
    ] = None,
) -> None:
    """Classify records of any sampling rate and order of leads with a registered classifier."""
    from ecgforge.commands import classify_records as stage

    stage.classify(records, model, out, plot)


@app.command()
def generate(
    model: Annotated[
        str, typer.Option(help="A generator, such as ecg-generator-diffwave-ptbxl@champion.")
    ],
    rhythm: Annotated[str, typer.Option(help="One of those that it has learned, such as AFIB.")],
    out: Annotated[Path, typer.Option(help="A new folder; it appears whole or not at all.")],
    number: Annotated[
        int, typer.Option("-n", "--number", min=1, max=1_000_000, help="How many records.")
    ] = 1,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same records.")] = 0,
) -> None:
    """Draw WFDB records, which say that they are synthetic, from a registered generator."""
    from ecgforge.commands import generate_records as stage

    stage.generate(model, rhythm, number, seed, out)


@app.command()
def ui(port: Annotated[int, typer.Option(min=1, max=65535, help="On 127.0.0.1.")] = 5000) -> None:
    """Open MLflow's UI on the runs and models of the study, and print where in it settings and
    generators are compared.
    """
    from ecgforge.tracking import runs, store

    store.serve(port, runs.EXPERIMENT, runs.CHARTS)


@app.command()
def repro(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            help="Stages or cells, such as report or classify@ptbxl-diffwave; none means all."
        ),
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=1, show_default="number of CPU cores", help="Cells run side by side.")
    ] = os.cpu_count() or 1,
) -> None:
    """Do what `dvc repro` does, with independent cells side by side."""
    from ecgforge.pipeline import cells
    from ecgforge.tracking import runs, store

    _refuse_git_that_refuses()
    store.initialise()
    runs.end_killed()
    code = cells.repro(targets or [], jobs)
    if not code and not targets:
        typer.echo(
            "Report:  reports/report.html    Table: reports/results.csv    Figures: dvc metrics "
            "show, dvc plots show"
        )
        typer.echo("Runs:    make ui    opens MLflow's UI on http://127.0.0.1:5000")
    raise typer.Exit(code)


def _refuse_git_that_refuses() -> None:
    """Say at once where git does not answer: runs and versions would have no commit, and no version
    could be promoted.
    """
    from ecgforge.tracking import store

    problem = store.git_problem()
    if problem:
        raise EcgforgeError(problem)


def main() -> None:
    """Run the command line; a mistake of the user's or of the machine's ends in one line and a
    non-zero exit.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # a file name may hold bytes that the terminal's encoding has no letters for
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        getpass.getuser()
    except (KeyError, OSError):  # a container's user often has no name; DVC and MLflow ask for one
        os.environ["USER"] = f"uid {os.getuid()}"
    try:
        if "DVC_STAGE" in os.environ and warm.ADDRESS not in os.environ:
            # plain `dvc` started this stage, and does not write dvc.lock whole
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
            "ecgforge: interrupted; run it again: a training goes on from its last checkpoint",
            file=sys.stderr,
        )
    sys.exit(code)


def _end(message: str, code: int) -> NoReturn:
    print(f"ecgforge: {shown(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(code)
