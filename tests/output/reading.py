"""A page as its tests read it."""

from __future__ import annotations

import re
from collections import Counter
from html import unescape
from html.parser import HTMLParser


class Page(HTMLParser):
    """Its elements, each with all of the text in it."""

    def __init__(self, text):
        super().__init__()
        self.text, self.open, self.elements = text, [], []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"
        self.ids = [each["id"] for each in self.elements if "id" in each]

    def handle_starttag(self, tag, attributes):
        element = {"tag": tag, "text": "", **dict(attributes)}
        self.elements.append(element)
        if tag not in ("meta", "br"):
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1]["tag"] == tag, f"</{tag}> at {self.getpos()}"
        self.open.pop()

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, tag, **given):
        return [each for each in self.elements if each["tag"] == tag and all(
            each.get(key.replace("_", "-")) == value for key, value in given.items())]

    def links(self):
        return [each["href"] for each in self.elements if "href" in each]

    def wrong(self):
        """What does not fit together, or has to be fetched."""
        wanted = [to[1:] for to in self.links()] + re.findall(r"url\(#([\w-]+)\)", self.text) + [
            to for each in self.elements for to in each.get("aria-labelledby", "").split()]
        return [*(each for each, count in Counter(self.ids).items() if count > 1),
                *(to for to in self.links() if not to.startswith("#")),
                *(to for to in wanted if to not in self.ids),
                *(each for each in self.elements if "src" in each),
                *re.findall(r"https?://|@import|url\((?!#)|<link|<img|<iframe", self.text)]


def cut_off(page):
    """The labels that may reach over an edge of their picture."""
    found = []
    for svg in re.findall(r"<svg .*?</svg>", page, re.S):
        wide, high = map(float, re.search(r'viewBox="0 0 (\S+) ([^"]+)"', svg).groups())
        for given, text in re.findall(r"<text ([^>]*)>([^<]*)", svg):
            had = {"text-anchor": "start", **dict(re.findall(r'([\w-]+)="([^"]*)"', given))}
            if "transform" in had:                          # upright, along the side
                continue
            size = 11 if "small" in had.get("class", "") else 13
            x, y, width = float(had["x"]), float(had["y"]), 0.55 * size * len(unescape(text))
            left = x - {"start": 0, "middle": width / 2, "end": width}[had["text-anchor"]]
            if not (0 <= left <= wide - width and 0.8 * size <= y <= high - 0.25 * size):
                found.append((text, x, y))
    return found
