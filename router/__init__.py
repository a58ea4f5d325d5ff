"""The router: HTTP, text, placement and the way of each request over the nodes. Loads no torch."""
