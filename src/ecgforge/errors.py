"""Errors that mean something: the command line turns them into a single line and a non-zero exit."""


class EcgforgeError(Exception):
    """Something the user can mend; the message says what is wrong and what to do next."""


class TrialError(EcgforgeError):
    """A trial of a study of tuning came to nothing: parameters that cannot be trained, not a fault of machine or project."""


class PrunedError(TrialError):
    """A trial of a study of tuning was not worth going on with."""
