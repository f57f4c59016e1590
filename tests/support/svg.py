"""Pictures that `fanout` draws."""

from __future__ import annotations

from xml.etree import ElementTree


def assert_is_picture(text: str) -> None:
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert not [element.tag for element in root.iter() if str(element.tag).endswith(("script", "image", "use"))]
    assert "href" not in text
    assert "@import" not in text
