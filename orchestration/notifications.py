"""Failures, retries and missed deadlines, told to Slack, Telegram or any address: `PULSE_ALERT_*`.

Addresses and tokens are secrets: what goes wrong is logged without them, and never fails a task.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from airflow.sdk import BaseNotifier

from music_pulse.logs import without_secrets
from music_pulse.settings import Settings, load_settings

logger = logging.getLogger(__name__)

TELEGRAM_URL = "https://api.telegram.org"
_SECONDS = 10.0
_ATTEMPTS = 3
_LONGEST = 1_000


class Alert(NamedTuple):
    """What happened to which task (empty for a whole run)."""

    event: str
    dag_id: str
    run_id: str
    task_id: str = ""
    map_index: int = -1
    try_number: int = 0
    error: str = ""
    log_url: str = ""

    @property
    def text(self) -> str:
        """A few lines for a person."""
        task = f".{self.task_id}" if self.task_id else ""
        place = f"[{self.map_index}]" if self.map_index >= 0 else ""
        attempt = f" (try {self.try_number})" if self.try_number else ""
        title = f"Music Pulse: {self.dag_id}{task}{place} {self.event}{attempt}"
        return "\n".join(line for line in (title, self.run_id, self.error, self.log_url) if line)


class WebhookNotifier(BaseNotifier):
    """Tells every address of the settings what happened: "failed", "is retried", "missed its deadline".

    For a task's or a DAG's callbacks and, awaited, for a deadline's.
    """

    def __init__(self, event: str = "failed", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.event = event

    def notify(self, context: Mapping[str, Any]) -> None:
        """Send, and log what can't be sent."""
        send(load_settings(), alert_of(self.event, context))

    async def async_notify(self, context: Mapping[str, Any]) -> None:
        """Send without keeping the triggerer's other work waiting."""
        await asyncio.to_thread(self.notify, context)


def alert_of(event: str, context: Mapping[str, Any]) -> Alert:
    """Take what a callback's context tells: a task's, a run's, or the plain one of a deadline."""
    instance, run = context.get("ti"), context.get("dag_run")
    run_fields = run if isinstance(run, Mapping) else {name: getattr(run, name, "") for name in ("dag_id", "run_id")}
    error = context.get("exception") or context.get("reason") or ""
    return Alert(
        event=event,
        dag_id=str(getattr(instance, "dag_id", None) or run_fields.get("dag_id") or ""),
        run_id=str(run_fields.get("run_id") or context.get("run_id") or ""),
        task_id=str(getattr(instance, "task_id", "")),
        map_index=_number(getattr(instance, "map_index", -1), -1),
        try_number=_number(getattr(instance, "try_number", 0), 0),
        error=without_secrets(" ".join(str(error).split()))[:_LONGEST],
        log_url=str(getattr(instance, "log_url", "") or ""),
    )


def send(settings: Settings, alert: Alert) -> int:
    """Post `alert` to every address that is set; return how many took it."""
    taken = sum(_post(name, url, body) for name, url, body in _messages(settings, alert))
    if not taken:
        logger.warning("nobody was told: %s", alert.text)
    return taken


def _messages(settings: Settings, alert: Alert) -> Iterator[tuple[str, str, dict[str, Any]]]:
    if settings.alert_slack_url:
        yield "Slack", settings.alert_slack_url.get_secret_value(), {"text": alert.text}
    if settings.alert_telegram_token and settings.alert_telegram_chat:
        url = f"{TELEGRAM_URL}/bot{settings.alert_telegram_token.get_secret_value()}/sendMessage"
        yield "Telegram", url, {"chat_id": settings.alert_telegram_chat, "text": alert.text}
    if settings.alert_webhook_url:
        yield "the webhook", settings.alert_webhook_url.get_secret_value(), {**alert._asdict(), "text": alert.text}


def _post(name: str, url: str, body: dict[str, Any]) -> bool:
    """Post as JSON, a few times where the other side is at fault. Logs no address: it is the secret."""
    import requests

    problem = ""
    for _ in range(_ATTEMPTS):
        try:
            answer = requests.post(url, json=body, timeout=_SECONDS, allow_redirects=False)
        except requests.RequestException as error:
            problem = type(error).__name__
            continue
        if answer.ok:
            return True
        problem = f"status {answer.status_code}"
        if answer.status_code < 500:
            break
    logger.error("%s did not take an alert: %s", name, problem)
    return False


def _number(value: Any, default: int) -> int:
    return value if isinstance(value, int) else default
