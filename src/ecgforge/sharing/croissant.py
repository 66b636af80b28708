"""Describe a folder of synthetic records in Croissant format, with `mlcroissant`.

Croissant is JSON-LD for data sets of machine learning: https://mlcommons.org/croissant.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ecgforge import __version__
from ecgforge.errors import EcgforgeError

NAME = "croissant.json"
FORMATS = ("http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0")
COLUMNS = {  # of records.csv
    "record": "Path of a record in the folder, without the suffix of its two files.",
    "patient": "Identifier of the record: each record is its own patient.",
    "rhythm": "Rhythm that was requested from the generator.",
    "split": "train, validation or test.",
    "seed": "Random seed of the record in the generator.",
}
USES = (
    "Research on methods, such as data augmentation and pre-training; teaching; tests of software.",
    "Not for decisions about patients, as the only test records, or to estimate frequencies.",
)
LIMITS = (
    "The label is the rhythm that was requested from the generator. Nobody has confirmed it.",
    "The records have no findings other than the rhythm. README.md lists the quality scores.",
)
PRIVACY = (
    "The records are synthetic and belong to no patient. The generator learned from records of "
    "patients, unless README.md says that these were simulated. README.md has the scores that "
    "compare the records with the training records; they are no proof of anonymity."
)


def library() -> Any:
    """Return the package `mlcroissant`.

    Raises:
        EcgforgeError: it is not installed.
    """
    try:
        import mlcroissant
    except ImportError:
        raise EcgforgeError(
            "mlcroissant is not installed, which describes the set for programs: run "
            "`pip install 'ecgforge[sharing]'`"
        ) from None
    return mlcroissant


def write(
    folder: Path,
    table: Path,
    sha256: str,
    *,
    name: str,
    description: str,
    licence: str,
    cite: str,
    author: str,
    made: str,
    processed: Sequence[str],
) -> None:
    """Write croissant.json to `folder`, and validate it.

    Args:
        folder: with `table` and records/.
        table: records.csv.
        sha256: of the table.
        name: of the set.
        description: of the set, in a sentence or two.
        licence: URL of the licence.
        cite: how to cite the set.
        author: who publishes it.
        made: how the records were made.
        processed: what was done with the signals.

    Raises:
        EcgforgeError: `mlcroissant` is not installed, or finds an error.
    """
    mlc = library()
    tree = mlc.Metadata(
        name=name,
        description=description,
        conforms_to=list(FORMATS),
        license=[licence],
        cite_as=cite,
        version="1.0.0",
        date_published=datetime.now(UTC).replace(microsecond=0),
        creators=[mlc.Person(name=author)],
        keywords=["ECG", "arrhythmia", "synthetic data", f"ecgforge {__version__}"],
        distribution=_files(mlc, table.name, sha256),
        record_sets=[_records(mlc, table.name)],
        data_collection=made,
        data_preprocessing_protocol=list(processed),
        data_use_cases=list(USES),
        data_limitations=list(LIMITS),
        personal_sensitive_information=[PRIVACY],
    ).to_json()
    file = folder / NAME
    file.write_text(json.dumps(tree, indent=2, ensure_ascii=False) + "\n", "utf-8")
    validate(file)


def validate(file: Path) -> None:
    """Check a Croissant file, and that its table of records can be read as described.

    Raises:
        EcgforgeError: it cannot.
    """
    mlc = library()
    try:
        found = mlc.Dataset(str(file))
        next(iter(found.records("records")))
    except Exception as error:  # the package and pandas raise errors of many types
        words = " ".join(str(error).split())[:300]
        raise EcgforgeError(f"{file.name} is not valid Croissant: {words}") from error


def _files(mlc: Any, table: str, sha256: str) -> list[Any]:
    labels = mlc.FileObject(
        id=table,
        name=table,
        description="A row for each record.",
        content_url=table,
        encoding_formats=["text/csv"],
        sha256=sha256,
    )
    signals = mlc.FileSet(
        id="signals",
        name="signals",
        description="Headers and signals of the records in WFDB format.",
        encoding_formats=["application/octet-stream"],
        includes=["records/*/*.hea", "records/*/*.dat"],
    )
    return [labels, signals]


def _records(mlc: Any, table: str) -> Any:
    kinds = {"seed": mlc.DataType.INTEGER}
    fields = [
        mlc.Field(
            id=f"records/{name}",
            name=name,
            description=text,
            data_types=[kinds.get(name, mlc.DataType.TEXT)],
            source=mlc.Source(file_object=table, extract=mlc.Extract(column=name)),
        )
        for name, text in COLUMNS.items()
    ]
    return mlc.RecordSet(
        id="records",
        name="records",
        description="The records and their labels.",
        key=["records/record"],
        fields=fields,
    )
