"""The decode node: takes in prompts whose KV arrives over the wire, and writes the answers."""
