"""pytrickle's own request models, asked in a process of their own what they make of JSON.

    python pytrickle_models.py WHERE < LINES

Each line is `[model, object]`; prints for each what the model makes of it, or its error.
"""

from __future__ import annotations

import json
import sys
import types


def load(where: str) -> types.ModuleType:
    """The module with the models, without the package around it, which imports a GPU stack."""
    sys.path.insert(0, where)
    package = types.ModuleType("pytrickle")
    package.__path__ = [f"{where}/pytrickle"]
    hardware = types.ModuleType("pytrickle.utils.hardware")
    hardware.GPUComputeInfo = hardware.GPUUtilizationInfo = dict  # type: ignore[attr-defined]
    utils = types.ModuleType("pytrickle.utils")
    sys.modules |= {
        "pytrickle": package,
        "pytrickle.utils": utils,
        "pytrickle.utils.hardware": hardware,
    }
    import pytrickle.api

    return pytrickle.api


if __name__ == "__main__":
    api = load(sys.argv[1])
    for line in sys.stdin:
        name, value = json.loads(line)
        try:
            answer = getattr(api, name).model_validate(value).model_dump(mode="json")
        except ValueError as error:
            answer = {"error": str(error)[:300]}
        sys.stdout.write(json.dumps(answer) + "\n")
