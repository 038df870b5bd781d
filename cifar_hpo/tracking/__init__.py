"""MLflow: what is written of studies and attempts (`runs`), and how it is read again (`reader`).

Every module here loads MLflow, whose switches are set before, in this file.
"""

from __future__ import annotations

import os

SWITCHES = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "6",  # seconds; 120 unless said
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # 7 unless said, which takes two minutes
}
"""What MLflow reads, some of it when it loads; what the user has set stays."""

for _name, _value in SWITCHES.items():
    os.environ.setdefault(_name, _value)
