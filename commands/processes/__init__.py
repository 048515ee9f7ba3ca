"""Process managers: fed events, they issue commands."""
