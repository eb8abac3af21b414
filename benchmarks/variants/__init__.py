"""Applications that differ from each other, or from the service, in one thing."""
