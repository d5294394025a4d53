"""What Airflow and its tasks are told; that it starts and stops is in tests/orchestration."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from music_pulse.airflow import airflow_environment
from music_pulse.settings import Settings


def test_tasks_keep_the_admins_login_where_dbt_has_one_of_its_own(tmp_path: Path) -> None:
    settings = Settings(
        _env_file=None,  # type: ignore[call-arg]
        home=tmp_path,
        target="prod",
        postgres_user="boss",
        postgres_password=SecretStr("a"),
        postgres_transformer_user="builder",
        postgres_transformer_password=SecretStr("b"),
    )
    told = airflow_environment(settings)
    assert (told["PULSE_POSTGRES_USER"], told["PULSE_POSTGRES_PASSWORD"]) == ("boss", "a")
    assert (told["PULSE_POSTGRES_TRANSFORMER_USER"], told["PULSE_POSTGRES_TRANSFORMER_PASSWORD"]) == ("builder", "b")
