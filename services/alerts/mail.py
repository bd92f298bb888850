"""Mail, over a connection to the very address that was checked.

Apprise reads the URL and writes the messages. Left to connect as well, it would ask for the name a second time, and the
answer may be another one by then (`services.alerts.targets`).
"""

from __future__ import annotations

import logging
import smtplib
import socket
import ssl
from contextlib import suppress
from typing import Any

from services.alerts.targets import resolve

logger = logging.getLogger(__name__)


def send_mail(plugin: Any, title: str, body: str, *, allow_private: bool, timeout_s: float) -> str | None:
    """Args: plugin: what Apprise has made of a URL of mail. TLS verifies the name, as far as the URL wants it.

    Mail that one of its recipients has got is sent: tried again, it would reach that one a second time. What became of
    the others is answered, and logged with their addresses.

    Raises:
        TargetRefused: one of the server's addresses is not public.
        OSError: nobody has got it (`smtplib.SMTPException` is one as well).
    """
    host, port = plugin.smtp_host or plugin.host, plugin.port or 0
    address = resolve(host, port, allow_private=allow_private)
    context = ssl.create_default_context()
    if not plugin.verify_certificate:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    server = (
        _ToAddressByTls(address, host, port, timeout=timeout_s, context=context)
        if plugin.secure_mode == "ssl"
        else _ToAddress(address, host, port, timeout=timeout_s)
    )
    try:
        if plugin.secure_mode == "starttls":
            server.starttls(context=context)
        if plugin.user and plugin.password:
            server.login(plugin.user, plugin.password)
        return _send_each(server, plugin, title, body)
    finally:
        with suppress(OSError):  # by now it is known what was sent
            server.quit()
        server.close()


def _send_each(server: smtplib.SMTP, plugin: Any, title: str, body: str) -> str | None:
    count = 0
    missed: list[str] = []
    error: OSError | None = None
    for message in plugin.prepare_emails(
        subject=title,
        body=body,
        notify_format="text",
        from_addr=plugin.from_addr,
        to=plugin.targets,
        cc=plugin.cc,
        bcc=plugin.bcc,
        reply_to=plugin.reply_to,
        smtp_host=plugin.smtp_host or plugin.host,
        names=plugin.names,
    ):
        count += len(message.to_addrs)
        try:
            missed += server.sendmail(plugin.from_addr[1], message.to_addrs, message.body).keys()
        except OSError as raised:
            missed += message.to_addrs
            error = raised
    if not missed:
        return None
    if len(missed) == count and error:
        raise error
    logger.warning("Mail was not taken for %s (%r)", ", ".join(missed), error)
    return f"{len(missed)} of {count} recipients did not get it"


class _ToAddress(smtplib.SMTP):
    def __init__(self, address: str, host: str, port: int, *, timeout: float) -> None:
        self._address = address
        super().__init__(host, port, timeout=timeout)

    def _get_socket(self, _host: str, port: int, timeout: float) -> socket.socket:
        return socket.create_connection((self._address, port), timeout)


class _ToAddressByTls(smtplib.SMTP_SSL):
    def __init__(self, address: str, host: str, port: int, *, timeout: float, context: ssl.SSLContext) -> None:
        self._address, self._name, self._tls = address, host, context
        super().__init__(host, port, timeout=timeout, context=context)

    def _get_socket(self, _host: str, port: int, timeout: float) -> socket.socket:
        plain = socket.create_connection((self._address, port), timeout)
        return self._tls.wrap_socket(plain, server_hostname=self._name)
