"""The command line: `automatos`."""
