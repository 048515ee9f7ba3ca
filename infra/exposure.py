"""Whom a server may let in, before it listens: what refuses to start, and says what to do."""

import os
import re
from collections.abc import Mapping
from ipaddress import ip_address

from infra.settings import LOCAL_KEY_NAMES, BadSettings, Settings

LOCAL_KEY = re.compile(r"[!-~]{16,512}")


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_private(settings: Settings) -> bool:
    """Tell whether only this machine can ask: an embedded server on the loopback address."""
    return not settings.database_url and is_loopback(settings.host)


def check_local_key(settings: Settings, env: Mapping[str, str] = os.environ) -> None:
    """Let the environment's key be used by `automatos serve`, and by this machine only.

    It has no name, no end and every permission, and whoever sees the process's environment has it.

    Raises:
        BadSettings: Others could use it, or guess it.
    """
    if not settings.api_key:
        return
    name = next((each for each in LOCAL_KEY_NAMES if env.get(each)), LOCAL_KEY_NAMES[0])
    if not is_private(settings) or settings.trusted_proxies:
        raise BadSettings(
            f"{name} opens a server that only this machine reaches: `automatos serve` on"
            " 127.0.0.1, without TRUSTED_PROXIES. Unset it, and make a key with"
            " `automatos keys create`."
        )
    if not LOCAL_KEY.fullmatch(settings.api_key):
        raise BadSettings(f"{name} is no key: it has 16 to 512 visible ASCII characters.")


def check_reachable(settings: Settings, *, has_key: bool) -> None:
    """Let other machines come only to an installation that somebody was given a way into.

    A key that is made by itself and printed would lie in whatever log the output goes to.

    Raises:
        BadSettings: Nobody was.
    """
    if not (is_loopback(settings.host) or settings.clerk_issuer or has_key):
        raise BadSettings(
            f"HOST={settings.host} lets other machines come, and nobody has been given a way in."
            " Make a key first, with `automatos keys create` on the same DATA_DIR, or set"
            " CLERK_ISSUER; HOST=127.0.0.1 serves this machine only."
        )
