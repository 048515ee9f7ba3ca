"""Routes on agents, in the original frontend's shapes."""

from read_api.agents.answers import AgentBody, ModelUsageStats
from read_api.agents.bodies import NewAgent
from read_api.agents.controller import BODY_MAX, PAGE_MAX, AgentController, provide_filter

__all__ = [
    "BODY_MAX",
    "PAGE_MAX",
    "AgentBody",
    "AgentController",
    "ModelUsageStats",
    "NewAgent",
    "provide_filter",
]
