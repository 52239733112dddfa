"""The descriptions of clusters are what Ray's launcher accepts."""

from pathlib import Path

import pytest
import yaml

CLUSTERS = sorted((Path(__file__).resolve().parent.parent / "clusters").glob("*.yaml"))


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.name)
def test_a_description_fits_rays_schema(path: Path):
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load(path.read_text())
    validate_config(prepare_config(config))


def test_a_misspelt_key_would_be_found():
    from ray.autoscaler._private.util import validate_config

    config = yaml.safe_load((CLUSTERS[0].parent / "local.yaml").read_text())
    config["max_wrokers"] = 1
    with pytest.raises(Exception, match="max_wrokers"):
        validate_config(config)


def test_the_dashboard_listens_to_this_machine_only_and_asks_for_a_token():
    text = (CLUSTERS[0].parent / "local.yaml").read_text()
    assert "--dashboard-host=127.0.0.1" in text
    assert "RAY_AUTH_MODE=token" in text
