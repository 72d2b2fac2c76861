"""The tiny web as a crawl: WARC records of clean pages, and of each kind that a pipeline must find, in known shares."""

from __future__ import annotations

import io
import math
import random
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from data_pipelines.tiny_web import foreign, markup, pages
from data_pipelines.tiny_web import lexicon as lex
from data_pipelines.tiny_web.grammar import paragraph, sentence
from data_pipelines.tiny_web.world import make_world

PAGES_OF_A_SITE = 40
# kind -> share of all pages; the rest is clean
PLANTED = {
    "blocked_url": 0.04,
    "foreign": 0.08,
    "spam": 0.05,
    "broken": 0.04,
    "pii": 0.05,
    "duplicate_of": 0.05,
    "near_duplicate_of": 0.05,
}
GOOD = 1 - sum(share for kind, share in PLANTED.items() if kind != "pii")  # share of pages that a world's can be
EPOCH = 1_700_000_000  # seconds; the first fetch of the crawl
CHANGED = 0.01  # share of a near-duplicate's words that differ, at least one
LEAST_WORDS = 120  # of a page that is repeated: of a shorter one, one word is too much for a near-duplicate


@dataclass
class Crawled:
    """One record: what is sent, its label, and the page of the world that it holds or repeats."""

    id: str
    url: str
    date: str
    payload: bytes
    planted: list[str]
    pii: list[str]
    page: pages.Page | None

    @property
    def label(self) -> dict:
        return {"id": self.id, "url": self.url, "planted": self.planted, "pii": self.pii}


def pages_for(world_pages: int) -> int:
    """How many pages a crawl needs so that all of a world's are among them."""
    return math.ceil(world_pages / GOOD) + len(PLANTED)  # each kind's number is rounded


def crawl(count: int, seed: int, world_pages: list[pages.Page] | None = None) -> Iterator[Crawled]:
    """`count` pages in the order of their fetch: the world's pages (by default those of the seed's own world), each
    once, as long as there are any; then stories about nothing in particular; and what is planted. The same arguments
    give the same bytes."""
    if world_pages is None:
        world_pages = pages.world_pages(make_world(seed), seed)
    rng = random.Random(f"{seed}/crawl")
    sites = markup.make_sites(rng, max(4, count // PAGES_OF_A_SITE))
    kinds = [kind for kind, share in PLANTED.items() for _ in range(round(share * count))]
    kinds += ["clean"] * (count - len(kinds))
    rng.shuffle(kinds)
    left, written = list(reversed(world_pages)), []
    for number, kind in enumerate(kinds):
        if kind in ("duplicate_of", "near_duplicate_of") and not written:
            kind = "clean"  # nothing to repeat yet
        yield MAKERS[kind](Visit(rng, rng.choice(sites), number, left, written))


@dataclass
class Visit:
    """What the maker of a page has at hand: the world's pages that are left, and (id, page) of those that can be
    repeated."""

    rng: random.Random
    site: markup.Site
    number: int
    left: list[pages.Page]
    written: list[tuple[str, pages.Page]]

    @property
    def id(self) -> str:
        bits = random.Random(f"{self.site.host}/{self.number}").getrandbits(128)
        return f"<urn:uuid:{uuid.UUID(int=bits)}>"

    def next_page(self) -> pages.Page:
        return self.left.pop() if self.left else story(self)

    def send(self, planted: str, page: pages.Page, pii=(), url: str = "", payload: bytes = b"") -> Crawled:
        slug = "-".join(re.findall(r"[a-z]+", page.title.lower())[:6])
        url = url or f"https://{self.site.host}/{page.source}/{slug}-{self.number}.html"
        payload = payload or self.rendered(page)
        date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(EPOCH + 7 * self.number))
        return Crawled(self.id, url, date, payload, [planted], list(pii), page if page.facts else None)

    def rendered(self, page: pages.Page) -> bytes:
        return markup.render(self.site, self.rng, page.title, list(page.paragraphs)).encode()


def story(visit: Visit) -> pages.Page:
    """A clean page about nothing in particular."""
    rng = visit.rng
    title = " ".join(sentence(rng).rstrip(".").split()[:9])
    made = [paragraph(rng, rng.randint(3, 7)) for _ in range(rng.randint(3, 8))]
    if rng.random() < 0.15:
        at = rng.randrange(1, len(made) + 1)
        made[at:at] = ["- " + sentence(rng) for _ in range(rng.randint(3, 5))]
    return pages.Page(rng.choice(visit.site.sections), title, tuple(made))


def clean(visit: Visit) -> Crawled:
    page = visit.next_page()
    made = visit.send("clean", page)
    if len(page.text.split()) >= LEAST_WORDS:
        visit.written.append((made.id, page))
    return made


def blocked_url(visit: Visit) -> Crawled:
    """A page of a host, or at an address, that nobody wants."""
    word = visit.site.host.split(".")[-2]
    url = visit.rng.choice(
        (f"https://{word}.com/viagra/{visit.number}.html", f"https://viagra-{word}.com/{visit.number}")
    )
    return visit.send("blocked_url", story(visit), url=url)


def foreign_page(visit: Visit) -> Crawled:
    rng = visit.rng
    language = rng.choice(sorted(foreign.PARTS))
    paragraphs = [foreign.paragraph(rng, language, rng.randint(3, 6)) for _ in range(rng.randint(3, 6))]
    title = " ".join(paragraphs[0].split()[:5])
    return visit.send("foreign", pages.Page(rng.choice(visit.site.sections), title, tuple(paragraphs)))


def spam(visit: Visit) -> Crawled:
    """Keywords over and over, a list of links, or text that only fills."""
    rng = visit.rng
    product, place = rng.choice(lex.PRODUCTS), rng.choice(lex.PLACES)
    calls = [f"Buy cheap {product} now", f"best {product} online", f"discount {product} {place}", f"free {product}"]
    kinds = (
        lambda: [" ".join(rng.choice(calls) for _ in range(30)) + "." for _ in range(4)],
        lambda: ["- " + f"{product} {rng.randrange(100)}% off" for _ in range(60)],
        lambda: ["Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor. " * 3] * 4,
        lambda: ["#" + " #".join(rng.choice(lex.PRODUCTS) for _ in range(80))],
    )
    return visit.send("spam", pages.Page("shop", f"Cheap {product}", tuple(rng.choice(kinds)())))


def broken(visit: Visit) -> Crawled:
    """Pages without a text to find: cut in the head, bytes of a picture, an empty shell for a script, nothing."""
    rng = visit.rng
    page = story(visit)
    whole = visit.rendered(page)
    kinds = (
        lambda: whole[: whole.index(b"<title>") + 7],
        lambda: b"\x89PNG\r\n\x1a\n" + rng.randbytes(2000),
        lambda: (
            b'<html><body><div id="root"></div><script>render(document.getElementById("root"))</script></body></html>'
        ),
        lambda: b"<html><body></body></html>",
        lambda: b"<div>" * 3000 + b"</html>",
    )
    return visit.send("broken", page, payload=rng.choice(kinds)())


def pii(visit: Visit) -> Crawled:
    """A clean page that also says how to reach somebody."""
    rng, page = visit.rng, visit.next_page()
    name, host = rng.choice(lex.PEOPLE), rng.choice(visit.site.host.split(".")[-2:-1])
    email = f"{name}.{rng.choice(lex.ANIMALS)}{rng.randrange(100)}@{host}.{rng.choice(markup.ENDINGS)}"
    address = ".".join(map(str, (rng.choice((5, 37, 81, 93, 151, 185)), *(rng.randint(1, 254) for _ in range(3)))))
    phone = rng.choice(("+{} {} {} {}", "+{}-{}-{}-{}")).format(
        *(rng.randint(a, b) for a, b in ((31, 49), (200, 999)) * 2)
    )
    wordings = (
        "If you know more about any of this, please write to {} before the winter, and we will be glad to add it.",
        "The old server of the town answered at {} for many years, until the storm took it and all that was on it.",
        "You can also call the workshop at {} in the morning, when somebody is there who can help you with it.",
    )
    strings, paragraphs = [email, address, phone], list(page.paragraphs)
    for text, string in zip(wordings, strings, strict=True):
        paragraphs.insert(rng.randrange(len(paragraphs) + 1), text.format(string))
    return visit.send("pii", replace(page, paragraphs=tuple(paragraphs)), strings)


def duplicate(visit: Visit) -> Crawled:
    """The same text on another site."""
    id_, page = visit.rng.choice(visit.written)
    return visit.send(f"duplicate_of:{id_}", page)


def near_duplicate(visit: Visit) -> Crawled:
    """The same text but for a few words."""
    rng = visit.rng
    id_, page = rng.choice(visit.written)
    words = [text.split(" ") for text in page.paragraphs]
    plain = [(i, j) for i, text in enumerate(words) for j, word in enumerate(text) if re.fullmatch("[a-z]+", word)]
    for i, j in rng.sample(plain, max(1, round(CHANGED * sum(map(len, words))))):
        words[i][j] = rng.choice([noun for noun in lex.NATURE if noun != words[i][j]])
    paragraphs = tuple(" ".join(text) for text in words)
    return visit.send(f"near_duplicate_of:{id_}", replace(page, paragraphs=paragraphs))


MAKERS: dict[str, Callable[[Visit], Crawled]] = {
    "clean": clean,
    "blocked_url": blocked_url,
    "foreign": foreign_page,
    "spam": spam,
    "broken": broken,
    "pii": pii,
    "duplicate_of": duplicate,
    "near_duplicate_of": near_duplicate,
}


def write_warc(path: str, records: Iterable[Crawled]) -> Iterator[dict]:
    """Writes the records as a crawler would -> their labels, one after the other."""
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    with open(path, "wb") as file:
        writer = WARCWriter(file, gzip=path.endswith(".gz"))
        for crawled in records:
            headers = [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(crawled.payload)))]
            record = writer.create_warc_record(
                crawled.url,
                "response",
                payload=io.BytesIO(crawled.payload),
                length=len(crawled.payload),
                http_headers=StatusAndHeaders("200 OK", headers, protocol="HTTP/1.1"),
                warc_headers_dict={"WARC-Record-ID": crawled.id, "WARC-Date": crawled.date},
            )
            writer.write_record(record)
            yield crawled.label
