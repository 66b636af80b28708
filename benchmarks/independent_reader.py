"""Compare simulated, generated and real records by an independent ECG interpreter.

    # both simulated sites of the demo
    python benchmarks/independent_reader.py
    # raw records, or record sets (also synthetic ones)
    python benchmarks/independent_reader.py FOLDER [FOLDER ...]
    # simulated sites with other seeds
    python benchmarks/independent_reader.py --site ptbxl --seeds 1 2 3

The interpreter is openecg (github.com/vitaldb/openecg, Apache-2.0), whose wheel contains its
weights. It reads lead II only, at 500 Hz, and was trained on real records. It is not a dependency
of this project. Install it into an environment that has ecgforge:

    pip install "openecg[report]==0.11.0"

Its rhythms are sinus, avb (atrioventricular block), paced, afib, bbb (bundle branch block) and
ventricular; flutter and supraventricular tachycardia are missing. So its answers cannot be compared
with the labels. Instead, a simulated or generated rhythm should get the same answers as the same
rhythm of real patients.

The output has one line per rhythm: number of records; share of each answer; `rule`, the share that
openecg's separate rule on RR intervals classifies as fibrillation; medians of heart rate
(beats/min) and of the coefficient of variation of RR intervals, from its QRS detector; and detected
P waves per QRS complex. A last line has the shares of AFIB and of all sinus rhythms (SR, SB, ST,
SA) that are read as fibrillation.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.signal import resample_poly

from ecgforge.errors import EcgforgeError
from ecgforge.params import SimulatedSource
from ecgforge.records.exclusions import BadRecord
from ecgforge.records.leads import LEADS
from ecgforge.records.record_set import RecordSet
from ecgforge.records.rhythms import RHYTHMS, SINUS, rhythm_of
from ecgforge.sources import simulated
from ecgforge.sources.layouts import LAYOUTS
from ecgforge.wfdb_io import files as wfdb_files

RATE = 500  # Hz, sampling rate of openecg
# files that identify the layout of a raw folder
TABLES = {"ptbxl_database.csv": "ptbxl", "RECORDS": "chapman", "records.csv": "folder"}
READINGS = ("sinus", "afib", "avb", "bbb", "ventricular", "paced", "unknown")

Record = tuple[str, np.ndarray, int]  # rhythm, lead II, sampling rate in Hz


def records(folder: Path) -> Iterator[Record]:
    """Yield the records of a record set, or the raw records of a known layout with one rhythm."""
    if (folder / "about.json").exists():
        held = RecordSet.open(folder)
        for row, rhythm in enumerate(held.records["rhythm"]):
            yield (
                rhythm,
                held.signals(np.array([row]))[0, LEADS.index("II")],
                held.about.sampling_rate,
            )
        return
    known = [layout for table, layout in TABLES.items() if (folder / table).exists()]
    if not known:
        raise EcgforgeError(
            f"{folder} is neither a record set nor a folder of raw records: {', '.join(TABLES)} "
            "and about.json are missing"
        )
    layout = LAYOUTS[known[0]]
    for row in layout.catalogue(folder).itertuples():
        try:
            rhythm = rhythm_of(row.codes, layout.RHYTHM_CODES, layout.OTHER_RHYTHMS)
            record = wfdb_files.read(folder, row.path)
        except BadRecord:
            continue
        yield rhythm, np.nan_to_num(record.signals[LEADS.index("II")]), round(record.sampling_rate)


def read(record: Record, codec: Any) -> dict[str, Any]:
    """Interpret lead II of a record; `codec` is openecg's network."""
    import openecg

    rhythm, lead, rate = record
    lead = resample_poly(lead.astype(float), RATE, rate)
    found = openecg.report(lead, fs=RATE, model=codec)
    waves = [
        kind
        for _, _, kind in openecg.encode(lead.astype(np.float32), fs=RATE, model=codec).events(
            "frame"
        )
    ]
    return {
        "rhythm": rhythm,
        "reading": found.rhythm["label"],
        "rule": found.afib_check["is_afib"],
        "rate": found.heart_rate["bpm"],
        "RR variation": found.heart_rate["rr_cv"],
        "P per QRS": waves.count(openecg.eval.SUPER_P)
        / max(1, waves.count(openecg.eval.SUPER_QRS)),
    }


def table(readings: pd.DataFrame) -> pd.DataFrame:
    """Return the summary by rhythm."""
    readings = readings.assign(
        rhythm=pd.Categorical(readings["rhythm"], RHYTHMS),
        reading=pd.Categorical(readings["reading"], READINGS),
    )
    shares = pd.crosstab(readings["rhythm"], readings["reading"], normalize="index")
    groups = readings.groupby("rhythm", observed=True)
    medians = groups[["rate", "RR variation", "P per QRS"]].median()
    return pd.concat(
        [groups.size().rename("n"), shares, groups["rule"].mean(), medians], axis=1
    ).round(2)


def fibrillation(readings: pd.DataFrame) -> str:
    """Return the shares that are read as fibrillation, of AFIB and of all sinus rhythms."""
    read = readings["reading"] == "afib"
    shares = [
        f"{'/'.join(names)} {read[readings['rhythm'].isin(names)].mean():.2f}"
        for names in (["AFIB"], SINUS)
    ]
    return f"read as fibrillation: {', '.join(shares)}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folders",
        nargs="*",
        type=Path,
        help="raw records, or record sets; without any, simulated sites",
    )
    parser.add_argument(
        "--site", nargs="+", choices=["ptbxl", "chapman"], default=["ptbxl", "chapman"]
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[11], help="of simulated sites")
    parser.add_argument("--records", type=int, default=400, help="of a simulated site")
    options = parser.parse_args()
    try:
        from openecg.deploy import OnnxCodec

        codec = OnnxCodec()
    except ImportError as error:
        raise SystemExit(
            f"openecg is missing ({error}): pip install 'openecg[report]==0.11.0'"
        ) from None
    with tempfile.TemporaryDirectory() as scratch:
        folders = {str(folder): folder for folder in options.folders}
        if not folders:
            folders = {
                f"simulated {site}, seed {seed}": Path(scratch) / f"{site}-{seed}"
                for site in options.site
                for seed in options.seeds
            }
            for folder in folders.values():
                site, seed = folder.name.split("-")
                simulated.write(
                    folder,
                    SimulatedSource(
                        kind="simulated", layout=site, records=options.records, seed=int(seed)
                    ),
                )
        for name, folder in folders.items():
            try:
                readings = pd.DataFrame([read(record, codec) for record in records(folder)])
            except EcgforgeError as error:
                raise SystemExit(str(error)) from None
            print(f"\n{name}\n{table(readings).to_string()}\n{fibrillation(readings)}", flush=True)


if __name__ == "__main__":
    main()
