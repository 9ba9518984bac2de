"""Errors meant for the person at the keyboard.

Their text is all a user needs: which thing, the value it had, what is accepted, what to do. The tools print it
without a traceback; code that imports the package can catch them by the built-in type they also are.
"""


class UserError(Exception):
    """Base of all errors that the tools print as one message: exit code 1."""


class SpecError(UserError, ValueError):
    """The spec or the command line is wrong: exit code 2."""


class DataError(UserError, ValueError):
    """A data set, a video or an image can't be used."""


class CheckpointError(UserError, RuntimeError):
    """A checkpoint or a file of weights can't be read, used or written."""


class DeployError(UserError, RuntimeError):
    """An exported model can't be read, built, or run on this machine."""


class OutputError(UserError, OSError):
    """A file of results can't be written."""


class Interrupted(KeyboardInterrupt):
    """A signal, `number`, ended the work in good order. Exit code 128 + number, as shells count."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number
