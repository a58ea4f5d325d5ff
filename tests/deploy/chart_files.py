"""The chart, the sets of values it is tested with, and what it is known to render from them.

Knows files and the helm program, if there is one. What is right about the objects is the tests' business.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
CHART = HERE.parents[1] / "deploy/helm/pagewire"
SETS = sorted(path.stem for path in (HERE / "values").glob("*.yaml"))
RELEASE, NAMESPACE = "chat", "llm"
HELM = os.environ.get("PAGEWIRE_HELM") or shutil.which("helm")
NO_HELM = "helm is missing: it is not on PATH, and PAGEWIRE_HELM does not name it (docs/deploy.md)"

Object = dict[str, Any]


def values_of(name: str) -> Path:
    return HERE / "values" / f"{name}.yaml"


def golden_of(name: str) -> Path:
    return HERE / "golden" / f"{name}.yaml"


def helm(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """helm with ``words``, without a cluster and without the user's settings."""
    assert HELM
    quiet = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "KUBECONFIG": "/nonexistent"}
    return subprocess.run([HELM, *words], env=quiet, capture_output=True, text=True, timeout=60)


def render(name: str, *more: str) -> str:
    """What ``helm template`` makes of a set of values. What the chart draws by lot says DRAWN."""
    done = helm("template", RELEASE, CHART, "--namespace", NAMESPACE, "--values", values_of(name), *more)
    assert done.returncode == 0, done.stderr
    drawn = r"^(  (?:cluster-secret|api-keys|metrics-key|redis-password)): \S{40,}$"
    made = re.sub(drawn, r"\1: DRAWN", done.stdout, flags=re.MULTILINE)
    return re.sub(r"\n\n+---\n", "\n---\n", made).rstrip() + "\n"  # Helm 3 and 4 part objects differently


def objects(name: str) -> list[Object]:
    """The objects of a golden file."""
    return [made for made in yaml.safe_load_all(golden_of(name).read_text()) if made]


def pods(name: str) -> dict[str, Object]:
    """Pod templates by component."""
    found = {}
    for made in objects(name):
        if made["kind"] == "Deployment":
            found[made["metadata"]["labels"]["app.kubernetes.io/component"]] = made["spec"]["template"]
    return found


def container(pod: Object) -> Object:
    (only,) = pod["spec"]["containers"]
    found: Object = only
    return found
