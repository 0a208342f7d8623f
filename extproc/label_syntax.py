"""What Kubernetes takes for a label.

Source: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set
"""

from __future__ import annotations

import re

_NAME = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_KEY = re.compile(rf"([a-z0-9]([-a-z0-9.]{{0,251}}[a-z0-9])?/)?{_NAME}")
_VALUE = re.compile(rf"({_NAME})?")


def is_key(key: str) -> bool:
    """[prefix/]name: the prefix a DNS subdomain of at most 253 characters, the name of 1 to 63."""
    return _KEY.fullmatch(key) is not None


def is_value(value: str) -> bool:
    """At most 63 letters, digits and `-_.`, a letter or digit at both ends."""
    return _VALUE.fullmatch(value) is not None
