"""What TLS needs on either side of an association."""

from __future__ import annotations

import ssl


def server_context(certificate: str, key: str, authority: str | None) -> ssl.SSLContext:
    """Return what a TLS server needs; with an authority, callers must show a certificate that it signed.

    Raises
    ------
    OSError
        If a file cannot be read, or is none of its kind (`ssl.SSLError` is one).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    if authority is not None:
        context.load_verify_locations(authority)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(certificate: str | None, key: str | None, authority: str | None) -> ssl.SSLContext:
    """Return what a TLS client needs; the other side's certificate and name are checked. Raises as `server_context`."""
    context = ssl.create_default_context(cafile=authority)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context
