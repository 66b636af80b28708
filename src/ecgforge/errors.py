"""The one error that the command line turns into a single line and a non-zero exit."""


class EcgforgeError(Exception):
    """Something the user can mend; the message says what is wrong and what to do next."""
