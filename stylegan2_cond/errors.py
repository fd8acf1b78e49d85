"""Exceptions whose message is meant for the user."""


class UserError(Exception):
    """Something that the user can fix: says what is wrong, in which file or argument, and what to type instead."""


class Stopped(Exception):
    """Work was stopped on request, with everything saved; the message says how to resume."""
