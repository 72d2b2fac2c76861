"""The tiny web as a crawl: WARC records of clean pages, and of each kind that a pipeline must find, in known shares."""

from __future__ import annotations

import io
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

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
EPOCH = 1_700_000_000  # seconds; the first fetch of the crawl
CHANGED = 0.04  # share of a near-duplicate's sentences that differ, at least one
LEAST_SENTENCES = 12  # of a page that is nearly repeated: with fewer, one changed sentence makes another page of it


@dataclass
class Crawled:
    """One record: what is sent, and its label."""

    id: str
    url: str
    date: str
    payload: bytes
    planted: list[str]
    pii: list[str] = field(default_factory=list)

    @property
    def label(self) -> dict:
        return {"id": self.id, "url": self.url, "planted": self.planted, "pii": self.pii}


@dataclass(frozen=True)
class Written:
    """What a clean page says, so that another one can repeat it."""

    id: str
    title: str
    paragraphs: tuple[str, ...]

    @property
    def sentences(self) -> int:
        return sum(text.count(". ") + 1 for text in self.paragraphs)


def crawl(count: int, seed: int) -> Iterator[Crawled]:
    """`count` pages in the order of their fetch; the same arguments give the same bytes."""
    rng = random.Random(f"{seed}/crawl")
    sites = markup.make_sites(rng, max(4, count // PAGES_OF_A_SITE))
    facts = fact_texts(seed, rng)
    kinds = [kind for kind, share in PLANTED.items() for _ in range(round(share * count))]
    kinds += ["clean"] * (count - len(kinds))
    rng.shuffle(kinds)
    written: list[Written] = []
    for number, kind in enumerate(kinds):
        if kind in ("duplicate_of", "near_duplicate_of") and not any(p.sentences >= LEAST_SENTENCES for p in written):
            kind = "clean"  # nothing to repeat yet
        yield MAKERS[kind](Visit(rng, rng.choice(sites), number, facts, written))


@dataclass
class Visit:
    """What the maker of a page has at hand."""

    rng: random.Random
    site: markup.Site
    number: int
    facts: list[str]
    written: list[Written]

    @property
    def id(self) -> str:
        bits = random.Random(f"{self.site.host}/{self.number}").getrandbits(128)
        text = f"{bits:032x}"
        return f"<urn:uuid:{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}>"

    def send(self, planted: list[str], title: str, paragraphs, pii=(), url: str = "", payload: bytes = b"") -> Crawled:
        slug = "-".join(title.lower().replace("'", "").split()[:6])
        url = url or f"https://{self.site.host}/{self.rng.choice(self.site.sections)}/{slug}-{self.number}.html"
        payload = payload or markup.render(self.site, self.rng, title, list(paragraphs)).encode()
        date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(EPOCH + 7 * self.number))
        return Crawled(self.id, url, date, payload, planted, list(pii))


def fact_texts(seed: int, rng: random.Random) -> list[str]:
    """What biographies and pages on places of a world say, a paragraph each."""
    world = make_world(seed, 12, 100, 12, 64)
    made = [*pages.biography_pages(world, rng), *pages.place_pages(world, rng)]
    return [" ".join(page.text.split("\n")[-1:]).strip() or page.text for page in made]


def prose(visit: Visit) -> tuple[str, list[str]]:
    """(title, paragraphs) of a clean page: filler, with a paragraph of facts on every other page."""
    rng = visit.rng
    title = sentence(rng).rstrip(".")
    title = " ".join(title.split()[:9])
    made = [paragraph(rng, rng.randint(3, 7)) for _ in range(rng.randint(3, 8))]
    if rng.random() < 0.5:
        made.insert(rng.randrange(len(made) + 1), rng.choice(visit.facts))
    if rng.random() < 0.15:
        at = rng.randrange(1, len(made) + 1)
        made[at:at] = ["- " + sentence(rng) for _ in range(rng.randint(3, 5))]
    return title, made


def clean(visit: Visit) -> Crawled:
    title, paragraphs = prose(visit)
    made = visit.send(["clean"], title, paragraphs)
    visit.written.append(Written(made.id, title, tuple(paragraphs)))
    return made


def blocked_url(visit: Visit) -> Crawled:
    title, paragraphs = prose(visit)
    word = visit.site.host.split(".")[-2]
    return visit.send(["blocked_url"], title, paragraphs, url=f"https://{word}.com/viagra/{visit.number}.html")


def foreign_page(visit: Visit) -> Crawled:
    rng = visit.rng
    language = rng.choice(sorted(foreign.PARTS))
    paragraphs = [foreign.paragraph(rng, language, rng.randint(3, 6)) for _ in range(rng.randint(3, 6))]
    return visit.send(["foreign"], " ".join(paragraphs[0].split()[:5]), paragraphs)


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
    return visit.send(["spam"], f"Cheap {product}", rng.choice(kinds)())


def broken(visit: Visit) -> Crawled:
    """Pages without a text to find: cut in the head, bytes of a picture, an empty shell for a script, nothing."""
    rng = visit.rng
    title, paragraphs = prose(visit)
    whole = markup.render(visit.site, rng, title, paragraphs).encode()
    kinds = (
        lambda: whole[: whole.index(b"<title>") + 7],
        lambda: b"\x89PNG\r\n\x1a\n" + rng.randbytes(2000),
        lambda: (
            b'<html><body><div id="root"></div><script>render(document.getElementById("root"))</script></body></html>'
        ),
        lambda: b"<html><body></body></html>",
        lambda: b"<div>" * 3000 + b"</html>",
    )
    return visit.send(["broken"], title, paragraphs, payload=rng.choice(kinds)())


def pii(visit: Visit) -> Crawled:
    rng = visit.rng
    title, paragraphs = prose(visit)
    name, host = rng.choice(lex.PEOPLE), rng.choice(visit.site.host.split(".")[-2:-1])
    email = f"{name}.{rng.choice(lex.ANIMALS)}{rng.randrange(100)}@{host}.{rng.choice(markup.ENDINGS)}"
    address = ".".join(map(str, (rng.choice((5, 37, 81, 93, 151, 185)), *(rng.randint(1, 254) for _ in range(3)))))
    phone = rng.choice(("+{} {} {} {}", "+{}-{}-{}-{}")).format(
        *(rng.randint(a, b) for a, b in ((31, 49), (200, 999)) * 2)
    )
    strings = [email, address, phone]
    wordings = (
        "Please write to {} before the winter.",
        "The old server answered at {} for many years.",
        "You can call the workshop at {} in the morning.",
    )
    for text, string in zip(wordings, strings, strict=True):
        at = rng.randrange(len(paragraphs))
        said = text.format(string)
        paragraphs[at] = f"{paragraphs[at]} {said}"
    return visit.send(["pii"], title, paragraphs, strings)


def duplicate(visit: Visit) -> Crawled:
    """The same text on another site."""
    source = visit.rng.choice(visit.written)
    return visit.send([f"duplicate_of:{source.id}"], source.title, source.paragraphs)


def near_duplicate(visit: Visit) -> Crawled:
    """The same text but for a few sentences."""
    rng = visit.rng
    source = rng.choice([page for page in visit.written if page.sentences >= LEAST_SENTENCES])
    paragraphs = [text.split(". ") for text in source.paragraphs]
    places = [(i, j) for i, sentences in enumerate(paragraphs) for j in range(len(sentences))]
    for i, j in rng.sample(places, max(1, round(CHANGED * len(places)))):
        bullet = "- " if paragraphs[i][j].startswith("- ") else ""
        end = "." if j == len(paragraphs[i]) - 1 else ""
        paragraphs[i][j] = bullet + sentence(rng).rstrip(".") + end
    return visit.send([f"near_duplicate_of:{source.id}"], source.title, [". ".join(text) for text in paragraphs])


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


def write_warc(path: str, records: Iterator[Crawled]) -> Iterator[dict]:
    """Writes the records as a crawler would -> their labels."""
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
                http_headers=StatusAndHeaders("200 OK", headers, protocol="HTTP/1.1"),
                warc_headers_dict={"WARC-Record-ID": crawled.id, "WARC-Date": crawled.date},
            )
            writer.write_record(record)
            yield crawled.label
