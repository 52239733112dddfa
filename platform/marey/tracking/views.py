"""MLflow's chart view, arranged so that its first look shows pictures and curves.

Left to itself the UI opens a picture's slider at step 0, where there is none, in a tile that is filled by the run's
settings. A shared view (what its Share button makes: an experiment tag that a link names) says it better: pictures
on top at full width, at the last step, without settings; below them the curves, as the UI lays them out.
"""

import json
from typing import Any

EXPERIMENT_VIEW = "marey"
SHARED_VIEW_TAG = "mlflow.sharedViewState."
_SECTION = "marey-pictures"


def shared_view(run_id: str | None = None, picture: str | None = None, step: int = 0) -> str:
    """The view's state as the UI reads it: all runs or one, with the picture of that key and step if there is one."""
    state: dict[str, Any] = {}
    if run_id is not None:
        state["searchFilter"] = f"attributes.run_id = '{run_id}'"
    if picture is not None:
        state["compareRunCharts"] = [_picture_tile(picture, step)]
        state["compareRunSections"] = [_picture_section()]
    return json.dumps(state)


def _picture_tile(key: str, step: int) -> dict[str, Any]:
    return {
        "type": "IMAGE",
        "uuid": f"marey-{key}",
        "metricSectionId": _SECTION,
        "imageKeys": [key],
        "step": step,
        "showRunParams": False,
        "isGenerated": True,
        "deleted": False,
        "runsCountToCompare": 10,
    }


def _picture_section() -> dict[str, Any]:
    return {
        "uuid": _SECTION,
        "name": "pictures",
        "columns": 1,
        "cardHeight": 560,
        "display": True,
        "isReordered": True,
        "isGenerated": False,
        "deleted": False,
    }
