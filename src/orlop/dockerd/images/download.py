# SPDX-License-Identifier: Apache-2.0
"""The archive of `docker import URL`, fetched by the daemon."""

from collections.abc import AsyncIterator

import aiohttp
from yarl import URL

from orlop.errdefs import InvalidArgumentError, UnavailableError
from orlop.registry.config import proxy_for
from orlop.registry.errors import describe_failure

_CHUNK = 1 << 20  # bytes at a time
_SILENCE = 60  # seconds


def source_url(text: str) -> URL:
    """Where an archive is; without a scheme by HTTP, as with Docker. Raises InvalidArgumentError."""
    url = URL(text if "://" in text else f"http://{text}")
    if url.scheme not in ("http", "https") or not url.host:
        raise InvalidArgumentError(f"fromSrc: {text!r} is neither - nor the http(s) URL of an archive")
    return url


async def download(url: URL) -> AsyncIterator[bytes]:
    """The archive's bytes. Raises UnavailableError."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=_SILENCE)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session,
            session.get(url, proxy=proxy_for(url.scheme, url.host or "")) as response,
        ):
            if response.status >= 400:
                raise UnavailableError(f"unexpected status {response.status} from GET {url}")
            async for chunk in response.content.iter_chunked(_CHUNK):
                yield chunk
    except (aiohttp.ClientError, TimeoutError) as error:
        raise UnavailableError(describe_failure("GET", url, error)) from None
