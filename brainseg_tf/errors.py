"""The one kind of error that a user can cause and mend."""


class InputError(Exception):
    """Something about the user's files or options stands in the way.

    The message is one line: the file or option it is about, what is wrong, and the remedy.
    """
