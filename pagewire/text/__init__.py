"""Text: tokenizers, chat templates, detokenisation, stop strings. Loads no torch."""
