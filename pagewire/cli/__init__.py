"""The ``pagewire`` command: the one place that may look at everything, and that starts processes."""
