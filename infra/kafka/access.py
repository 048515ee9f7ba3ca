"""How a broker lets us in: in the open or by TLS, by password or without one."""

import logging
import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, NamedTuple

from kafka.errors import KafkaTimeoutError  # type: ignore[import-untyped]

from infra.settings import BadSettings, Settings

REASONS_MAX = 3
_REASON = re.compile(r"failed: (.+?) \(backoff ")


class NoBrokerAnswers(KafkaTimeoutError):  # type: ignore[misc]
    """None let us in, in the time there was; the message says why."""


class Access(NamedTuple):
    """Attributes:
    protocol: Kafka's own name: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.
    mechanism: How the password is told: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.
    cafile: Certificates to trust (PEM); empty for the machine's.
    """

    protocol: str = "PLAINTEXT"
    mechanism: str = "PLAIN"
    username: str = ""
    password: str = ""
    cafile: str = ""

    def __repr__(self) -> str:
        """Spell it without the password: a traceback may show the frame that holds it."""
        return f"Access({self.protocol}, {self.username})"

    @property
    def connecting(self) -> dict[str, Any]:
        """Spell it for any of kafka-python's clients."""
        found: dict[str, Any] = {"security_protocol": self.protocol}
        if self.protocol.startswith("SASL_"):
            found["sasl_mechanism"] = self.mechanism
            found["sasl_plain_username"] = self.username
            found["sasl_plain_password"] = self.password
        if self.protocol.endswith("SSL"):
            found["ssl_cafile"] = self.cafile or None
        return found


OPEN = Access()


def access_of(settings: Settings) -> Access:
    """Raises:
    BadSettings: A name or a password is missing.
    """
    if settings.kafka_security_protocol.startswith("SASL_") and not (
        settings.kafka_sasl_username and settings.kafka_sasl_password
    ):
        raise BadSettings(
            f"KAFKA_SECURITY_PROTOCOL={settings.kafka_security_protocol} needs"
            " KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD."
        )
    return Access(
        settings.kafka_security_protocol,
        settings.kafka_sasl_mechanism,
        settings.kafka_sasl_username,
        settings.kafka_sasl_password,
        settings.kafka_ssl_cafile,
    )


class _Reasons(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: dict[str, None] = {}

    def emit(self, record: logging.LogRecord) -> None:
        reason = _REASON.search(record.getMessage())
        if reason is not None and len(self.found) < REASONS_MAX:
            self.found[reason[1]] = None


@contextmanager
def explained() -> Generator[None, None, None]:
    """Connect in here: kafka-python 3.0 says why no broker let us in to its log alone.

    Raises:
        NoBrokerAnswers: In its place.
    """
    reasons, logger = _Reasons(), logging.getLogger("kafka.net.manager")
    logger.addHandler(reasons)
    try:
        yield
    except KafkaTimeoutError as error:
        raise NoBrokerAnswers("; ".join([*error.args, *reasons.found])) from error
    finally:
        logger.removeHandler(reasons)
