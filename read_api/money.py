"""Billionths of a dollar, as the wire has them."""

NANO = 1_000_000_000


def usd(nano: int) -> float:
    """Tell dollars as the original frontend reads them: a number that need not be exact."""
    return nano / NANO


def decimal_usd(nano: int) -> str:
    """Spell billionths of a dollar as a decimal, exactly."""
    return f"{nano // NANO}.{nano % NANO:09d}"
