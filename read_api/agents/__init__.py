"""Routes on agents, in the original frontend's shapes."""

from read_api.agents.answers import AgentBody, ModelUsageStats, StatsBody
from read_api.agents.bodies import NewAgent
from read_api.agents.controller import (
    BODY_MAX,
    PAGE_MAX,
    AgentController,
    provide_filter,
    stats_of,
)
from read_api.agents.history import AgentHistoryController

__all__ = [
    "BODY_MAX",
    "PAGE_MAX",
    "AgentBody",
    "AgentController",
    "AgentHistoryController",
    "ModelUsageStats",
    "NewAgent",
    "StatsBody",
    "provide_filter",
    "stats_of",
]
