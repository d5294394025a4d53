"""All settings, read from `PULSE_*` environment variables and `.env`, in one typed class."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from music_pulse.errors import ConfigurationError

PROJECT_ROOT = Path(__file__).resolve().parent.parent
"""Where `dbt_project/` and `profiles.yml` lie."""

DEMO_DBNAME = "pulse_demo"
"""The database of the synthetic demo, so that invented listens never mix with real ones."""

DBT_VARS = {
    "time_zone": "text",
    "exclude_near_duplicates": "true or false",
    "identity_repair": "true or false",
    **dict.fromkeys(
        (
            "min_play_seconds", "near_duplicate_seconds", "session_gap_minutes", "trending_window_minutes",
            "trending_slide_minutes", "trending_watermark_minutes", "trending_listens_per_user",
            "trending_clock_ahead_seconds", "trending_half_life_minutes", "trending_memory_minutes",
        ),
        "a number from 0 on",
    ),
}  # fmt: skip
"""What the vars of dbt_project.yml must be: a wrong one would else fail in SQL, in the middle of a build."""

Role = Literal["admin", "loader", "transformer", "reader", "app"]


class Credentials(NamedTuple):
    """How to log in to Postgres in one role."""

    host: str
    port: int
    user: str
    password: str
    dbname: str
    sslmode: str

    def __repr__(self) -> str:
        return f"Credentials({self.user}@{self.host}:{self.port}/{self.dbname})"


class Settings(BaseSettings):
    """Every option, with a default that works on a fresh machine; secrets never show in `repr`."""

    model_config = SettingsConfigDict(
        env_prefix="PULSE_", env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True
    )

    home: Path = Field(Path(".pulse"), description="Folder of all local state.")
    target: Literal["embedded", "docker", "prod"] = Field(
        "embedded", description="Which Postgres: the embedded one, or one that the settings name."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Least severe level on the console."
    )

    listenbrainz_url: str = Field("https://api.listenbrainz.org", description="Root of the API.")
    listenbrainz_token: SecretStr | None = Field(None, description="User token (not needed to read).")
    listenbrainz_user: str = Field("rob", description="The public user of `pulse run` without --user.")
    listenbrainz_connect_timeout: float = Field(10.0, gt=0, description="Seconds to connect.")
    listenbrainz_read_timeout: float = Field(60.0, gt=0, description="Seconds between bytes of an answer.")
    listenbrainz_attempts: int = Field(6, ge=1, description="Tries of one request before giving up.")
    listenbrainz_lookback_hours: int = Field(
        48, ge=0, description="Trailing hours that each run reads again, for scrobbles sent late."
    )

    reconcile_windows: int = Field(
        3, ge=0, description="Stale windows of a user's history that each run compares with ListenBrainz."
    )
    reconcile_fresh_days: float = Field(7.0, ge=0, description="Days after which a compared window is stale.")
    reconcile_max_vanished: float = Field(
        0.5, ge=0, le=1, description="Share of a history that may be gone at ListenBrainz without --confirm."
    )

    enrich_recordings: int = Field(2_000, ge=0, description="Recordings that a run asks for metadata; 0 asks for none.")
    enrich_refresh_days: float = Field(90.0, gt=0, description="Days after which metadata is asked for again.")

    postgres_host: str = Field("127.0.0.1", description="Server (target docker or prod).")
    postgres_port: int = Field(5432, ge=1, le=65535, description="Port (target docker or prod).")
    postgres_user: str = Field("postgres", description="Login that may create schemas and roles.")
    postgres_password: SecretStr = Field(SecretStr(""), description="Its password.")
    postgres_dbname: str = Field("pulse", description="Database of the warehouse.")
    postgres_sslmode: str = Field("prefer", description="libpq's sslmode (target docker or prod).")
    postgres_loader_user: str | None = Field(None, description="Login that writes raw; default: the above.")
    postgres_loader_password: SecretStr | None = Field(None, description="Its password.")
    postgres_transformer_user: str | None = Field(None, description="Login of dbt; default: the above.")
    postgres_transformer_password: SecretStr | None = Field(None, description="Its password.")
    postgres_reader_user: str | None = Field(None, description="Login that reads marts; default: the above.")
    postgres_reader_password: SecretStr | None = Field(None, description="Its password.")
    postgres_app_user: str | None = Field(None, description="Login of what the server keeps; default: the above.")
    postgres_app_password: SecretStr | None = Field(None, description="Its password.")

    export_dir: str = Field(
        default_factory=lambda given: str(given.get("home", "") / Path("warehouse")),
        description="Folder or s3:// address of the Parquet snapshots; default: warehouse in home.",
    )
    archive_dir: Path = Field(
        default_factory=lambda given: given.get("home", "") / Path("stream"),
        description="Folder of what the stream lands, as Parquet by day; default: stream in home.",
    )
    s3_endpoint_url: str | None = Field(None, description="S3 endpoint, where it isn't AWS.")
    s3_access_key_id: str | None = Field(None, description="S3 key; default: the AWS environment's.")
    s3_secret_access_key: SecretStr | None = Field(None, description="Its secret.")
    gcs_endpoint_url: str | None = Field(
        None, description="Endpoint of Google Cloud Storage, where it isn't Google's: asked without credentials."
    )

    blocklist_key: SecretStr | None = Field(None, description="Key of raw.blocked_users; default: a file in home.")

    dbt_vars: dict[str, Any] = Field({}, description='dbt vars, as JSON: {"time_zone": "Europe/Berlin"}.')
    dbt_threads: int = Field(2, ge=1, description="Models that dbt builds at once.")
    kafka_bootstrap: str | None = Field(None, description="host:port,... of the brokers; default: the embedded one.")
    jar_cache: Path | None = Field(None, description="Folder of Kafka's and Spark's jars; default: jars in home.")
    kafka_topic: str = Field(
        "listens", pattern=r"^[a-zA-Z0-9._-]{1,200}$", description="Topic of the listens; dead letters beside it."
    )
    kafka_partitions: int = Field(3, ge=1, description="Partitions of a topic that we create.")
    kafka_retention_days: int = Field(30, ge=1, description="How long a topic that we create keeps its events.")
    kafka_group: str = Field(
        "music-pulse", pattern=r"^[a-zA-Z0-9._-]{1,100}$", description="How our consumer groups' names begin."
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="How the brokers are spoken to."
    )
    kafka_ssl_cafile: Path | None = Field(None, description="CA certificates (PEM); default: the system's.")
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="How SASL logs in."
    )
    kafka_sasl_username: str | None = Field(None, description="Login of SASL.")
    kafka_sasl_password: SecretStr | None = Field(None, description="Its password.")
    kafka_connect_timeout: float = Field(10.0, gt=0, description="Seconds until a broker is out of reach.")
    kafka_delivery_timeout: float = Field(120.0, gt=0, description="Seconds until an event counts as undelivered.")
    kafka_encoding: Literal["json", "avro"] = Field("json", description="How events are written.")
    schema_registry_url: str | None = Field(None, description="Confluent-compatible registry (encoding avro).")
    schema_registry_username: str | None = Field(None, description="Its login, where it wants one.")
    schema_registry_password: SecretStr | None = Field(None, description="Its password.")

    trending_window_minutes: int = Field(5, ge=1, le=1440, description="Length of a trending window.")
    trending_slide_minutes: int = Field(1, ge=1, le=1440, description="A window begins every so many minutes.")
    trending_watermark_minutes: int = Field(10, ge=0, le=1440, description="How late a listen may come.")
    trending_listens_per_user: int = Field(
        5, ge=1, description="Listens of one user to one track that count in a window."
    )
    trending_clock_ahead_seconds: int = Field(
        60, ge=0, le=3600, description="How far ahead of the broker a listen may be to count."
    )
    trending_trigger_seconds: float = Field(1.0, ge=0, le=60, description="Shortest time between two batches.")
    trending_batch_events: int = Field(250_000, ge=100, description="Most events of a batch; bounds memory.")

    spark_master: str = Field(
        "local[2]", pattern=r"^(local\[([1-9][0-9]*|\*)\]|spark://\S+)$", description="Where the trending job computes."
    )
    spark_driver_host: str = Field("127.0.0.1", description="Under which name the cluster's workers reach the job.")
    spark_memory: str = Field("2g", pattern=r"^[1-9][0-9]*[mg]$", description="Heap of the trending job's JVM.")

    metrics_host: str = Field("127.0.0.1", description="Address on which --metrics-port is served.")

    serve_host: str = Field("127.0.0.1", description="Address of `pulse serve`.")
    serve_port: int = Field(8765, ge=0, le=65535, description="Its port; 0 takes a free one.")
    serve_rate_limit: int = Field(
        300, ge=1, description="Requests to /1/ in 10 seconds, of one token or, without one, of one address."
    )

    docs_port: int = Field(0, ge=0, le=65535, description="Port of `pulse docs`; 0 takes a free one.")

    airflow_port: int = Field(8081, ge=0, le=65535, description="Port of `pulse airflow`; 0 takes a free one.")
    airflow_parallelism: int = Field(4, ge=1, description="Tasks that the local Airflow runs at once.")
    alert_slack_url: SecretStr | None = Field(None, description="Slack webhook that is told of failures.")
    alert_telegram_token: SecretStr | None = Field(None, description="Telegram bot that tells of failures.")
    alert_telegram_chat: str | None = Field(None, description="Whom it tells.")
    alert_webhook_url: SecretStr | None = Field(None, description="Any address that takes a failure as JSON by POST.")

    @field_validator("home", "jar_cache")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return value and value.expanduser().absolute()

    @field_validator("postgres_dbname")
    @classmethod
    def _not_the_demo(cls, value: str) -> str:
        if value == DEMO_DBNAME:
            raise ValueError(f"{DEMO_DBNAME} holds invented listens only: unset it and add --demo")
        return value

    @field_validator("dbt_vars")
    @classmethod
    def _of_their_types(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name, given in value.items():
            is_number = type(given) in (int, float) and 0 <= given < float("inf")
            is_of = {"text": type(given) is str, "true or false": type(given) is bool, "a number from 0 on": is_number}
            wanted = DBT_VARS.get(name, "")
            if not is_of.get(wanted, True):
                raise ValueError(f"{name} must be {wanted}, not {given!r}")
        return value

    @field_validator("listenbrainz_url")
    @classmethod
    def _http(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        return value.rstrip("/")

    def demo(self) -> Settings:
        """Return the settings of the synthetic demo: a database, an export folder and a topic of its own."""
        export_dir = self.export_dir.rstrip("/") + "_demo"
        topic = self.kafka_topic + "_demo"
        archive_dir = self.archive_dir.with_name(self.archive_dir.name + "_demo")
        return self.model_copy(
            update={
                "postgres_dbname": DEMO_DBNAME,
                "export_dir": export_dir,
                "archive_dir": archive_dir,
                "kafka_topic": topic,
            }
        )

    def credentials(self, role: Role) -> Credentials:
        """Return the login of `role`; the plain one unless that role has its own."""
        user: str | None = None
        password: SecretStr | None = None
        if role != "admin":
            user = getattr(self, f"postgres_{role}_user")
            password = getattr(self, f"postgres_{role}_password")
        if user is None:
            user, password = self.postgres_user, self.postgres_password
        return Credentials(
            host=self.postgres_host,
            port=self.postgres_port,
            user=user,
            password=password.get_secret_value() if password else "",
            dbname=self.postgres_dbname,
            sslmode=self.postgres_sslmode,
        )


def load_settings(**overrides: Any) -> Settings:
    """Read the settings; a bad value raises `ConfigurationError` naming the variable."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        name = "PULSE_" + "_".join(str(part) for part in first["loc"]).upper()
        raise ConfigurationError(f"{name}: {first['msg']}") from None
    except ValueError as error:  # pydantic-settings: a value that should be JSON
        raise ConfigurationError(f"a PULSE_* setting can't be read: {error}") from None
