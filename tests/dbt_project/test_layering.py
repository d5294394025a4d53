"""The dbt project keeps to its own rules: layers, names, keys, contracts and words, read from the manifest."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest

from music_pulse.settings import PROJECT_ROOT

KEY_TESTS = {"unique", "primary_key", "unique_together"}
ALLOWED_PARENTS = {
    "staging": {"source"},
    "intermediate": {"staging", "intermediate", "marts", "seeds"},
    "marts": {"intermediate", "marts"},
}
ABOUT_STAGING = {"reconciliation", "trending_recomputed", "freshness"}
"""The marts that are about what was landed: they have nothing to read it from but staging."""
LIVE = {"int_trending_listens", "int_trending_windows"}
"""What a live mart reads: views, down to raw."""
NEWEST = {"int_recordings", "int_track_recordings"}
"""Views of the newest rows of a cache."""
NO_KEY_OF_ITS_OWN = {
    "stg_batch__listens",  # append-only: the same listen may stand there several times
    "stg_batch__quarantine",
    "stg_batch__listen_counts",
    "stg_batch__tombstones",
    "stg_batch__recordings",
    "stg_batch__track_recordings",
    "stg_stream__listens",  # the database enforces the keys of these raw tables
    "stg_stream__trending_windows",
    "int_trending_listens",
    "listen_events",  # views: the key is that of the tables beneath, which the database enforces
    "daily_aggregates",
    "daily_measures",
    "daily_top",
    "near_duplicates",
    "user_streaks",
    "trending_history",
    "freshness",  # one row in all
}
WRITTEN_BY_HOOKS = {
    "int_changes",
    "int_built_changes",
    "int_built_loads",
    "int_built_rules",
    "int_known_mbids",
    "int_redirects",
    "int_user_time_zones",
}

Node = dict[str, Any]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("parsed")
    command = [sys.executable, "-c", "from dbt.cli.main import cli; cli()", "--quiet", "parse", "--no-partial-parse"]
    command += ["--project-dir", str(PROJECT_ROOT / "dbt_project"), "--profiles-dir", str(PROJECT_ROOT)]
    environment = {**os.environ, "DBT_TARGET_PATH": str(folder), "DBT_LOG_PATH": str(folder)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
    parsed: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return parsed


@pytest.fixture(scope="module")
def models(manifest: dict[str, Any]) -> list[Node]:
    return [node for node in manifest["nodes"].values() if node["resource_type"] == "model"]


def layer(node: Node) -> str:
    if node["resource_type"] == "model":
        return str(node["fqn"][1])
    return "seeds" if node["resource_type"] == "seed" else str(node["resource_type"])


def parents(manifest: dict[str, Any], node: Node) -> list[Node]:
    return [
        (manifest["nodes"] | manifest["sources"])[name]
        for name in node["depends_on"]["nodes"]
        if name != node["unique_id"]
    ]


def test_there_are_models_in_every_layer(models: list[Node]) -> None:
    assert {layer(model) for model in models} == {"staging", "intermediate", "marts"}


def test_only_staging_reads_sources_and_each_layer_reads_what_it_may(
    manifest: dict[str, Any], models: list[Node]
) -> None:
    wrong = [
        f"{model['name']} reads {parent['name']}"
        for model in models
        for parent in parents(manifest, model)
        if layer(parent) not in ALLOWED_PARENTS[layer(model)]
        and not (model["name"] in ABOUT_STAGING and layer(parent) == "staging")
    ]
    assert wrong == []


def test_a_staging_model_renames_one_source_table_and_each_has_one(
    manifest: dict[str, Any], models: list[Node]
) -> None:
    staged = []
    for model in (model for model in models if layer(model) == "staging"):
        [source] = parents(manifest, model)
        staged.append(source["unique_id"])
        assert not re.search(r"\b(join|group by|distinct|union)\b", model["raw_code"]), model["name"]
        assert model["name"] == f"stg_{source['source_name']}__{source['name'].removeprefix('_dlt_')}"
    assert sorted(staged) == sorted(manifest["sources"])


def test_names_tell_the_layer(models: list[Node]) -> None:
    pattern = {
        "staging": r"stg_[a-z]+__[a-z_]+",
        "intermediate": r"int_[a-z_]+",
        "marts": r"(?!stg_|int_|fct_|dim_)[a-z_]+",
    }
    assert [model["name"] for model in models if not re.fullmatch(pattern[layer(model)], model["name"])] == []


def test_schemas_and_materialisations_follow_the_layer(models: list[Node]) -> None:
    assert [model["name"] for model in models if model["schema"] != layer(model)] == []
    assert {model["config"]["materialized"] for model in models if layer(model) == "staging"} == {"view"}
    intermediate = [model for model in models if layer(model) == "intermediate"]
    assert {model["name"] for model in intermediate if model["config"]["materialized"] == "view"} == LIVE | NEWEST
    others = [model for model in intermediate if model["name"] not in LIVE | NEWEST]
    kept = {model["name"] for model in others if model["config"]["materialized"] == "ledger"}
    assert kept == WRITTEN_BY_HOOKS - {"int_built_rules"}  # which gains a column with each new rule
    assert {model["config"]["materialized"] for model in others if model["name"] not in kept} == {"incremental"}


def test_every_description_starts_with_the_grain(models: list[Node]) -> None:
    assert [model["name"] for model in models if not model["description"].startswith("One row ")] == []


def columns_of_raw() -> dict[str, list[str]]:
    """Return the columns of each table that extract/raw.sql and streaming/raw.sql create."""
    text = "".join((PROJECT_ROOT / folder / "raw.sql").read_text() for folder in ("extract", "streaming"))
    return {
        table: re.findall(r"^    (?!primary key)(\w+) ", body, re.MULTILINE)
        for table, body in re.findall(r"(?ms)^create table if not exists raw\.(\w+) \((.*?)^\)", text)
    }


def test_every_column_is_described(manifest: dict[str, Any], models: list[Node]) -> None:
    seeds = [node for node in manifest["nodes"].values() if node["resource_type"] == "seed"]
    sources = list(manifest["sources"].values())
    bare = [
        f"{node['name']}.{column['name']}"
        for node in models + seeds + sources
        for column in node["columns"].values()
        if not column["description"].strip().endswith(".")
    ]
    assert bare == []
    assert [node["name"] for node in models + seeds if not node["columns"]] == []
    assert [source["name"] for source in sources if not source["description"]] == []
    created = columns_of_raw()
    assert {source["identifier"]: list(source["columns"]) for source in sources} == {
        source["identifier"]: created[source["identifier"]] for source in sources
    }


def test_every_model_has_a_test_of_its_key(manifest: dict[str, Any], models: list[Node]) -> None:
    tested = {
        node["attached_node"]
        for node in manifest["nodes"].values()
        if node["resource_type"] == "test" and (node.get("test_metadata") or {}).get("name") in KEY_TESTS
    }
    # A table of the ledger has its key from the first row on, by its contract: it is always empty when it is made.
    tested |= {
        model["unique_id"]
        for model in models
        if model["config"]["materialized"] == "ledger"
        and {"primary_key"} & {rule["type"] for rule in model["constraints"]}
    }
    assert {model["name"] for model in models if model["unique_id"] not in tested} == NO_KEY_OF_ITS_OWN


def test_ids_in_marts_that_point_elsewhere_are_tested(manifest: dict[str, Any]) -> None:
    relations = {
        (manifest["nodes"][node["attached_node"]]["name"], node["column_name"])
        for node in manifest["nodes"].values()
        if node["resource_type"] == "test" and (node.get("test_metadata") or {}).get("name") == "relationships"
    }
    assert relations >= {
        ("tracks", "artist_id"),
        ("user_daily_tracks", "track_id"),
    }
    # Those of a listen, by the one scan that looks at its keys, too.
    [ids] = [node for node in manifest["nodes"].values() if node["name"] == "assert_ids_follow_keys"]
    assert {"tracks", "int_listens_deduplicated"} <= {parent["name"] for parent in parents(manifest, ids)}


def test_contracts_are_enforced_on_marts_and_on_what_they_are_views_of(models: list[Node]) -> None:
    bare = {model["name"] for model in models if not model["config"]["contract"]["enforced"]}
    assert {name for name in bare if not name.startswith("stg_")} == {"int_built_rules"} | LIVE | NEWEST
    typed = [column for model in models if layer(model) == "marts" for column in model["columns"].values()]
    assert [column["name"] for column in typed if not column["data_type"]] == []


def test_incremental_models_record_what_they_built_in_their_own_transaction(models: list[Node]) -> None:
    for model in models:
        if model["config"]["materialized"] != "incremental" or model["name"] in WRITTEN_BY_HOOKS:
            continue
        before, after = model["config"]["pre-hook"], model["config"]["post-hook"]
        assert before[0]["sql"] == "{{ read_one_snapshot() }}", model["name"]
        assert after[-1]["sql"].startswith("{{ record_built_"), model["name"]
        assert all(hook["transaction"] for hook in before + after), model["name"]


def test_the_ledger_outlives_a_full_refresh(models: list[Node]) -> None:
    assert {model["name"] for model in models if model["config"]["full_refresh"] is False} == WRITTEN_BY_HOOKS


def test_marts_are_public_and_have_an_owner(manifest: dict[str, Any], models: list[Node]) -> None:
    marts = [model for model in models if layer(model) == "marts"]
    assert {model["config"]["access"] for model in marts} == {"public"}
    assert {model["config"]["group"] for model in models if layer(model) != "staging"} == {"warehouse"}
    assert [group["name"] for group in manifest["groups"].values()] == ["warehouse"]


def test_every_mart_is_exposed_and_exposures_read_marts_only(manifest: dict[str, Any], models: list[Node]) -> None:
    assert manifest["exposures"]
    read = {name for exposure in manifest["exposures"].values() for name in exposure["depends_on"]["nodes"]}
    assert read == {model["unique_id"] for model in models if layer(model) == "marts"}


def test_loads_have_a_freshness(manifest: dict[str, Any]) -> None:
    fresh = [
        source["name"] for source in manifest["sources"].values() if (source["freshness"] or {}).get("error_after")
    ]
    assert "_dlt_loads" in fresh


def test_what_dedupes_ranks_or_counts_has_a_unit_test(manifest: dict[str, Any]) -> None:
    assert {test["model"] for test in manifest["unit_tests"].values()} >= {
        "int_listens_deduplicated",
        "int_daily_ranks",
        "int_daily_metrics",
        "tracks",
        "artists",
        "user_daily_tracks",
        "user_daily_hours",
        "user_sessions",
        "user_streaks",
        "daily_aggregates",
        "daily_measures",
        "trending",
        "trending_recomputed",
    }


def test_models_end_by_selecting_one_step_and_are_written_alike(models: list[Node]) -> None:
    for model in models:
        sql = model["raw_code"].strip()
        if model["name"] not in WRITTEN_BY_HOOKS and layer(model) != "intermediate":
            assert re.search(r"\nselect \* from [a-z_]+$", sql), model["name"]
        code = re.sub(r"'[^']*'|--.*|\{[#%{].*?[#%}]\}", "", sql)
        assert code == code.lower(), model["name"]
        assert ";" not in code, model["name"]
        assert "source(" not in sql or layer(model) == "staging", model["name"]


def test_the_project_is_no_python_package() -> None:
    """dbt imports every top-level module whose name starts with dbt_."""
    assert not (PROJECT_ROOT / "dbt_project" / "__init__.py").exists()
    assert list((PROJECT_ROOT / "orchestration" / "dags").glob("dbt_*.py")) == []
