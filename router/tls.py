"""TLS between clients and the router: from files to what a server socket needs.

Knows certificates; knows no request. Between our own processes there is CURVE (``pagewire.secret``).
"""

from __future__ import annotations

import ssl

from pagewire.errors import ConfigError
from router.options import RouterOptions

HANDSHAKE_S = 10.0  # that a client may take to shake hands


def context_of(options: RouterOptions) -> ssl.SSLContext | None:
    """None: HTTP is plain. Raises ConfigError, which shows no password."""
    if options.ssl_certfile is None:
        if options.ssl_keyfile or options.ssl_ca_certs:
            raise ConfigError("--ssl-keyfile and --ssl-ca-certs need --ssl-certfile")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # A password that is not given must not be asked for at a terminal that nobody watches.
        context.load_cert_chain(
            options.ssl_certfile, options.ssl_keyfile, password=options.ssl_keyfile_password or ""
        )
        if options.ssl_ca_certs is not None:
            context.load_verify_locations(options.ssl_ca_certs)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        why = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"the TLS certificate or its key cannot be used: {why}") from error
    return context
