from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ["setup", "batch", "streaming", "serving", "orchestration", "dev"]


def tracked() -> list[Path]:
    names = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT).decode().split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("layer", LAYERS)
def test_every_pinned_package_has_hashes_and_no_index(layer: str) -> None:
    text = (ROOT / "requirements" / f"{layer}.txt").read_text()
    pins = re.findall(r"^[A-Za-z0-9][^\n]*?==[^\n]*", text, re.MULTILINE)
    assert pins
    assert all(pin.rstrip().endswith("\\") for pin in pins), "a pin without hashes"
    assert not re.search(r"--(extra-)?index-url|://", text)


def test_a_package_has_the_same_version_in_every_layer() -> None:
    versions: dict[tuple[str, str], set[str]] = {}
    for layer in LAYERS:
        text = (ROOT / "requirements" / f"{layer}.txt").read_text()
        for name, version, marker in re.findall(r"^([A-Za-z0-9_.\[\]-]+)==([^ ;\\]+)([^\\\n]*)", text, re.MULTILINE):
            versions.setdefault((name.split("[")[0], marker.strip()), set()).add(version)
    assert {key: found for key, found in versions.items() if len(found) > 1} == {}


def test_the_batch_layer_is_without_spark_and_airflow() -> None:
    text = (ROOT / "requirements" / "batch.txt").read_text()
    assert not re.search(r"^(pyspark|apache-airflow|astronomer-cosmos|confluent-kafka|pytest)", text, re.MULTILINE)


def test_dbt_imports_no_module_of_ours() -> None:
    """dbt imports every top-level module that is called dbt_*: of the root, and of the folder that Airflow adds."""
    assert not (ROOT / "dbt_project" / "__init__.py").exists()
    top = {ROOT, ROOT / "orchestration" / "dags"}
    assert not [
        path for path in tracked() if path.name.startswith("dbt_") and path.suffix == ".py" and path.parent in top
    ]


def test_ci_runs_lint_and_test() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert re.findall(r"^make .*", script, re.MULTILINE) == ["make lint", "make test"]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert workflow["jobs"]["ci"]["steps"][-1]["run"] == "bash .ci/run"


def test_make_help_lists_the_targets() -> None:
    shown = subprocess.check_output(["make", "help"], cwd=ROOT, text=True)
    for target in ("setup", "run", "test", "lint", "bench", "docs", "clean"):
        assert re.search(rf"^{target}\b", shown, re.MULTILINE), target


def test_files_named_in_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / target).exists(), target
