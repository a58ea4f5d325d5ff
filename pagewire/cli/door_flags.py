"""The flags of a router's front door: where it listens, who may come in, and how.

Knows flags; knows no command and no route.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

import typer

from pagewire.errors import ConfigError
from router.keys import is_key


@dataclass(frozen=True, kw_only=True)
class DoorFlags:
    """Where clients come in."""

    host: Annotated[
        str,
        typer.Option(metavar="HOST", help="Where to listen for clients.", rich_help_panel="HTTP"),
    ] = "127.0.0.1"
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, help="0 takes a free one.", rich_help_panel="HTTP")
    ] = 8000
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            envvar="PAGEWIRE_API_KEY",
            metavar="KEY",
            help="A key that clients must send (Authorization: Bearer KEY); may be repeated. Command lines "
            "can be read by everybody on this machine: better use a file.",
            rich_help_panel="HTTP",
        ),
    ] = None
    api_key_file: Annotated[
        str | None,
        typer.Option(
            envvar="PAGEWIRE_API_KEY_FILE",
            metavar="FILE",
            help="Keys that clients may send, one a line, or NAME: KEY. Only you may be able to read it; "
            "changes count within a second.",
            rich_help_panel="HTTP",
        ),
    ] = None
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            help="Let other hosts in without a key.",
            rich_help_panel="HTTP",
        ),
    ] = False
    ssl_certfile: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Serve HTTPS with this certificate.", rich_help_panel="HTTP"),
    ] = None
    ssl_keyfile: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Its private key, if that is not in the same file.",
            rich_help_panel="HTTP",
        ),
    ] = None
    ssl_keyfile_password: Annotated[
        str | None,
        typer.Option(
            envvar="PAGEWIRE_SSL_KEYFILE_PASSWORD",
            metavar="WORD",
            help="What the key is encrypted with; better use the environment.",
            rich_help_panel="HTTP",
        ),
    ] = None
    ssl_ca_certs: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Let in only clients with a certificate that one of these vouches for.",
            rich_help_panel="HTTP",
        ),
    ] = None
    allowed_origins: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help='Whose pages may ask from a browser, such as https://chat.example.org, or "*"; may be '
            "repeated. Default: none.",
            rich_help_panel="HTTP",
        ),
    ] = None

    def keys(self) -> tuple[str, ...]:
        """Raises ConfigError on a key that no client could send, without saying what it is."""
        keys = tuple(self.api_key or ())
        if not all(map(is_key, keys)):
            raise ConfigError("an API key must be printable ASCII without spaces, and not empty")
        return keys

    def origins(self) -> tuple[str, ...]:
        """Also as vLLM takes them, in one JSON list."""
        found: list[str] = []
        for given in self.allowed_origins or ():
            try:
                found += json.loads(given) if given.startswith("[") else [given]
            except ValueError as error:
                raise ConfigError("--allowed-origins: write an origin, or a JSON list of them") from error
        return tuple(found)
