"""Which endpoint a key belongs to, where routers that share nothing have to agree.

Rendezvous hashing: Thaler and Ravishankar 1998.
"""

from __future__ import annotations

from collections.abc import Sequence

import xxhash

from .endpoint import Endpoint


def rendezvous(key: bytes, endpoints: Sequence[Endpoint]) -> list[int]:
    """A rank of each endpoint for *key*, the highest first: the same on every router, whoever else is there.

    Multiplicative hashing: of a key's products with odd salts, modulo 2^64, each is as likely the highest.
    """
    factor = xxhash.xxh3_64_intdigest(key) | 1
    return [factor * endpoint.salt & 0xFFFF_FFFF_FFFF_FFFF for endpoint in endpoints]
