"""Settings, read once from the environment and frozen."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from read_api.addresses import networks

PREFIX = "AUTOMATOS_"

UNPREFIXED = frozenset(
    {
        "ANTHROPIC_API_KEY",
        "API_KEY",
        "CLERK_AUDIENCE",
        "CLERK_AUTHORIZED_PARTIES",
        "CLERK_ISSUER",
        "CLERK_JWKS_URL",
        "CLERK_JWT_KEY",
        "CORS_ALLOW_ORIGINS",
        "DATABASE_URL",
        "DATA_DIR",
        "ENVIRONMENT",
        "HUGGINGFACE_API_KEY",
        "KAFKA_BOOTSTRAP_SERVERS",
        "KAFKA_SASL_MECHANISM",
        "KAFKA_SASL_PASSWORD",
        "KAFKA_SASL_USERNAME",
        "KAFKA_SECURITY_PROTOCOL",
        "KAFKA_SSL_CAFILE",
        "LLM_MAX_TOKENS",
        "LLM_MODEL",
        "LLM_PROVIDER",
        "LLM_TEMPERATURE",
        "LOG_LEVEL",
        "OPENAI_API_KEY",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "PORT",
        "REDIS_URL",
        "TRUSTED_PROXIES",
        "WIDGET_ORIGIN_ALLOWLIST",
        "WORKSPACE_ID",
    }
)
"""Names that count without our prefix: the original's, and what everybody expects."""

LOCAL_KEY_NAMES = ("ORCHESTRATOR_API_KEY", f"{PREFIX}API_KEY", "API_KEY")
"""Names of the one setting `api_key`, as the original looked for it; the first that is set wins."""

FOREIGN = frozenset({"POSTGRES_ENABLE_DB_FUNCTIONS"})
"""Switches of the `eventsourcing` package that lose events for whoever follows the log."""

SECRETS = frozenset(
    {
        "anthropic_api_key",
        "api_key",
        # A public key; but who pastes the wrong one should not read it in a log.
        "clerk_jwt_key",
        "database_url",
        "huggingface_api_key",
        "kafka_sasl_password",
        "openai_api_key",
        "redis_url",
    }
)

DEFAULT_MODELS = {
    "openai": "gpt-5-mini",
    "anthropic": "claude-haiku-5-5",
    "offline": "extractive-bm25",
}
"""Asked when a provider is chosen and no model is."""


ORIGINS = r"^(|\s*(https?://[^\s,/*]+)?(\s*,\s*(https?://[^\s,/*]+)?)*\s*)$"
"""As browsers spell them: no path, no slash at the end, nothing that stands for others."""

RATE = "^(|0|[1-9][0-9]{0,6}/(second|minute|hour|day))$"


class BadSettings(Exception):
    """The environment does not make sense; the message names the variable."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything a deployment may choose.

    Attributes:
        data_dir: Holds the log, the keys and the read models.
        llm_provider: Default for agents that name no model; empty for the workspace's own, else
            the first one of OpenAI and Anthropic that has a key, else `offline`.
        llm_temperature, llm_max_tokens: For agents that name no model; empty for the workspace's
            own, else 0.7 and 2000.
        offline_when_no_key: Let the built-in extractive model answer for a
            provider without a key, labelled as such; else such a step fails.
        llm_stream: Ask models for streamed answers.
        database_url: PostgreSQL, for the production profile; the embedded one has none.
        redis_url: Wakes other processes; without it they poll.
        kafka_partitions: Fixed when the topic is made.
        kafka_ssl_cafile: Certificates to trust (PEM); empty for the machine's.
        workers: Processes of `automatos api`.
        postgres_pool_size: Connections of one process for reading.
        body_max: Bytes of a request body, where a route names no smaller bound.
        workspace_id: The workspace of whoever belongs to it and names none.
        api_key: Opens the local workspace to this machine, without being made or recorded.
        streams_per_workspace, streams_per_key: Live streams at once in one process.
        runs_per_workspace: Going on at once; `0` for any number, and empty for the profile's own,
            which is that for whoever serves this machine only.
        environment: `production` tells browsers to come by HTTPS only.
        cors_allow_origins: Whose pages may ask, separated by commas.
        widget_origin_allowlist: The same for widgets; empty for everybody's.
        trusted_proxies: Networks whose X-Forwarded-For is believed, separated by commas.
        rate_limit_per_ip: Of requests without credentials, from one address: `60/minute`; `0` for
            none, and empty for the profile's own, which is none for whoever serves this machine
            only.
        rate_limit_per_principal, rate_limit_writes: Of one user or key in one workspace.
        rate_limit_bad_keys: Of credentials that are not valid, from one address.
        metrics: Who may read `/metrics`.
        otel_exporter_otlp_endpoint: Where traces are sent; empty for nowhere.
        clerk_jwks_url: Where Clerk's keys are fetched; empty for the issuer's own place.
        clerk_issuer: The only one whose session tokens are accepted; empty for none.
        clerk_audience: Asked for in `aud`; empty for any.
        clerk_jwt_key: Clerk's public key in PEM form: nothing is fetched then.
        clerk_authorized_parties: Origins, separated by commas, that `azp` may name.
    """

    data_dir: Path = Path("data")
    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 8000
    log_level: Annotated[str, msgspec.Meta(pattern=r"^(DEBUG|INFO|WARNING|ERROR)\Z")] = "INFO"
    llm_provider: Annotated[
        str, msgspec.Meta(pattern=r"^(|openai|anthropic|huggingface|offline)\Z")
    ] = ""
    llm_model: str = ""
    llm_temperature: Annotated[
        str, msgspec.Meta(pattern=r"^(|[01](\.[0-9]{1,3})?|2(\.0{1,3})?)\Z")
    ] = ""
    llm_max_tokens: Annotated[str, msgspec.Meta(pattern=r"^(|[1-9][0-9]{0,5}|1000000)\Z")] = ""
    llm_stream: bool = True
    offline_when_no_key: bool = True
    openai_api_key: str = ""
    anthropic_api_key: str = ""
    huggingface_api_key: str = ""
    openai_base_url: str = ""
    anthropic_base_url: str = ""
    huggingface_base_url: str = ""
    database_url: Annotated[str, msgspec.Meta(pattern=r"^(|postgres(ql)?://.+)\Z")] = ""
    redis_url: Annotated[str, msgspec.Meta(pattern=r"^(|rediss?://.+|unix://.+)\Z")] = ""
    kafka_bootstrap_servers: str = ""
    kafka_topic: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]{1,200}\Z")] = (
        "automatos.events"
    )
    kafka_partitions: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 12
    kafka_security_protocol: Annotated[
        str, msgspec.Meta(pattern=r"^(PLAINTEXT|SSL|SASL_PLAINTEXT|SASL_SSL)\Z")
    ] = "PLAINTEXT"
    kafka_sasl_mechanism: Annotated[
        str, msgspec.Meta(pattern=r"^(PLAIN|SCRAM-SHA-256|SCRAM-SHA-512)\Z")
    ] = "PLAIN"
    kafka_sasl_username: str = ""
    kafka_sasl_password: str = ""
    kafka_ssl_cafile: str = ""
    workspace_id: str = ""
    api_key: str = ""
    workers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    postgres_pool_size: Annotated[int, msgspec.Meta(ge=1, le=100)] = 8
    body_max: Annotated[int, msgspec.Meta(ge=1)] = 10 * 1024 * 1024
    streams_per_workspace: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 50
    streams_per_key: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 10
    runs_per_workspace: Annotated[str, msgspec.Meta(pattern=r"^(|0|[1-9][0-9]{0,5})\Z")] = ""
    clerk_jwks_url: Annotated[str, msgspec.Meta(pattern=r"^(|https://[^\s@#]+)\Z")] = ""
    clerk_issuer: Annotated[str, msgspec.Meta(pattern=r"^(|https://[^\s@#?]+)\Z")] = ""
    clerk_audience: str = ""
    clerk_jwt_key: str = ""
    clerk_authorized_parties: Annotated[
        str, msgspec.Meta(pattern=r"^(|https?://[^\s,/]+( *, *https?://[^\s,/]+)*)\Z")
    ] = ""

    environment: Annotated[str, msgspec.Meta(pattern=r"^[a-z]{1,40}\Z")] = "development"
    cors_allow_origins: Annotated[str, msgspec.Meta(pattern=ORIGINS)] = "http://localhost:3000"
    widget_origin_allowlist: Annotated[str, msgspec.Meta(pattern=ORIGINS)] = ""
    trusted_proxies: str = ""
    rate_limit_per_ip: Annotated[str, msgspec.Meta(pattern=RATE)] = ""
    rate_limit_per_principal: Annotated[str, msgspec.Meta(pattern=RATE)] = ""
    rate_limit_writes: Annotated[str, msgspec.Meta(pattern=RATE)] = ""
    rate_limit_bad_keys: Annotated[str, msgspec.Meta(pattern=RATE)] = ""
    metrics: Literal["key", "open", "off"] = "key"
    otel_exporter_otlp_endpoint: Annotated[str, msgspec.Meta(pattern=r"^(|https?://[^\s@]+)\Z")] = (
        ""
    )

    def __post_init__(self) -> None:
        networks(self.trusted_proxies)

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> "Settings":
        """Read `AUTOMATOS_*` and the few names that need no prefix.

        Raises:
            BadSettings: A variable is unknown or malformed.
        """
        for name in sorted(FOREIGN & set(env)):
            raise BadSettings(f"{name} must not be set: with it, readers of the log miss events.")
        variables = {name.lower(): name for name in UNPREFIXED if env.get(name)}
        for variable in sorted(env):
            if variable.startswith(PREFIX):
                variables[variable.removeprefix(PREFIX).lower()] = variable
        if env.get(LOCAL_KEY_NAMES[0]):
            variables["api_key"] = LOCAL_KEY_NAMES[0]
        for name, variable in variables.items():
            if name not in cls.__struct_fields__:
                raise BadSettings(f"{variable} is not a setting.")
            _check(name, variable, env[variable])
        given = {name: env[variable] for name, variable in variables.items()}
        return msgspec.convert(given, cls, strict=False, dec_hook=_path)

    @property
    def provider(self) -> str:
        if self.llm_provider:
            return self.llm_provider
        with_key = [name for name, key in self.api_keys.items() if key]
        return with_key[0] if with_key and with_key[0] in DEFAULT_MODELS else "offline"

    @property
    def model(self) -> str:
        """The default provider's model.

        Raises:
            BadSettings: The provider has no model that everybody may use.
        """
        model = self.llm_model or DEFAULT_MODELS.get(self.provider)
        if model is None:
            raise BadSettings(f"LLM_MODEL is needed for the provider {self.provider}.")
        return model

    @property
    def api_keys(self) -> dict[str, str]:
        return {
            "openai": self.openai_api_key,
            "anthropic": self.anthropic_api_key,
            "huggingface": self.huggingface_api_key,
        }

    @property
    def base_urls(self) -> dict[str, str]:
        urls = {
            "openai": self.openai_base_url,
            "anthropic": self.anthropic_base_url,
            "huggingface": self.huggingface_base_url,
        }
        return {name: url for name, url in urls.items() if url}

    def __repr__(self) -> str:
        """Spell it without secrets: a traceback may show the frame that holds it."""
        return f"Settings({self.shown()})"

    def shown(self) -> dict[str, str]:
        """Spell every setting for people, secrets masked."""
        values = {name: str(getattr(self, name)) for name in self.__struct_fields__}
        return {
            name: ("(set)" if value else "(not set)") if name in SECRETS else value
            for name, value in values.items()
        }


def _check(name: str, variable: str, value: str) -> None:
    try:
        msgspec.convert({name: value}, Settings, strict=False, dec_hook=_path)
    except msgspec.ValidationError as error:
        shown = "" if name in SECRETS else f" is {value!r}"
        reason = str(error).partition(" - at ")[0]
        raise BadSettings(f"{variable}{shown}: {reason}") from error


def _path(kind: type, value: object) -> object:
    if kind is Path:
        return Path(str(value))
    raise NotImplementedError
