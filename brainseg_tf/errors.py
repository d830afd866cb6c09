"""The one kind of error that a user can cause and mend, and the one kind of warning."""


class InputError(Exception):
    """Something about the user's files or options stands in the way.

    The message is one line: the file or option it is about, what is wrong, and the remedy.
    """


class InputWarning(UserWarning):
    """Something about the user's files or machine is less safe than usual; the message is one line."""
