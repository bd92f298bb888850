"""`trainctl`, the command line of the service. Each command is a thin layer over `TrainingClient`."""
