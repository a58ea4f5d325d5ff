"""As much of NIXL's face as ``kv_transfer.transports.nixl_agent`` uses, over a Unix socket, so that the wire
can be tested where NIXL is not installed. It goes wrong on demand: see ``_api``.
"""
