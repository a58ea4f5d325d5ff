"""The page at /dashboard: nodes, handoffs and the last requests, as they are now. Loads no torch."""
