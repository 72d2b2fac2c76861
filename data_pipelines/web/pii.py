"""E-mail addresses, public IP addresses and phone numbers are replaced by ones that belong to nobody."""

import ipaddress
import re

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter

EMAIL = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z][A-Za-z0-9-]*[A-Za-z0-9]"
)
IPV4 = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d]|\.\d)")
IPV6 = re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])")
# With a country's code, or as the North American plan writes them: never a bare run of digits, which may be anything.
PHONE = re.compile(
    r"(?<![\w+])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{2,4}(?:[ .-]\d{2,4}){1,4}|"
    r"(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[.-]\d{4})(?!\w)"
)
EMAIL_OF_NOBODY = "email@example.com"
IPS_OF_NOBODY = {4: "192.0.2.1", 6: "2001:db8::1"}  # RFC 5737, RFC 3849
PHONE_OF_NOBODY = "555-0100"


class Mask(BaseFilter):
    """Keeps every document; notes how many strings were replaced in metadata["pii"]."""

    name = "pii"

    def filter(self, doc: Document) -> bool:
        doc.text, count = masked(doc.text)
        if count:
            doc.metadata["pii"] = count
        return True


def masked(text: str) -> tuple[str, int]:
    """(text without them, how many there were)"""
    text, emails = EMAIL.subn(EMAIL_OF_NOBODY, text) if "@" in text else (text, 0)
    count = 0

    def address(match: re.Match) -> str:
        nonlocal count
        try:
            ip = ipaddress.ip_address(match.group())
        except ValueError:
            return match.group()
        count += ip.is_global
        return IPS_OF_NOBODY[ip.version] if ip.is_global else match.group()

    text = IPV6.sub(address, IPV4.sub(address, text))
    text, phones = PHONE.subn(PHONE_OF_NOBODY, text)
    return text, emails + count + phones
