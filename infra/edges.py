"""What stands around the routes, as the settings want it."""

import asyncio

import msgspec

from infra.ending import end
from infra.endpoint_statistics import flush_for_ever
from infra.exposure import is_private
from infra.rate_limits import InProcess, InRedis
from infra.settings import Settings
from read_api.addresses import Clients, networks
from read_api.cors import Cors, origins
from read_api.edge import Rules
from read_api.endpoint_statistics import EndpointStatistics
from read_api.limits import Limits, Rate

DEFAULT_RATES = {
    "rate_limit_per_ip": "60/minute",
    "rate_limit_per_principal": "600/minute",
    "rate_limit_writes": "60/minute",
    "rate_limit_bad_keys": "10/minute",
}
"""For all but a server of this machine alone, which nobody else reaches."""

DEFAULT_RUNS_PER_WORKSPACE = 10

PERIODS_S = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}
NONE = "0"
PRODUCTION = "production"


class Around(msgspec.Struct, kw_only=True):
    """What has to begin and end with the application.

    Attributes:
        limiter: None without limits.
    """

    rules: Rules
    statistics: EndpointStatistics
    limiter: InProcess | InRedis | None
    flushing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self.flushing = asyncio.create_task(flush_for_ever(self.statistics))

    async def stop(self) -> None:
        if self.flushing is not None:
            await end([self.flushing])
        if isinstance(self.limiter, InRedis):
            await self.limiter.close()


def around(settings: Settings, statistics: EndpointStatistics) -> Around:
    rates = rates_of(settings)
    limiter = _limiter(settings) if any(rates.values()) else None
    return Around(
        rules=Rules(
            body_max=settings.body_max,
            https_only=settings.environment == PRODUCTION,
            cors=Cors(
                origins(settings.cors_allow_origins),
                origins(settings.widget_origin_allowlist) or None,
            ),
            limits=None if limiter is None else _limits(settings, limiter, rates),
            record=statistics.record,
        ),
        statistics=statistics,
        limiter=limiter,
    )


def _limiter(settings: Settings) -> InProcess | InRedis:
    if settings.redis_url:
        return InRedis(settings.redis_url, settings.workers)
    return InProcess(settings.workers)


def _limits(
    settings: Settings, limiter: InProcess | InRedis, rates: dict[str, Rate | None]
) -> Limits:
    return Limits(
        limiter=limiter,
        clients=Clients(networks(settings.trusted_proxies)),
        per_address=rates["rate_limit_per_ip"],
        per_principal=rates["rate_limit_per_principal"],
        writes=rates["rate_limit_writes"],
        bad_keys=rates["rate_limit_bad_keys"],
    )


def rates_of(settings: Settings) -> dict[str, Rate | None]:
    """Give each limit that there is: as it is set, else as the profile has it."""
    defaults = dict.fromkeys(DEFAULT_RATES, NONE) if is_private(settings) else DEFAULT_RATES
    return {name: rate(getattr(settings, name) or default) for name, default in defaults.items()}


def runs_per_workspace(settings: Settings) -> int | None:
    """Give how many runs a workspace may have at once: as it is set, else as the profile has it."""
    default = 0 if is_private(settings) else DEFAULT_RUNS_PER_WORKSPACE
    return int(settings.runs_per_workspace or default) or None


def rate(text: str) -> Rate | None:
    """Read `60/minute`; None for `0`."""
    if text == NONE:
        return None
    limit, _, period = text.partition("/")
    return Rate(int(limit), PERIODS_S[period])
