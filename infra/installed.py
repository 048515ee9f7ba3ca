"""What the environment says of the settings that a workspace may choose, too."""

from domain.effective import Effective, Installed
from domain.settings import MAX_TOKENS, MODEL, PROVIDER, TEMPERATURE
from infra.settings import DEFAULT_MODELS, Settings

_TOLD = (
    "environment",
    "llm_stream",
    "offline_when_no_key",
    "body_max",
    "streams_per_workspace",
    "streams_per_key",
)
"""What callers may know of an installation: what bounds or changes their own requests. Addresses,
folders and other tenants' affairs are not among it, and no secret is."""


def installed(settings: Settings) -> Installed:
    given = {
        PROVIDER: settings.llm_provider,
        MODEL: settings.llm_model,
        TEMPERATURE: settings.llm_temperature,
        MAX_TOKENS: settings.llm_max_tokens,
    }
    return Installed(
        environment={name: value for name, value in given.items() if value},
        provider=settings.provider,
        models=DEFAULT_MODELS,
        others={name: _held(settings, name) for name in _TOLD},
    )


def _held(settings: Settings, name: str) -> Effective:
    value, default = getattr(settings, name), getattr(Settings(), name)
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return Effective(text, "default" if value == default else "environment")
