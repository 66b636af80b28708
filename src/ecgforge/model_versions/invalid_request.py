"""A request to a served model that is refused. Apart from the rest, since it imports MLflow."""

from __future__ import annotations

import json

from mlflow.exceptions import MlflowException


class InvalidRequestError(MlflowException):
    """A request that is refused, HTTP 400: one line, where MLflow's server would put the whole
    request before what is wrong with it.
    """

    def __init__(self, told: str) -> None:
        super().__init__(told)
        self.error_code = "INVALID_PARAMETER_VALUE"
        self.told = told

    def serialize_as_json(self) -> str:
        return json.dumps({"error_code": self.error_code, "message": self.told})
