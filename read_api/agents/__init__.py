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

__all__ = [
    "BODY_MAX",
    "PAGE_MAX",
    "AgentBody",
    "AgentController",
    "ModelUsageStats",
    "NewAgent",
    "StatsBody",
    "provide_filter",
    "stats_of",
]
