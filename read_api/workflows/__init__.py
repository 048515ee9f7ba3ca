"""Routes on workflows, in the original frontend's shapes."""

from read_api.workflows.controller import BODY_MAX, PAGE_MAX, WorkflowController, provide_filter

__all__ = ["BODY_MAX", "PAGE_MAX", "WorkflowController", "provide_filter"]
