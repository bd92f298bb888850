"""Mail, over a connection to the very address that was checked.

Apprise reads the URL and writes the messages. Left to connect as well, it would ask for the name a second time, and the
answer may be another one by then (`services.alerts.targets`).
"""

from __future__ import annotations

import logging
import smtplib
import socket
import ssl
from typing import Any

from services.alerts.targets import resolve

logger = logging.getLogger(__name__)


def send_mail(plugin: Any, title: str, body: str, *, allow_private: bool, timeout_s: float) -> None:
    """Args: plugin: what Apprise has made of a URL of mail. TLS verifies the name, as far as the URL wants it.

    Mail that some of its recipients get is sent: tried again, it would reach those a second time. Others are logged.

    Raises:
        TargetRefused: one of the server's addresses is not public.
        OSError: it cannot be reached, or does not take the message (`smtplib.SMTPException` is one as well).
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
    refused: dict[str, tuple[int, bytes]] = {}
    is_taken = False
    with server:
        if plugin.secure_mode == "starttls":
            server.starttls(context=context)
        if plugin.user and plugin.password:
            server.login(plugin.user, plugin.password)
        for message in plugin.prepare_emails(
            subject=title,
            body=body,
            notify_format="text",
            from_addr=plugin.from_addr,
            to=plugin.targets,
            cc=plugin.cc,
            bcc=plugin.bcc,
            reply_to=plugin.reply_to,
            smtp_host=host,
            names=plugin.names,
        ):
            try:
                refused |= server.sendmail(plugin.from_addr[1], message.to_addrs, message.body)
                is_taken = True
            except smtplib.SMTPRecipientsRefused as error:
                refused |= error.recipients
    if refused and not is_taken:
        raise smtplib.SMTPRecipientsRefused(refused)
    if refused:
        logger.warning("Mail through %s was refused for some of its recipients: %s", host, refused)


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
