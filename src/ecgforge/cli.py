"""What a person types. Every command reads params.yaml, takes paths and writes paths; `dvc repro` starts them in their order."""

from __future__ import annotations

import getpass
import io
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from ecgforge import __version__, outputs, warm
from ecgforge.console import shown
from ecgforge.dvc import lock
from ecgforge.errors import EcgforgeError, explained

app = typer.Typer(
    help="Does synthetic ECG help an arrhythmia classifier, on your data? `dvc repro` runs the study; these are its stages.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ParamsFile = Annotated[Path, typer.Option("--params", help="The parameters; the only source of them.")]


def _replaceable(context: typer.Context, folder: Path) -> Path:
    return outputs.of_command(context.info_name or "", folder)


Out = Annotated[Path, typer.Option(callback=_replaceable, help="What to write; it appears whole or not at all.")]
Real = Annotated[Path, typer.Option(help="A prepared record set, such as data/prepared/ptbxl.")]
Synthetic = Annotated[Path, typer.Option(help="A synthetic record set, such as data/synthetic/ptbxl/diffwave.")]
Dataset = Annotated[str, typer.Argument(help="ptbxl, chapman, merged, or another name listed in the parameters.")]
Generator = Annotated[str, typer.Argument(help="diffwave, time_diffusion, time_vqvae, or another one listed in the parameters.")]
Tuned = Annotated[list[Path] | None, typer.Option("--tuned", help="What tuning found, to use in place of the parameters; repeat it.")]
PARAMS = Path("params.yaml")
INTERRUPTED = 130  # the exit code that typer makes of KeyboardInterrupt


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ecgforge {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")] = False,
) -> None:
    pass


@app.command()
def check(params: ParamsFile = PARAMS) -> None:
    """Validate params.yaml whole, every profile of it, and say which is in use."""
    from ecgforge.stages import parameters

    found = parameters.read(params)
    _refuse_git_that_refuses()
    print(f"{params} is valid; the profile in use is '{found.profile}' of {', '.join(found.profiles)}.")


@app.command()
def params(
    profile: Annotated[str | None, typer.Option(help="Other than the one in use.")] = None,
    out: Annotated[Path | None, typer.Option(help="A YAML file to write them to.")] = None,
    file: ParamsFile = PARAMS,
) -> None:
    """Print the parameters of a profile as YAML, with its base merged and all defaults filled in."""
    from ecgforge.files import whole
    from ecgforge.stages import parameters

    text = parameters.resolved(parameters.read(file).with_profile(profile))
    if out is None:
        print(text, end="")
        return
    with whole(out) as scratch:
        scratch.write_text(text, encoding="utf-8")


@app.command()
def plan(
    profile: Annotated[str | None, typer.Option(help="Other than the one in use.")] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Say, before anything runs, how many cells a profile needs, and roughly how long they take on this machine."""
    from ecgforge.commands import plan as stage
    from ecgforge.stages import parameters

    stage.show(parameters.read(params).with_profile(profile))


@app.command()
def acquire(
    source: Annotated[str, typer.Argument(help="A name under `sources` in the parameters.")], out: Out, params: ParamsFile = PARAMS
) -> None:
    """Simulate, download or copy the raw WFDB records of a source."""
    from ecgforge.sources import registry
    from ecgforge.stages import parameters

    found = parameters.read(params)
    registry.acquire(found.source(source), out, found.preprocessing.sampling_rate)


@app.command()
def prepare(
    raw: Annotated[list[Path], typer.Option(help="A raw folder named like its source; repeat it to merge several.")],
    out: Out,
    params: ParamsFile = PARAMS,
) -> None:
    """Turn raw records into a record set: labels, filters, splits, and a table of what was set aside and why."""
    from ecgforge.params import Params
    from ecgforge.stages import prepare as stage

    stage.prepare(Params.read(params), raw, out)


@app.command()
def tune_classifier(dataset: Dataset, real: Real, out: Out, params: ParamsFile = PARAMS) -> None:
    """Look for better parameters of the classifier, by trials that are judged on validation records."""
    from ecgforge.stages import tune

    tune.tune(params, dataset, None, real, out)


@app.command()
def tune_generator(dataset: Dataset, generator: Generator, real: Real, out: Out, params: ParamsFile = PARAMS) -> None:
    """Look for better parameters of a generator, its sampling's too, by trials that are judged on validation records."""
    from ecgforge.stages import tune

    tune.tune(params, dataset, generator, real, out)


@app.command()
def train_generator(dataset: Dataset, generator: Generator, real: Real, out: Out, tuned: Tuned = None, params: ParamsFile = PARAMS) -> None:
    """Train a generator on the training split of a record set, tracked and registered by MLflow."""
    from ecgforge.stages import parameters
    from ecgforge.stages import train_generator as stage

    stage.train(parameters.read(params, tuned), dataset, generator, real, out)


@app.command()
def synthesize(
    dataset: Dataset,
    generator: Generator,
    model: Annotated[Path, typer.Option(help="A trained generator, such as models/generators/ptbxl/diffwave.")],
    real: Real,
    out: Out,
    tuned: Tuned = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Draw a synthetic record set from a trained generator."""
    from ecgforge.stages import parameters
    from ecgforge.stages import synthesize as stage

    stage.synthesize(parameters.read(params, tuned), dataset, generator, model, real, out)


@app.command()
def settings_real(dataset: Dataset, real: Real, models: Out, out: Out, tuned: Tuned = None, params: ParamsFile = PARAMS) -> None:
    """Train and test the classifier on real records (TrRTeR), with its baselines, once for all generators."""
    from ecgforge.stages import classify, parameters

    classify.on_real(parameters.read(params, tuned), dataset, real, models, out)


@app.command()
def settings(
    dataset: Dataset,
    generator: Generator,
    real: Real,
    synthetic: Synthetic,
    baseline: Annotated[Path, typer.Option(help="The classifiers that `settings-real` trained.")],
    models: Out,
    out: Out,
    tuned: Tuned = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Train and test the classifier in the settings that need synthetic records: TrSTeR, TrRTeS, TrSTeS, TrRSTeR."""
    from ecgforge.stages import classify as stage
    from ecgforge.stages import parameters

    stage.on_synthetic(parameters.read(params, tuned), dataset, generator, real, synthetic, baseline, models, out)


Data = Annotated[Path, typer.Option(help="The folder of prepared/ and synthetic/ record sets.")]
Models = Annotated[Path, typer.Option(help="The folder of generators/ and classifiers/.")]


@app.command()
def sweep_real(dataset: Dataset, real: Real, out: Out, tuned: Tuned = None, params: ParamsFile = PARAMS) -> None:
    """Train on real records alone what the sweeps compare with: other classifiers, and growing shares of the records."""
    from ecgforge.stages import parameters, sweeps

    sweeps.on_real(parameters.read(params, tuned), dataset, real, out)


@app.command()
def sweep(
    kind: Annotated[str, typer.Argument(help="backbones, mixture, transfer, size, ablation or retrained.")],
    dataset: Dataset,
    generator: Generator,
    data: Data,
    models: Models,
    out: Out,
    tuned: Tuned = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Run a comparison past the five settings: other classifiers or mixtures, fine-tuning, fewer real records, ablations, trainings."""
    from ecgforge.stages import parameters, sweeps

    sweeps.run(kind, sweeps.Arm.open(parameters.read(params, tuned), dataset, generator, data, models), out)


@app.command()
def hospitals(
    here: Annotated[str, typer.Argument(help="The dataset to train on.")],
    there: Annotated[str, typer.Argument(help="The dataset to test on.")],
    generator: Generator,
    data: Data,
    models: Models,
    out: Out,
    tuned: Tuned = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Train on one dataset and test on another, with real records alone and with synthetic ones of either."""
    from ecgforge.stages import parameters, sweeps

    found = parameters.read(params, tuned)
    home, away = (sweeps.Arm.open(found, name, generator, data, models) for name in (here, there))
    sweeps.hospitals(home, away, out)


@app.command()
def quality(
    dataset: Dataset,
    generator: Generator,
    real: Real,
    synthetic: Synthetic,
    classifiers: Annotated[Path, typer.Option(help="What `settings-real` trained, such as models/classifiers/ptbxl/real.")],
    out: Out,
    params: ParamsFile = PARAMS,
) -> None:
    """Score synthetic records against real ones, each score beside what real records get against real ones."""
    from ecgforge.params import Params
    from ecgforge.stages import assess

    assess.quality(Params.read(params), dataset, generator, real, synthetic, classifiers, out)


@app.command()
def score(
    real: Annotated[Path, typer.Argument(help="A record set with training and test records of different patients.")],
    synthetic: Annotated[Path, typer.Argument(help="The record set to judge; its training records are.")],
    out: Annotated[Path | None, typer.Option(help="A CSV of all scores, by rhythm too.")] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Score any record set against a real one, whoever made it: the same scores as the study's, without tracking."""
    from ecgforge.params import Params
    from ecgforge.stages import assess

    assess.score(Params.read(params), real, synthetic, out)


@app.command()
def report(out: Out = Path("reports"), params: ParamsFile = PARAMS) -> None:
    """Gather all results into reports/: results.csv, metrics.json, plots, and report.html."""
    from ecgforge.params import Params
    from ecgforge.stages import report as stage

    stage.report(Params.read(params), out)


Reference = Annotated[str, typer.Argument(help="name@alias, name/number, a run id, or a file or folder under models/ or data/.")]
Model = Annotated[str, typer.Argument(help="A registered model, such as ecg-classifier-merged.")]
Reason = Annotated[str, typer.Option(help="Why; it stays in the history.")]


@app.command()
def promote(
    name: Model,
    version: Annotated[str | None, typer.Option(help="The number of the version.")] = None,
    best: Annotated[bool, typer.Option("--best", help="The best on validation records of those of the current data.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Judge, and write nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Promote it though it fails; it is marked for ever. Needs a reason.")] = False,
    reason: Reason = "",
    params: ParamsFile = PARAMS,
) -> None:
    """Judge a version by the gates in the parameters and, if it passes, make it champion, with a verdict and a model card."""
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
    reference: Reference, out: Annotated[Path | None, typer.Option(help="Write it as a Mermaid flowchart, a file .mmd.")] = None
) -> None:
    """Print and draw where a model or a record set comes from: run, parameters, commit, record sets, generators, down to the source."""
    from ecgforge.commands import lineage as stage

    stage.show(reference, out)


@app.command()
def verify(
    references: Annotated[list[str] | None, typer.Argument(help="As for lineage; none means all versions that have an alias.")] = None,
) -> None:
    """Recompute the digests of a lineage, and say what no longer matches or is no longer available."""
    from ecgforge.commands import lineage as stage

    stage.verify(references or [])


@app.command()
def reproduce(version: Annotated[str, typer.Argument(help="name@alias or name/number.")]) -> None:
    """Train a version again, from its commit and data, in a scratch folder, and compare the weights."""
    from ecgforge.commands import reproduce as stage

    stage.reproduce(version)


@app.command()
def gc(yes: Annotated[bool, typer.Option("--yes", help="Remove them.")] = False) -> None:
    """List what neither a commit nor the lineage of an aliased version needs: files of DVC's cache, runs, versions, checkpoints."""
    from ecgforge.commands import collect as stage

    stage.collect(yes)


@app.command()
def classify(
    records: Annotated[list[Path], typer.Argument(metavar="RECORD...", help="WFDB records, or folders of them, searched whole.")],
    model: Annotated[str, typer.Option(help="A classifier, as name@alias or name/number.")] = "ecg-classifier-merged@champion",
    out: Annotated[Path | None, typer.Option(help="A CSV of all probabilities.")] = None,
    plot: Annotated[Path | None, typer.Option(help="An SVG of the first records on ECG paper, with their probabilities.")] = None,
) -> None:
    """Classify records of any sampling rate and order of leads with a registered classifier."""
    from ecgforge.commands import classify_records as stage

    stage.classify(records, model, out, plot)


@app.command()
def generate(
    model: Annotated[str, typer.Option(help="A generator, such as ecg-generator-diffwave-ptbxl@champion.")],
    rhythm: Annotated[str, typer.Option(help="One of those that it has learned, such as AFIB.")],
    out: Annotated[Path, typer.Option(help="A new folder; it appears whole or not at all.")],
    number: Annotated[int, typer.Option("-n", "--number", min=1, max=1_000_000, help="How many records.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same records.")] = 0,
) -> None:
    """Draw WFDB records, which say that they are synthetic, from a registered generator."""
    from ecgforge.commands import generate_records as stage

    stage.generate(model, rhythm, number, seed, out)


@app.command()
def ui(port: Annotated[int, typer.Option(min=1, max=65535, help="On 127.0.0.1.")] = 5000) -> None:
    """Open MLflow's UI on the runs and models of the study, and print where in it settings and generators are compared."""
    from ecgforge.tracking import runs, store

    store.serve(port, runs.EXPERIMENT, runs.CHARTS)


@app.command()
def repro(
    targets: Annotated[
        list[str] | None, typer.Argument(help="Stages or cells, such as report or classify@ptbxl-diffwave; none means all.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Cells run side by side.")] = max(1, os.cpu_count() or 1),
) -> None:
    """Do what `dvc repro` does, with independent cells side by side."""
    from ecgforge import cells
    from ecgforge.tracking import runs, store

    _refuse_git_that_refuses()
    store.initialise()
    runs.end_killed()
    code = cells.repro(targets or [], jobs)
    if not code and not targets:
        typer.echo("Report:  reports/report.html    Table: reports/results.csv    Figures: dvc metrics show, dvc plots show")
        typer.echo("Runs:    make ui    opens MLflow's UI on http://127.0.0.1:5000")
    raise typer.Exit(code)


def _refuse_git_that_refuses() -> None:
    """Say at once where git does not answer: runs and versions would have no commit, and no version could be promoted."""
    from ecgforge.tracking import store

    problem = store.git_problem()
    if problem:
        raise EcgforgeError(problem)


def main() -> None:
    """Run the command line; a mistake of the user's or of the machine's ends in one line and a non-zero exit."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):  # a file name may hold bytes that the terminal's encoding has no letters for
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        getpass.getuser()
    except (KeyError, OSError):  # a container's user often has no name; DVC and MLflow ask for one
        os.environ["USER"] = f"uid {os.getuid()}"
    try:
        if "DVC_STAGE" in os.environ and warm.ADDRESS not in os.environ:
            lock.keep(Path.cwd())  # plain `dvc` started this stage, and does not write dvc.lock whole
        code = app(standalone_mode=False, prog_name="ecgforge")
    except typer.TyperException as error:
        command = getattr(getattr(error, "ctx", None), "command_path", "ecgforge")
        _end(f"{error.format_message().rstrip('.')} (see '{command} --help')", getattr(error, "exit_code", 2))
    except Exception as error:
        if os.environ.get("ECGFORGE_DEBUG"):
            raise
        _end(explained(error), 1)
    if code == INTERRUPTED:
        print("ecgforge: interrupted; run it again: a training goes on from its last checkpoint", file=sys.stderr)
    sys.exit(code)


def _end(message: str, code: int) -> NoReturn:
    print(f"ecgforge: {shown(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(code)
