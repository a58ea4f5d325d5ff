"""The prefill node: reads prompts, samples the first token, and hands the KV over to a decode node."""
