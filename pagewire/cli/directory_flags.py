"""The flags of those that are in a directory or look into one.

Knows flags; knows no command and no redis.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated

import typer

from pagewire.errors import ConfigError
from pagewire.membership import url
from pagewire.membership.record import is_name
from pagewire.private import private_bytes

ENVIRONMENT = "PAGEWIRE_REGISTRY"

SecretFile = Annotated[
    str | None,
    typer.Option(
        "--cluster-secret-file",
        metavar="FILE",
        envvar="PAGEWIRE_CLUSTER_SECRET_FILE",
        help="A file of at least 32 bytes, the same on all hosts, that only its owner may read. "
        "Nothing listens beyond this host without it.",
        rich_help_panel="Cluster",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryFlags:
    """Where routers and nodes find each other."""

    registry: Annotated[
        str | None,
        typer.Option(
            metavar="redis://HOST:PORT/DB",
            envvar=ENVIRONMENT,
            help="The redis in which routers and nodes find each other; also rediss://, and "
            "redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DB. With a password, give it in the environment.",
            rich_help_panel="Cluster",
        ),
    ] = None
    registry_password_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            envvar="PAGEWIRE_REGISTRY_PASSWORD_FILE",
            help="A file with the password of that redis, that only its owner may read.",
            rich_help_panel="Cluster",
        ),
    ] = None
    cluster: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            envvar="PAGEWIRE_CLUSTER",
            help="Which cluster in that redis: several may share it.",
            rich_help_panel="Cluster",
        ),
    ] = "default"

    def found(self) -> str | None:
        """The whole address of the directory, checked; None: there is none. Raises ConfigError, which quotes
        no password.
        """
        if self.registry is None:
            return None
        if not is_name(self.cluster):
            raise ConfigError("--cluster: a name has up to 128 letters, digits, dots, dashes and underscores")
        where = url.parse(self.registry)
        if url.has_password(self.registry) and self.registry != os.environ.get(ENVIRONMENT):
            raise ConfigError(
                "--registry: everybody on this host can read a password there: give the whole in the "
                f"environment, as {ENVIRONMENT}, or the password as --registry-password-file"
            )
        from pagewire.membership import store  # with redis's client, which nobody else here needs

        store.check(where)
        if self.registry_password_file is None:
            return self.registry
        words = private_bytes(self.registry_password_file, "the registry's password file").split()
        try:
            (password,) = (word.decode() for word in words)
        except ValueError as error:
            raise ConfigError(
                f"{self.registry_password_file} holds no password, which is one word"
            ) from error
        return url.with_password(self.registry, password)
