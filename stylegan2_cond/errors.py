"""The one kind of error that a user is meant to read."""


class UserError(Exception):
    """Something that the user can mend: says what is wrong, in which file or argument, and what to type instead."""


class Stopped(Exception):
    """Work was asked to stop, and did so with everything saved; the message says how to go on."""
