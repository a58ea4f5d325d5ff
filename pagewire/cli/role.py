"""``pagewire role``: what the nodes of a router offer, and having one of them offer something else.

Asks a router's admin port. Knows HTTP and tables; knows no node.
"""

from __future__ import annotations

import http.client
import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pagewire.cli.directory_flags import SecretFile
from pagewire.errors import ConfigError

TIMEOUT_S = 10.0


def role(
    node: Annotated[str | None, typer.Argument(metavar="[NODE]", help="Its name.")] = None,
    to: Annotated[str | None, typer.Argument(metavar="[prefill|decode]", help="What it is to offer.")] = None,
    admin_port: Annotated[
        int, typer.Option(metavar="PORT", help="The --admin-port of a router on this host.")
    ] = 7501,
    secret_file: SecretFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")] = False,
) -> None:
    """Show what each node offers, or have one of them offer another role. Nothing that runs is disturbed.

    [bold]Examples[/bold]:

        pagewire role

        pagewire role worker-2 prefill

    Only nodes that were started by pagewire worker, or pagewire serve --admin-port, can change. All routers
    hear of it from the node itself.
    """
    from pagewire.secret import admin_token, load_secret, own_secret  # loads zmq

    token = admin_token(load_secret(secret_file or own_secret()))
    if node is None:
        answer = _ask(admin_port, token, "GET", "/admin/nodes")
    elif to is None:
        raise ConfigError("say what the node is to offer: prefill or decode")
    else:
        answer = _ask(admin_port, token, "POST", f"/admin/nodes/{node}/role", {"role": to})
    if as_json:
        print(json.dumps(answer))
    elif node is None:
        _show(answer["nodes"])
    else:
        print(f"{answer['node']} is a {answer['role']} node now ({answer['ms']:.0f} ms)")


def _ask(port: int, token: str, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        found = json.loads(answer.read())
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ConfigError(
            f"no router answers on the admin port {port}: start it with --admin-port"
        ) from error
    finally:
        connection.close()
    if answer.status != 200:
        raise ConfigError(found["error"]["message"])
    return found


def _show(nodes: list[dict[str, Any]]) -> None:
    table = Table("node", "role", "can be", "running", "waiting", "free pages")
    for node in sorted(nodes, key=lambda node: (node["role"], node["node"])):
        load = node["load"]
        offers = f"{node['role']}, draining" if node["draining"] else node["role"]
        pages = f"{load['pages_free']} of {load['pages_total']}"
        can_be = " or ".join(node["roles"])
        table.add_row(node["node"], offers, can_be, str(load["running"]), str(load["waiting"]), pages)
    Console().print(table)
