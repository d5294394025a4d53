from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from music_pulse.errors import ConfigurationError
from music_pulse.settings import DBT_VARS, PROJECT_ROOT, Settings, load_settings


def test_env_example_lists_every_setting_and_no_other() -> None:
    text = (PROJECT_ROOT / ".env.example").read_text(encoding="utf-8")
    listed = set(re.findall(r"^#?(PULSE_[A-Z0-9_]+)=", text, re.MULTILINE))
    assert listed == {f"PULSE_{name}".upper() for name in Settings.model_fields}


def test_env_example_is_itself_a_valid_env_file_with_the_defaults() -> None:
    given = Settings(_env_file=PROJECT_ROOT / ".env.example")
    defaults = Settings(_env_file=None)
    assert given == defaults


def test_parquet_lies_in_home_wherever_a_command_is_called(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path)
    assert (settings.export_dir, settings.archive_dir) == (str(tmp_path / "warehouse"), tmp_path / "stream")
    assert load_settings(home=tmp_path, export_dir="s3://bucket/marts").export_dir == "s3://bucket/marts"
    with pytest.raises(ConfigurationError, match="PULSE_HOME"):
        load_settings(home=1)


def test_every_setting_says_what_it_is() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_secrets_never_show_in_repr_or_text(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "LISTENBRAINZ_TOKEN",
        "POSTGRES_PASSWORD",
        "POSTGRES_READER_PASSWORD",
        "S3_SECRET_ACCESS_KEY",
        "KAFKA_SASL_PASSWORD",
        "SCHEMA_REGISTRY_PASSWORD",
    ):
        monkeypatch.setenv(f"PULSE_{name}", "hush-hush")
    settings = load_settings()
    shown = f"{settings!r} {settings} {settings.credentials('admin')!r} {settings.model_dump_json()}"
    assert "hush-hush" not in shown
    assert settings.credentials("admin").password == "hush-hush"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PULSE_TARGET", "moon"),
        ("PULSE_LISTENBRAINZ_URL", "ftp://example"),
        ("PULSE_POSTGRES_PORT", "70000"),
        ("PULSE_LISTENBRAINZ_READ_TIMEOUT", "0"),
        ("PULSE_DBT_VARS", "{not json"),
        ("PULSE_DBT_VARS", '{"min_play_seconds": "abc"}'),
        ("PULSE_DBT_VARS", '{"near_duplicate_seconds": -1}'),
        ("PULSE_DBT_VARS", '{"session_gap_minutes": true}'),
        ("PULSE_DBT_VARS", '{"identity_repair": "false"}'),
        ("PULSE_DBT_VARS", '{"time_zone": 2}'),
        ("PULSE_KAFKA_TOPIC", "no spaces"),
        ("PULSE_KAFKA_SASL_MECHANISM", "GSSAPI"),
    ],
)
def test_a_bad_value_is_one_line_that_names_its_variable(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert "\n" not in str(caught.value)
    assert name.removeprefix("PULSE_").lower() in str(caught.value).lower()


def test_a_role_without_a_login_of_its_own_takes_the_plain_one() -> None:
    settings = load_settings(
        postgres_user="owner", postgres_password="a", postgres_reader_user="r", postgres_reader_password="b"
    )
    assert settings.credentials("loader")[2:4] == ("owner", "a")
    assert settings.credentials("reader")[2:4] == ("r", "b")


def test_the_demo_has_a_database_an_export_folder_and_a_topic_of_its_own() -> None:
    demo = load_settings(export_dir="out/", kafka_topic="plays").demo()
    assert (demo.postgres_dbname, demo.export_dir, demo.kafka_topic) == ("pulse_demo", "out_demo", "plays_demo")


def test_home_is_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings().home == tmp_path / ".pulse"


def test_every_dbt_var_has_a_type_that_its_default_is_of(monkeypatch: pytest.MonkeyPatch) -> None:
    project = yaml.safe_load((PROJECT_ROOT / "dbt_project" / "dbt_project.yml").read_text(encoding="utf-8"))
    assert project["vars"].keys() == DBT_VARS.keys()
    given = {**project["vars"], "one_of_a_fork": []}
    monkeypatch.setenv("PULSE_DBT_VARS", json.dumps(given))
    assert load_settings().dbt_vars == given
