"""What may be asked. Turns a request into decisions on streams."""
