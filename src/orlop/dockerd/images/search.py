# SPDX-License-Identifier: Apache-2.0
"""Searches a registry's index by words: `docker search`, the one thing left of the index protocol, version 1."""

from typing import Any

import aiohttp
import msgspec
from yarl import URL

from orlop.dockerd.filters import Filters
from orlop.errdefs import InvalidArgumentError, UnavailableError
from orlop.oci.distribution import AuthConfig
from orlop.registry import RegistryConfig
from orlop.registry.auth import basic
from orlop.registry.config import proxy_for
from orlop.registry.endpoint import Endpoint
from orlop.registry.errors import describe_failure

_HUB = Endpoint("index.docker.io")
_ACCEPTED = ("is-automated", "is-official", "stars")
_MAX = 100
_DEFAULT = 25
_LARGEST = 4 << 20  # bytes of an answer
_SECONDS = 30


class _Found(msgspec.Struct):
    name: str = ""
    description: str = ""
    star_count: int = 0
    is_official: bool = False
    is_automated: bool = False


class _Answer(msgspec.Struct):
    results: list[_Found] = []


class SearchImages:
    """The use case."""

    def __init__(self, registries: RegistryConfig) -> None:
        self._registries = registries

    async def __call__(
        self, term: str, *, limit: int | None = None, filters: Filters, auth: AuthConfig | None = None
    ) -> list[dict[str, Any]]:
        """The Engine API's list of ImageSearch objects; `term` may begin with another registry, `host:port/words`.

        Raises InvalidArgumentError, UnavailableError.
        """
        filters.validate(_ACCEPTED)
        stars = _stars(filters)
        automated, official = filters.flag("is-automated", False), filters.flag("is-official", False)
        limit = limit or _DEFAULT
        if not 1 <= limit <= _MAX:
            raise InvalidArgumentError(f"limit {limit} is outside the range of [1, {_MAX}]")
        if "://" in term:
            raise InvalidArgumentError(f"invalid repository name ({term}): it should not have a scheme")
        endpoint, words = self._index(term)
        found = await self._ask(endpoint, {"q": words, "n": str(limit)}, auth)
        return [
            msgspec.to_builtins(item)
            for item in found
            if item.star_count >= stars
            and ("is-automated" not in filters or item.is_automated == automated)
            and ("is-official" not in filters or item.is_official == official)
        ]

    def _index(self, term: str) -> tuple[Endpoint, str]:
        host, slash, words = term.partition("/")
        if not slash or not ("." in host or ":" in host or host == "localhost"):
            return _HUB, term.removeprefix("library/")
        if host in ("docker.io", "index.docker.io"):
            return _HUB, words.removeprefix("library/")
        return Endpoint(host, insecure=self._registries.is_insecure(host)), words

    async def _ask(self, endpoint: Endpoint, query: dict[str, str], auth: AuthConfig | None) -> list[_Found]:
        failure = ""
        headers = {"User-Agent": self._registries.user_agent, "X-Docker-Token": "true"}
        if auth is not None and auth.username:
            headers["Authorization"] = basic(auth.username, auth.password)
        timeout = aiohttp.ClientTimeout(total=_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:
            for scheme in ("https", "http") if endpoint.insecure else ("https",):
                url = URL(f"{scheme}://{endpoint.host}/v1/search").with_query(query)
                tls = self._registries.tls_context(endpoint) if scheme == "https" else True
                proxy = proxy_for(scheme, endpoint.host)
                try:
                    async with session.get(url, ssl=tls, proxy=proxy) as response:
                        return await _read(response, url)
                except (aiohttp.ClientError, TimeoutError) as error:
                    failure = describe_failure("GET", url, error)
        raise UnavailableError(failure)


async def _read(response: aiohttp.ClientResponse, url: URL) -> list[_Found]:
    if response.status != 200:
        raise UnavailableError(f"unexpected status {response.status} from GET {url}")
    raw = await response.content.read(_LARGEST)
    try:
        return msgspec.json.decode(raw, type=_Answer).results
    except msgspec.DecodeError as error:
        raise UnavailableError(f"GET {url}: not the answer of an index: {error}") from None


def _stars(filters: Filters) -> int:
    try:
        return max((int(text) for text in filters.get("stars")), default=0)
    except ValueError:
        raise InvalidArgumentError(f"invalid filter 'stars=[{' '.join(filters.get('stars'))}]'") from None
