"""The lines of the guide that verify a webhook are right."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from services.alerts.senders import sign

GUIDES = sorted((Path(__file__).parents[1] / "doc").glob("TRAINING_METRICS_GUIDE*.md"))


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
@pytest.mark.parametrize("sent", [b'{"a":1}', b'{"a":2}'])
def test_five_lines_verify_a_signature(guide: Path, sent: bytes) -> None:
    found = re.search(r"```python\n(import base64.*?)```", guide.read_text("utf-8"), re.DOTALL)
    assert found is not None
    assert len([line for line in found[1].splitlines() if line]) == 5
    headers = {"webhook-id": "msg_1", "webhook-timestamp": "5", "webhook-signature": sign("s", "msg_1", 5, b'{"a":1}')}
    names: dict[str, Any] = {"secret": "s", "headers": headers, "body": sent}
    exec(found[1], names)
    assert names["valid"] is (sent == b'{"a":1}')
