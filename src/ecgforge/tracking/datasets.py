"""Record sets as MLflow inputs of runs, with DVC's digests.

MLflow loads `DvcSource` by its entry point, so the inputs of a run can be read back.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow.data.dataset_source import DatasetSource

from ecgforge.errors import EcgforgeError
from ecgforge.files import md5
from ecgforge.tracking.store import inside, project_root

SOURCE_TYPE = "dvc"


class DvcSource(DatasetSource):
    """A file or folder under DVC.

    Attributes:
        path: relative to the project.
        digest: DVC's md5 of it.
        rev: the git commit of the project when it was used; empty outside git.
    """

    def __init__(self, path: str, digest: str, rev: str) -> None:
        self.path, self.digest, self.rev = path, digest, rev

    @staticmethod
    def _get_source_type() -> str:
        return SOURCE_TYPE

    def load(self) -> Path:
        """Return the path after a check that it has the recorded content.

        Raises:
            EcgforgeError: it is missing, has another content, or is outside of the project.
        """
        if not inside(self.path):
            raise EcgforgeError(f"{self.path} is outside of the project")
        path = project_root() / self.path
        if not path.exists() or md5(path) != self.digest:
            where = f"git checkout {self.rev} && " if self.rev else ""
            raise EcgforgeError(
                f"{self.path} with md5 {self.digest} is not in the working tree: try `{where}dvc "
                f"checkout {self.path}`"
            )
        return path

    @staticmethod
    def _can_resolve(raw_source: Any) -> bool:
        return isinstance(raw_source, DvcSource)

    @classmethod
    def _resolve(cls, raw_source: Any) -> DvcSource:
        assert isinstance(raw_source, DvcSource)
        return raw_source

    def to_dict(self) -> dict[str, Any]:
        return {"path": self.path, "md5": self.digest, "rev": self.rev}

    @classmethod
    def from_dict(cls, source_dict: dict[Any, Any]) -> DvcSource:
        return cls(source_dict["path"], source_dict["md5"], source_dict["rev"])
