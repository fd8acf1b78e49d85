"""Exceptions whose message is meant for the user."""


class UserError(Exception):
    """Something that the user can fix: says what is wrong, in which file or argument, and what to type instead."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)


class Stopped(Exception):
    """Work was stopped on request, with everything saved; the message says how to resume."""
