"""The examples for deploying: they fit the server that they start, and what their readers ask of them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobpipe.cli import COMMANDS
from jobpipe.settings.server import KINDS, Settings, env_names

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
PODS = ("StatefulSet", "Deployment")
VARIABLES = {"JOBPIPE_URL", "JOBPIPE_KEY", *(name for kind in KINDS for name in env_names(kind))}
COMMAND_NAMES = {name for commands in COMMANDS.values() for name in commands}


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def pods(path: Path) -> list[dict[str, Any]]:
    return [document for document in documents(path) if document["kind"] in PODS]


def values(unit: Path, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", unit.read_text(), re.MULTILINE)


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.name)
def test_pods_are_not_told_of_services_by_variables_that_look_like_settings(manifest: Path) -> None:
    for pod in pods(manifest):
        assert pod["spec"]["template"]["spec"]["enableServiceLinks"] is False


def test_there_are_examples() -> None:
    assert len(UNITS) == 2
    assert len(MANIFESTS) == 3


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_is_understood_and_hardened(unit: Path, tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd-analyze here")
    here = tmp_path / unit.name
    here.write_text(re.sub("^ExecStart=[^ ]+", f"ExecStart={sys.executable}", unit.read_text(), flags=re.M))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", here], capture_output=True, text=True, check=False
    )
    complaints = [line for line in verified.stderr.splitlines() if unit.name in line]
    assert complaints == []
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=20", here],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert rated.returncode == 0, rated.stdout[-300:] + rated.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_gives_time_to_stop_and_signals_the_parent_alone(unit: Path) -> None:
    assert values(unit, "KillMode") == ["mixed"]
    assert float(values(unit, "TimeoutStopSec")[0]) > Settings().shutdown_grace + 10
    assert values(unit, "ExecStart")[0].split()[1] in COMMAND_NAMES
    assert {line.partition("=")[0] for line in values(unit, "Environment")} <= VARIABLES


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_pods_have_time_to_stop_and_no_rights(path: Path) -> None:
    (pod,) = [document["spec"]["template"]["spec"] for document in pods(path)]
    assert pod["terminationGracePeriodSeconds"] > Settings().shutdown_grace + 10
    assert pod["securityContext"]["runAsNonRoot"] is True
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["args"][0] in COMMAND_NAMES
    assert {variable["name"] for variable in container["env"]} <= VARIABLES


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_names_fit_one_another(path: Path) -> None:
    (document,) = pods(path)
    spec, pod = document["spec"], document["spec"]["template"]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"].items() <= labels.items()
    (container,) = pod["containers"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    volumes |= {claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
    for service in (one for one in documents(path) if one["kind"] == "Service"):
        assert service["spec"]["selector"].items() <= labels.items()
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports.keys()
        assert set(ports.values()) == {Settings().port}


@pytest.mark.parametrize("name", ["sqlite.yaml", "postgres.yaml"])
def test_servers_are_probed(name: str) -> None:
    (document,) = pods(DEPLOY / "kubernetes" / name)
    (container,) = document["spec"]["template"]["spec"]["containers"]
    assert {probe: container[probe]["httpGet"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")} == {
        "startupProbe": {"path": "/livez", "port": "http"},
        "livenessProbe": {"path": "/livez", "port": "http"},
        "readinessProbe": {"path": "/readyz", "port": "http"},
    }  # fmt: skip


def test_sqlite_is_one_server_with_its_file_on_the_volume() -> None:
    (document,) = pods(DEPLOY / "kubernetes/sqlite.yaml")
    assert (document["kind"], document["spec"]["replicas"]) == ("StatefulSet", 1)
    (container,) = document["spec"]["template"]["spec"]["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    (store,) = [one["value"] for one in container["env"] if one["name"] == "JOBPIPE_STORE"]
    assert store.startswith(f"sqlite:///{mounts['data']}/")


def test_servers_on_postgresql_are_several_and_keep_no_password_here() -> None:
    (document,) = pods(DEPLOY / "kubernetes/postgres.yaml")
    assert (document["kind"], document["spec"]["replicas"] > 1) == ("Deployment", True)
    (container,) = document["spec"]["template"]["spec"]["containers"]
    (store,) = [one for one in container["env"] if one["name"] == "JOBPIPE_STORE"]
    assert "secretKeyRef" in store["valueFrom"]
