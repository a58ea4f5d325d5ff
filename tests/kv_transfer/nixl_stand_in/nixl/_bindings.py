"""The errors of the stand-in."""


class nixlBackendError(Exception):  # noqa: N801, N818
    pass


class nixlNotFoundError(Exception):  # noqa: N801, N818
    pass
