"""Alerts, sent for real to a local receiver."""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from doubles.webhook import WebhookDouble

from music_pulse.settings import Settings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Airflow's own, as it is imported
    from orchestration import notifications
    from orchestration.notifications import Alert, WebhookNotifier, alert_of, send

SECRET = "s3cr3t-token"
ALERT = Alert("failed", "music_pulse_daily", "scheduled__2026-11-21", "user.extract", 1, 3, "no answer", "http://log")


@pytest.fixture
def receiver() -> Iterator[WebhookDouble]:
    with WebhookDouble() as double:
        yield double


def settings_for(url: str, **more: Any) -> Settings:
    return Settings(_env_file=None, alert_webhook_url=url, **more)  # type: ignore[call-arg]


def test_slack_telegram_and_any_address_each_get_what_they_take(
    receiver: WebhookDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "TELEGRAM_URL", receiver.url)
    settings = settings_for(
        f"{receiver.url}/any",
        alert_slack_url=f"{receiver.url}/slack/{SECRET}",
        alert_telegram_token=SECRET,
        alert_telegram_chat="42",
    )
    assert send(settings, ALERT) == 3
    bodies = dict(receiver.received)
    assert bodies[f"/slack/{SECRET}"] == {"text": ALERT.text}
    assert bodies[f"/bot{SECRET}/sendMessage"] == {"chat_id": "42", "text": ALERT.text}
    assert bodies["/any"] == {**ALERT._asdict(), "text": ALERT.text}


def test_the_text_says_what_failed_where_and_why() -> None:
    assert ALERT.text.splitlines() == [
        "Music Pulse: music_pulse_daily.user.extract[1] failed (try 3)",
        "scheduled__2026-11-21",
        "no answer",
        "http://log",
    ]


def test_a_receiver_that_is_ill_is_asked_again_one_that_refuses_is_not(receiver: WebhookDouble) -> None:
    receiver.statuses += [503, 500]
    assert send(settings_for(receiver.url), ALERT) == 1
    assert len(receiver.received) == 3
    receiver.statuses += [404]
    assert send(settings_for(receiver.url), ALERT) == 0
    assert len(receiver.received) == 4


def test_what_can_not_be_sent_is_logged_without_the_address_and_raises_nothing(
    receiver: WebhookDouble, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.statuses += [403]
    with caplog.at_level(logging.DEBUG):
        send(settings_for(f"{receiver.url}/{SECRET}", alert_slack_url=f"http://127.0.0.1:1/{SECRET}"), ALERT)
    assert "the webhook did not take an alert: status 403" in caplog.text
    assert "Slack did not take an alert: ConnectionError" in caplog.text
    assert SECRET not in "\n".join(record.getMessage() for record in caplog.records if record.levelno > logging.DEBUG)


def test_a_password_in_an_error_is_blanked() -> None:
    alert = alert_of("failed", {"exception": ValueError("no login: postgresql://me:hunter2@host/db password=hunter2")})
    assert "hunter2" not in alert.text


def test_a_callback_tells_of_the_task_it_is_called_for(
    receiver: WebhookDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULSE_ALERT_WEBHOOK_URL", receiver.url)
    instance = SimpleNamespace(dag_id="d", task_id="t", map_index=-1, try_number=2, log_url="http://log")
    WebhookNotifier("is retried")({"ti": instance, "run_id": "r", "exception": RuntimeError("gone")})
    [(_, body)] = receiver.received
    assert (body["event"], body["dag_id"], body["task_id"], body["try_number"], body["error"]) == (
        "is retried", "d", "t", 2, "gone",
    )  # fmt: skip


def test_a_missed_deadline_is_told_from_the_triggerer(receiver: WebhookDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Airflow's CallbackTrigger does it: made with the plain context of a run, then awaited."""
    monkeypatch.setenv("PULSE_ALERT_WEBHOOK_URL", receiver.url)

    async def call() -> None:
        await WebhookNotifier(event="missed its deadline", context={"dag_run": {"dag_id": "d", "run_id": "r"}})

    asyncio.run(call())
    [(_, body)] = receiver.received
    assert body["text"].startswith("Music Pulse: d missed its deadline")
    assert body["run_id"] == "r"
