"""Every kind of source behind one call."""

from __future__ import annotations

from pathlib import Path

from ecgforge.params import FolderSource, PhysionetSource, SimulatedSource, Source


def acquire(settings: Source, folder: Path, sampling_rate: int) -> None:
    """Fill `folder` with raw WFDB records in the layout `settings.layout`, whole or not at all.

    Args:
        settings: the source, from the parameters.
        folder: what to write; replaced if it is there.
        sampling_rate: Hz, what preparation will resample to; a published form of records that suffices is taken.

    Raises:
        EcgforgeError: the source cannot be reached or read.
    """
    # Imported when needed: fsspec's and the simulation's libraries cost seconds, and a stage uses one of them.
    match settings:
        case SimulatedSource():
            from ecgforge.sources import simulated

            simulated.write(folder, settings)
        case PhysionetSource():
            from ecgforge.sources import physionet

            physionet.fetch(folder, settings, sampling_rate)
        case FolderSource():
            from ecgforge.sources import folder as own

            own.fetch(folder, settings)
