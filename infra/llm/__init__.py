"""Language models behind the port `commands.processes.model_calls.ModelProvider`."""
