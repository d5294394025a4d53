"""docker-compose.yml, read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DEFAULT_PORTS = {
    "postgres": "5432",
    "kafka": "9092",
    "registry": "8080",
    "s3": "9333",
    "grafana": "3000",
    "prometheus": "9090",
    "alertmanager": "9093",
}
"""Where others listen unless told otherwise."""
