"""Asks ComfyStream now and then whether it still runs the workflow it was given."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import structlog

from relay.comfystream.control import ControlClient
from relay.comfystream.running_workflow import check_running
from relay.errors import ProcessingError

log = structlog.get_logger(__name__)

FIRST_CHECK_S = 0.5
"""After connecting; the first pictures go first."""
CHECK_INTERVAL_S = 15.0


class WorkflowWatch:
    """Of one connection.

    Args:
        workflows: those of the offer.
    """

    def __init__(self, workflows: list[dict[str, Any]]) -> None:
        self.problem: ProcessingError | None = None
        """Code `workflow_not_running`, while the server was last found not to run them."""
        self._workflows = workflows
        self._changed = asyncio.Event()

    def expect(self, workflows: list[dict[str, Any]]) -> None:
        """Others run from now on: look again soon."""
        self._workflows = workflows
        self._changed.set()

    async def run(self, control: ControlClient) -> None:
        """Ask until cancelled. A server that does not answer is asked again the next time."""
        await asyncio.sleep(FIRST_CHECK_S)
        while True:
            try:
                self._note(check_running(self._workflows, await control.get_nodes()))
            except ProcessingError as error:
                log.debug("comfystream.workflow_unknown", code=error.code, error=error.message)
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECK_INTERVAL_S):
                    await self._changed.wait()
                await asyncio.sleep(FIRST_CHECK_S)

    def _note(self, problem: ProcessingError | None) -> None:
        if problem is not None and self.problem is None:
            log.warning("comfystream.workflow_not_running", error=problem.message)
        elif problem is None and self.problem is not None:
            log.info("comfystream.workflow_running_again")
        self.problem = problem
