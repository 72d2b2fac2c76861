"""Web searches behind keys: a query in, passages out. Off unless a command asks for one by name.

Keys come from the environment: BRAVE_API_KEY, TAVILY_API_KEY, SERPER_API_KEY; SEARXNG_URL is the address of a SearXNG
server that answers in JSON. BRAVE_URL, TAVILY_URL and SERPER_URL name another address than the provider's own.
"""

import dataclasses
import html
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

from llm_jax.tools.passages import Passage, clipped, short

SECONDS = 5.0  # that a search may take, to the last byte
MOST_BYTES = 2**20  # of an answer
LONGEST = 400  # characters of a query: what the strictest of them takes
CHUNK = 2**16


class Failed(Exception):
    """A search that gave no answer; the message says why in a few words."""


@dataclasses.dataclass(frozen=True)
class Provider:
    variable: str  # what its variables in the environment begin with
    url: str  # its own address; empty where there is none, and the environment must say
    needs_key: bool
    ask: Callable[[str, str, str, int], urllib.request.Request]  # of (address, key, query, how many)
    results: tuple[str, ...]  # the way to the list of results in its answer
    text: str  # the field of a result that has the words
    link: str = "url"

    def find(self, query: str, most: int) -> list[Passage]:
        """Raises Failed."""
        url, key = self._setting("URL", self.url).rstrip("/"), ""
        if not url.startswith(("http://", "https://")):
            raise Failed(f"{self.variable}_URL is no http address")
        if self.needs_key:
            key = self._setting("API_KEY", "")
            if not re.fullmatch("[!-~]+", key):
                raise Failed(f"{self.variable}_API_KEY has what no header can carry")
        query = " ".join(query.encode("utf-8", "replace").decode("utf-8").split())[:LONGEST]
        if not query:
            return []
        found: Any = fetched(self.ask(url, key, query, most))
        for step in self.results:  # where nothing was found some leave the list out, or have null
            if not isinstance(found, dict):
                raise Failed("the answer has no list of results")
            found = found.get(step) or {}
        return [passage for result in found if (passage := self._passage(result))][:most]

    def _setting(self, name: str, otherwise: str) -> str:
        name = f"{self.variable}_{name}"
        if not (value := os.environ.get(name, "").strip() or otherwise):
            raise Failed(f"{name} is not set")
        return value

    def _passage(self, result: Any) -> Passage | None:
        """Of one result; None of what is none."""
        fields = [result.get(name) for name in ("title", self.text, self.link)] if isinstance(result, dict) else [None]
        if not all(isinstance(field, str) for field in fields):
            return None
        title, text, url = fields
        text = clipped(plain(text))
        source = short(plain(title)) or short(urllib.parse.urlsplit(url).netloc)
        return Passage(source, text, url) if text and source else None


def plain(text: str) -> str:
    """Without markup: some mark the words of the query."""
    return html.unescape(re.sub(r"</?\w[^<>]*>", "", text))


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A key goes to the address that it is for, and to no other."""

    def redirect_request(self, *_) -> None:
        return None


def fetched(request: urllib.request.Request) -> Any:
    """The JSON that an address answers with. Raises Failed."""
    end, data = time.monotonic() + SECONDS, b""
    try:
        with urllib.request.build_opener(NoRedirect).open(request, timeout=SECONDS) as answer:
            while piece := answer.read1(CHUNK):
                data += piece
                if len(data) > MOST_BYTES:
                    raise Failed(f"the answer is longer than {MOST_BYTES // 2**20} MiB")
                if time.monotonic() > end:
                    raise TimeoutError
        return json.loads(data)
    except urllib.error.HTTPError as error:
        raise Failed(f"the server answered {error.code}") from error
    except TimeoutError as error:
        raise late() from error
    except urllib.error.URLError as error:
        raise (late() if isinstance(error.reason, TimeoutError) else unreachable()) from error
    except (ValueError, RecursionError) as error:
        raise Failed("the answer is no JSON") from error
    except (OSError, http.client.HTTPException) as error:
        raise unreachable() from error


def late() -> Failed:
    return Failed(f"no answer within {SECONDS:g} s")


def unreachable() -> Failed:
    return Failed("the server cannot be reached")


def got(url: str, headers: dict[str, str], **fields: Any) -> urllib.request.Request:
    head = {"Accept": "application/json", "User-Agent": "llm_jax", **headers}
    return urllib.request.Request(f"{url}?{urllib.parse.urlencode(fields)}", headers=head)


def posted(url: str, headers: dict[str, str], **fields: Any) -> urllib.request.Request:
    head = {"Content-Type": "application/json", "User-Agent": "llm_jax", **headers}
    return urllib.request.Request(url, json.dumps(fields).encode(), head)


PROVIDERS = {
    "brave": Provider(
        variable="BRAVE",
        url="https://api.search.brave.com",
        needs_key=True,
        ask=lambda url, key, query, most: got(
            f"{url}/res/v1/web/search", {"X-Subscription-Token": key}, q=query, count=most
        ),
        results=("web", "results"),
        text="description",
    ),
    "tavily": Provider(
        variable="TAVILY",
        url="https://api.tavily.com",
        needs_key=True,
        ask=lambda url, key, query, most: posted(
            f"{url}/search", {"Authorization": f"Bearer {key}"}, query=query, max_results=most
        ),
        results=("results",),
        text="content",
    ),
    "serper": Provider(
        variable="SERPER",
        url="https://google.serper.dev",
        needs_key=True,
        ask=lambda url, key, query, most: posted(f"{url}/search", {"X-API-KEY": key}, q=query, num=most),
        results=("organic",),
        text="snippet",
        link="link",
    ),
    "searxng": Provider(
        variable="SEARXNG",
        url="",
        needs_key=False,
        ask=lambda url, key, query, most: got(f"{url}/search", {}, q=query, format="json"),
        results=("results",),
        text="content",
    ),
}
