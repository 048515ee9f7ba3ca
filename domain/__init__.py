"""Facts, states and rules. Imports only the standard library and msgspec."""
