"""Sites of the tiny web: each has its own page skeleton, furniture and style of HTML around what a page says."""

from __future__ import annotations

import html
import random
from dataclasses import dataclass

from data_pipelines.tiny_web import lexicon as lex

ENDINGS = ("com", "org", "net", "info", "co.uk")
SECTIONS = "news people notes places stories archive letters field-guide diary town club kitchen garden".split()
NAVIGATION = "Home|About us|Contact|Archive|Help|Search|Sign in|Map|Shop|Newsletter|Jobs|Press".split("|")
NOTICES = (  # (class, text)
    ("cookie-banner", "We use cookies to make this site better. Accept all"),
    ("newsletter-signup", "Subscribe to our newsletter for more stories like this one"),
    ("share-buttons", "Share this page | Print | Send to a friend"),
    ("paywall-note", "You are reading one of three free pages this month"),
    ("advertisement", "Advertisement"),
    ("breadcrumbs", "You are here: Start, All pages, This page"),
    ("byline", "Written by the editors"),
)


@dataclass(frozen=True)
class Site:
    host: str
    title: str
    skeleton: int
    container: str
    body: str
    heading: str
    navigation: tuple[str, ...]
    notices: tuple[tuple[str, str], ...]
    sections: tuple[str, ...]
    script: bool


def make_sites(rng: random.Random, count: int) -> list[Site]:
    return [make_site(rng, word) for word in lex.invent(rng, count, lex.CITY_ENDINGS, [])]


def make_site(rng: random.Random, word: str) -> Site:
    noun = rng.choice(lex.PLACES + lex.TOOLS + lex.NATURE)
    return Site(
        host=f"{rng.choice(('www.', '', 'blog.'))}{word.lower()}-{noun}.{rng.choice(ENDINGS)}",
        title=f"The {word} {noun.capitalize()}",
        skeleton=rng.randrange(len(SKELETONS)),
        container=rng.choice(("article", "main", "div", "section")),
        body=rng.choice(("content", "post-body", "entry", "article-text", "main-content", "story")),
        heading=rng.choice(("h1", "h1", "h2")),
        navigation=tuple(rng.sample(NAVIGATION, rng.randint(4, 8))),
        notices=tuple(rng.sample(NOTICES, rng.randint(1, 3))),
        sections=tuple(rng.sample(SECTIONS, 4)),
        script=rng.random() < 0.6,
    )


def render(site: Site, rng: random.Random, title: str, paragraphs: list[str]) -> str:
    """The page as its site writes it. A paragraph that begins with "- " is an item of a numbered list."""
    body, items = [], []
    for text in [*paragraphs, ""]:
        if text.startswith("- "):
            items.append(f"<li>{html.escape(text[2:])}</li>")
            continue
        if items:
            body.append(f"<ol>{''.join(items)}</ol>")
            items = []
        if text:
            body.append(f"<p>{html.escape(text)}</p>")
    links = "".join(f'<li><a href="/{name.lower().replace(" ", "-")}">{name}</a></li>' for name in site.navigation)
    more = "".join(
        f'<li><a href="/{rng.choice(site.sections)}/{rng.randrange(10**6)}">{_teaser(rng)}</a></li>' for _ in range(4)
    )
    parts = {
        "title": html.escape(title),
        "site": html.escape(site.title),
        "heading": f"<{site.heading}>{html.escape(title)}</{site.heading}>",
        "body": "\n".join(body),
        "links": links,
        "more": more,
        "notices": "".join(f'<div class="{name}">{html.escape(text)}</div>' for name, text in site.notices),
        "container": site.container,
        "name": site.body,
        "script": f"<script>var visits = {rng.randrange(1000)}; track(visits);</script>" if site.script else "",
        "year": rng.randint(1996, 2025),
    }
    return SKELETONS[site.skeleton].format(**parts)


def _teaser(rng: random.Random) -> str:
    return f"{rng.choice(lex.ADJECTIVES).capitalize()} {lex.plural(rng.choice(lex.TOOLS))}"


_HEAD = '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title} - {site}</title>{script}</head>\n'
_MAIN = '<{container} class="{name}">{heading}\n{body}\n</{container}>'
SKELETONS = (
    _HEAD
    + "<body><header><nav><ul>{links}</ul></nav></header>{notices}\n"
    + _MAIN
    + "<aside><h3>More to read</h3><ul>{more}</ul></aside><footer>Copyright {year} {site}</footer></body></html>",
    _HEAD
    + '<body><div id="top"><a href="/">{site}</a></div><div class="menu"><ul>{links}</ul></div>\n'
    + _MAIN
    + '<div class="sidebar"><ul>{more}</ul></div>{notices}<div id="footer">{site}, since {year}</div></body></html>',
    _HEAD
    + '<body><div class="header"><ul class="nav">{links}</ul></div>\n<div id="wrapper">'
    + _MAIN
    + '</div><div class="related"><h4>Related</h4><ul>{more}</ul></div><div class="footer">{notices}</div></body>',
    # A magazine: a picture between heading and text.
    _HEAD
    + '<body><header class="masthead"><b>{site}</b><nav><ul>{links}</ul></nav></header><{container} class="{name}">'
    + '{heading}<figure><img src="/{year}.jpg" alt=""></figure>\n{body}\n</{container}>'
    + "<footer><ul>{more}</ul>{notices}</footer></body></html>",
    # A blog: comments are closed.
    _HEAD
    + '<body><div class="site-header"><h4><a href="/">{site}</a></h4></div><div class="site-content">'
    + _MAIN
    + '<div class="comments"><h3>Comments are closed</h3></div></div><div class="widgets">'
    + '<ul>{more}</ul><ul>{links}</ul>{notices}</div><div class="site-footer">{site}</div></body></html>',
    # An encyclopedia, which has its navigation after the text.
    _HEAD
    + '<body><div id="content" class="{name}">{heading}\n<div id="bodyContent">{body}</div></div>'
    + '<div id="navigation"><h3>Navigation</h3><ul>{links}</ul></div><div id="footer"><ul>{more}</ul>{notices}'
    + "<p>Last changed in {year}</p></div></body></html>",
    # A table for a layout, as in the nineties.
    '<html><head><title>{title}</title></head><body bgcolor="#ffffff"><table width="100%"><tr>'
    + '<td class="menu" valign="top"><ul>{links}</ul></td><td valign="top">'
    + _MAIN
    + '</td></tr></table><div class="footer">{notices}(c) {year} {site}</div></body></html>',
    # No closing tags where HTML does not ask for them.
    "<html><head><title>{title}</title>{script}<body><nav><ul>{links}</ul></nav>"
    + _MAIN
    + "<footer><ul>{more}</ul>{notices}(c) {year}</footer>",
)
