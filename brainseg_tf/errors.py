"""The class of all errors that a user can cause and correct, and the class of all warnings."""


class InputError(Exception):
    """An error in the user's files or options.

    The message has one line of the form ``FILE: what is wrong; what to do``.
    """


class LockedError(InputError):
    """Another run holds the lock of a file."""


class InputWarning(UserWarning):
    """A possible problem with the user's files or machine; the message has one line."""
