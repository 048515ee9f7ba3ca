"""Drives runs: claims the step that is due, asks the model, reports back.

A crash anywhere in here is safe. What a call is about to do is recorded before
it, what came of it after it: a recorded answer is never asked for again, and a
call whose outcome was lost is marked and repeated at most once.
"""

from commands.processes.runs.calls import ERROR_MAX
from commands.processes.runs.preparing import PROMPT_BYTES_MAX
from commands.processes.runs.process import RunProcess, Worker

__all__ = ["ERROR_MAX", "PROMPT_BYTES_MAX", "RunProcess", "Worker"]
