"""Messages and frames of each release, written by ``python -m pagewire.cli.schema``. No code."""
