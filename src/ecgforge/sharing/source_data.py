"""The sources of a record set: what they are, their licence, and how to cite them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from ecgforge.errors import EcgforgeError
from ecgforge.provenance.lineage import Node

CC_BY = "https://creativecommons.org/licenses/by/4.0/"
CC0 = "https://creativecommons.org/publicdomain/zero/1.0/"
ARTICLE = (
    "Núñez, J. F., Arjona, J., Béjar, J. (2024). Synthetic ECG Generation for Data Augmentation "
    "and Transfer Learning in Arrhythmia Classification. arXiv:2411.18456."
)
PHYSIONET = (
    "Goldberger, A., et al. (2000). PhysioBank, PhysioToolkit, and PhysioNet. Circulation 101(23), "
    "e215–e220. https://doi.org/10.1161/01.CIR.101.23.e215"
)
PUBLISHED = {  # title, licence and citations by layout
    "ptbxl": (
        "PTB-XL",
        CC_BY,
        (
            "Wagner, P., et al. (2020). PTB-XL, a large publicly available electrocardiography "
            "dataset. Scientific Data 7, 154. https://doi.org/10.1038/s41597-020-0495-6",
            "Wagner, P., et al. (2022). PTB-XL, a large publicly available electrocardiography "
            "dataset (version 1.0.3). PhysioNet. https://doi.org/10.13026/kfzx-aw45",
            PHYSIONET,
        ),
    ),
    "chapman": (
        "A large scale 12-lead electrocardiogram database for arrhythmia study "
        "(Chapman-Shaoxing-Ningbo)",
        CC_BY,
        (
            "Zheng, J., et al. (2020). A 12-lead electrocardiogram database for arrhythmia "
            "research covering more than 10,000 patients. Scientific Data 7, 48. "
            "https://doi.org/10.1038/s41597-020-0386-x",
            "Zheng, J., Guo, H., Chu, H. (2022). A large scale 12-lead electrocardiogram database "
            "for arrhythmia study (version 1.0.0). PhysioNet. https://doi.org/10.13026/wgex-er52",
            PHYSIONET,
        ),
    ),
}


@dataclass(frozen=True)
class SourceData:
    """A source of records.

    Attributes:
        name: as in the parameters.
        title: in words.
        licence: URL; empty if unknown.
        citations: of the source.
    """

    name: str
    title: str
    licence: str
    citations: tuple[str, ...]


def of(traced: Node) -> list[SourceData]:
    """Return the sources in a lineage, from DVC's records of the stages that acquired them."""
    found = {
        name: _described(name, settings)
        for node in traced.all()
        if node.kind == "source"
        for name, settings in _settings(node)
    }
    return list(found.values())


def _settings(node: Node) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the names and parameters of the sources that a stage acquired."""
    for name, text in node.facts.items():
        value = json.loads(text)
        if isinstance(value, dict) and "kind" in value:
            yield name, value


def _described(name: str, settings: dict[str, Any]) -> SourceData:
    layout = settings.get("layout", "")
    if settings["kind"] == "physionet" and layout in PUBLISHED:
        title, licence, citations = PUBLISHED[layout]
        limit = settings.get("limit_per_rhythm")
        part = f", at most {limit} records of each rhythm" if limit else ""
        return SourceData(name, title + part, licence, citations)
    if settings["kind"] == "simulated":
        title = f"{settings.get('records')} simulated records, in the file layout of {layout}"
        return SourceData(name, f"{title}; no patients", CC0, ())
    return SourceData(name, "records of the publisher's own", "", ())


def licence(sources: list[SourceData], given: str | None) -> str:
    """Return the given licence of a derived set, or else the one that all sources have.

    Args:
        sources: of the set.
        given: a URL or an SPDX identifier; None takes the licence of the sources.

    Returns:
        A URL.

    Raises:
        EcgforgeError: `given` is neither; or it is None, and the sources have no licence or
            different ones.
    """
    if given is not None:
        return _address(given)
    known = {source.licence for source in sources}
    if len(known) == 1 and "" not in known:
        return known.pop()
    unknown = ", ".join(source.name for source in sources if not source.licence)
    names = ", ".join(source.name for source in sources)
    why = (
        f"{names} have different licences"
        if sources and not unknown
        else f"the licence of {unknown or 'the source'} is unknown"
    )
    raise EcgforgeError(
        f"{why}: give the licence of the published set with --license, such as {CC_BY}"
    )


def _address(given: str) -> str:
    """Return the URL of a licence: a URL itself, or the page of an SPDX identifier."""
    if re.fullmatch(r"https?://\w\S*", given):
        return given
    with suppress(InvalidLicenseExpression):
        found = canonicalize_license_expression(given)
        if re.fullmatch(r"(?!LicenseRef-)[\w.-]+", found):  # one identifier of SPDX's list
            return f"https://spdx.org/licenses/{found}.html"
    raise EcgforgeError(
        f"'{given}' is not a licence: give a URL, or an SPDX identifier such as CC-BY-4.0 "
        "(https://spdx.org/licenses)"
    )
