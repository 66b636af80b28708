"""Checkpoints of a training, written atomically, in a folder that can be moved."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from ecgforge.files import atomic_write, remove

logger = logging.getLogger(__name__)

BEST, LAST = "best.ckpt", "last.ckpt"


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint to a file in the same folder, and renames it when it is on disk.

    Lightning moves a checkpoint from the system's temporary folder, which may be another file
    system. A kill then leaves an incomplete file.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        content = io.BytesIO()  # torch does not report a full disk
        torch.save(checkpoint, content)
        with atomic_write(Path(path)) as scratch:
            scratch.write_bytes(content.getbuffer())


class Best(ModelCheckpoint):
    """Keeps the best checkpoint, in a folder that can be moved.

    Lightning stores its absolute path, and discards the best score if the path has changed.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        here = self.format_checkpoint_name({})
        models = {here: state_dict["best_model_score"]}
        moved = {
            "dirpath": self.dirpath,
            "best_model_path": here,
            "kth_best_model_path": here,
            "best_k_models": models,
        }
        super().load_state_dict(state_dict | moved)


def resumable(folder: Path) -> Path | None:
    """Return the checkpoint in `folder` to resume from, None if there is none.

    If one of the two checkpoints is damaged, both are removed, and the training starts again with
    the same result.
    """
    best, last = folder / BEST, folder / LAST
    try:
        for file in (last, best):
            torch.load(file, map_location="cpu", weights_only=True)
        return last
    except FileNotFoundError:
        pass  # killed before the first evaluation, or between its two checkpoints
    except Exception as error:  # torch raises errors of many classes for damaged files
        logger.warning(
            "a checkpoint in %s is damaged (%s): the training starts again",
            folder,
            " ".join(str(error).split())[:100],
        )
    remove(best)
    remove(last)
    return None
