"""The error of a request that a served model refuses; a module of its own, as it imports MLflow."""

from __future__ import annotations

import json

from mlflow.exceptions import MlflowException


class InvalidRequestError(MlflowException):
    """A refused request, HTTP 400, with a message of one line.

    MLflow's server would put the whole request in front of the message.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.error_code = "INVALID_PARAMETER_VALUE"
        self.message = message

    def serialize_as_json(self) -> str:
        return json.dumps({"error_code": self.error_code, "message": self.message})
