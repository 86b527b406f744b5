"""The chart with the values that its tests try, rendered once, and Paceline's own reading of the result."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import yaml

from paceline.config import Config, load_config
from tools.kubectl import ROOT, parse_documents, render_chart

_EXAMPLE = "https://api.example.com"
_PEER = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}, "podSelector": {}}
_OPERATED = {name: {"enabled": True} for name in ("serviceMonitor", "prometheusRule", "dashboards")}
CASES: dict[str, dict[str, Any]] = {
    "as it stands": {},
    "three replicas": {"replicas": 3},
    "long work": {"replicas": 2, "drainSeconds": 900},
    "shares for later": {"replicas": 1, "shares": 4},
    "monitored": {
        "monitoring": {
            **_OPERATED,
            "serviceMonitor": {"enabled": True, "labels": {"release": "kube-prometheus-stack"}},
            "prometheusRule": {"enabled": True, "runbookUrlBase": "https://wiki.example.com/paceline/"},
        }
    },
    "private upstreams": {
        "credentials": ["orders", "internal-ca"],
        "config": {
            "defaults": {"proxy": "http://10.9.9.9:3128", "concurrency": {"limit": 8}},
            "upstreams": {
                "orders": {
                    "base_url": "https://10.20.0.15:8443/v1",
                    "allow_private": True,
                    "auth": {
                        "basic": {"user": "paceline", "password": "${file:/etc/paceline/credentials/orders/password}"}
                    },
                    "tls": {"ca_file": "/etc/paceline/credentials/internal-ca/ca.crt"},
                }
            },
        },
        "networkPolicy": {
            "privateUpstreams": [{"cidr": "10.20.0.0/24", "ports": [8443]}, {"peer": _PEER, "ports": [8000, 9000]}]
        },
    },
    "many callers": {
        "apiKeys": {
            "secret": "others",
            "callers": [
                {"name": "checkout", "weight": 3},
                {"name": "reports", "max_priority": "bulk", "upstreams": ["example"]},
            ],
        }
    },
    "words of YAML": {
        "config": {
            "egress": {"mode": "declared", "deny": ["198.51.100.0/24"]},
            "compare": {"target": {"upstream": "example", "path": "/things"}},
            "upstreams": {
                "example": {
                    "headers": {"x-github-api-version": "2022-11-28", "x-on": "yes"},
                    "rate": [{"limit": 50_000_000, "per": "1h"}, {"limit": 0.5, "per": "1m"}],
                }
            },
        }
    },
    "elsewhere": {
        "image": {"repository": "registry.example.com/paceline", "digest": "sha256:" + "0" * 64},
        "imagePullSecrets": ["registry"],
        "port": 18080,
        "adminPort": 19090,
        "preStopSeconds": 0,
        "partingSeconds": 0,
        "drainSeconds": 90,
        "logLevel": "debug",
        "podAnnotations": {"example.com/owner": "us"},
        "podLabels": {"team": "us"},
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "spot", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {}},
        "priorityClassName": "high",
        "podDisruptionBudget": {"enabled": False},
        "networkPolicy": {"scrapers": [], "publicPorts": [443]},
        "monitoring": {"dashboards": {"enabled": True, "labels": {"grafana_dashboard": None, "board": "yes"}}},
    },
    "no policy": {
        "networkPolicy": {"enabled": False},
        "config": {
            "upstreams": {"orders": {"base_url": "http://orders.shop.svc:8000", "allow_private": True}, "example": None}
        },
    },
}


@functools.cache
def render_case(case: str) -> str:
    """What Helm makes of a case's values."""
    return render_chart(CASES[case])


def objects_by_kind(case: str) -> dict[str, dict[str, Any]]:
    """The objects of a case by kind; the dashboards, a second ConfigMap, as `Dashboards`."""
    made = {}
    for document in parse_documents(render_case(case)):
        dashboards = document["metadata"]["name"].endswith("-dashboards")
        made["Dashboards" if dashboards else document["kind"]] = document
    return made


def pod(case: str) -> dict[str, Any]:
    return dict(objects_by_kind(case)["Deployment"]["spec"]["template"]["spec"])


def container(case: str) -> dict[str, Any]:
    (only,) = pod(case)["containers"]
    return dict(only)


def write_config_files(configmap: dict[str, Any], folder: Path) -> Path:
    """The configuration as the pod has it, with every file it refers to, below a folder instead of /etc/paceline."""
    text = configmap["data"]["paceline.yaml"]
    for number, path in enumerate(sorted(set(re.findall(r"/etc/paceline/[^}\s\"]+", text)))):
        file = folder / Path(path).relative_to("/etc/paceline")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"a secret of more than sixteen characters {number}".replace(" ", "-") + "\n")
    config = folder / "config" / "paceline.yaml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(text.replace("/etc/paceline", str(folder)))
    return config


def config_of(case: str, folder: Path) -> Config:
    return load_config(write_config_files(objects_by_kind(case)["ConfigMap"], folder), {})


def version() -> str:
    """The version in pyproject.toml."""
    found = re.search(r'(?m)^version = "(.+)"$', (ROOT / "pyproject.toml").read_text())
    assert found
    return found[1]


def values() -> dict[str, Any]:
    """The chart's own values."""
    return dict(yaml.safe_load((ROOT / "deploy/helm/paceline/values.yaml").read_text()))
