"""The errors of the stand-in."""


class nixlBackendError(Exception):
    pass


class nixlNotFoundError(Exception):
    pass
