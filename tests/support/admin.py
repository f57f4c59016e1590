"""What the admin port of an app says."""

from __future__ import annotations

import urllib.error
import urllib.request

from tests.support.waiting import PATIENCE


def get(url: str) -> tuple[int, str]:
    """Return the status and the body of the answer."""
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
