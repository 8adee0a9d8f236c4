"""The process that calls Ray's Job API: `python -m orchestrator.backends.ray.job_client URL`.

In: {"method": of JobSubmissionClient, "arguments", "named"}. Out: {"answer"}, {"error"} in Ray's words, or {"problem"}
if there is no Ray here.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from orchestrator.backends.ray.in_child import Pipe, import_ray

METHODS = ("list_jobs", "get_job_info", "get_job_logs", "submit_job", "stop_job")


def plain(answer: Any) -> Any:
    """Details of jobs as dictionaries."""
    if isinstance(answer, list):
        return [plain(each) for each in answer]
    if not hasattr(answer, "submission_id"):
        return answer
    status = getattr(answer.status, "value", answer.status)
    times = {"started": answer.start_time, "ended": answer.end_time}
    return {"id": answer.submission_id, "status": status, "message": answer.message, **times}


def main() -> None:
    pipe = Pipe()
    import_ray(lambda problem: pipe.send(problem=problem))
    from ray.job_submission import JobSubmissionClient

    client: Any = None
    while (order := pipe.orders.get()) is not None:
        assert order["method"] in METHODS
        try:
            client = client or JobSubmissionClient(sys.argv[1])
            pipe.send(answer=plain(getattr(client, order["method"])(*order["arguments"], **order["named"])))
        except Exception as error:  # noqa: BLE001  (the command says what it means)
            pipe.send(error=str(error) or type(error).__name__)
    os._exit(0)


if __name__ == "__main__":
    main()
