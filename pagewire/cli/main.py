"""The ``pagewire`` command: its subcommands, and how an error ends it. Loads no torch by itself.

An error that is the user's to mend (``PagewireError``) is one line on standard error and exit code 2.
"""

from __future__ import annotations

import sys

import typer

from pagewire import __version__, packages
from pagewire.cli import bench, doctor, foreign, members, nodes, role, scale, serve
from pagewire.errors import PagewireError

_EVEN_IF_BROKEN = ("doctor", "version")  # these must run where the others cannot

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def start(context: typer.Context) -> None:
    """Serve large language models with prefill and decode on separate processes.

    Begin with [bold]pagewire serve[/bold], and [bold]pagewire doctor[/bold] when something is odd.
    """
    if context.invoked_subcommand not in _EVEN_IF_BROKEN:
        packages.check()


@app.command()
def version() -> None:
    """Print the version of pagewire."""
    print(__version__)


app.command()(serve.serve)
app.command()(nodes.router)
app.command()(nodes.prefill)
app.command()(nodes.decode)
app.command()(nodes.worker)
app.command()(role.role)
app.command()(scale.scale)
app.command()(members.members)
app.command()(doctor.doctor)
app.add_typer(bench.app, name="bench")


def main() -> None:
    try:
        app(foreign.in_our_words(sys.argv[1:]), prog_name="pagewire")
    except PagewireError as error:
        print(f"pagewire: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
