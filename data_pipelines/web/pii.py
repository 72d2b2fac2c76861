"""E-mail addresses, public IP addresses and phone numbers are replaced by ones that belong to nobody."""

import functools
import ipaddress
import re

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter

# Letters of scripts that are written without spaces: an address may stand between them and other words.
UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
MARKS = r"\xa0-\xbf\u2000-\u206f\u3000-\u303f\uff00-\uff20"  # of other alphabets than ASCII
ATOM = rf"[^\x00-\x20\"(),:;<>@\[\]\\\x7f{MARKS}{UNSPACED}]"
LETTER = rf"[^\x00-,./:-@\[-`{{-\x7f{MARKS}{UNSPACED}]"  # of a host's name
# RFC 5322's addresses, and RFC 6531's with letters of any script. `++` takes all it can: no text is searched twice.
EMAIL = re.compile(
    rf"(?:(?<!{ATOM}){ATOM}++|[{UNSPACED}]++|\"[^\"\n@]{{1,64}}\")"
    rf"@(?:(?:(?:{LETTER}++|[{UNSPACED}]++)\.)+(?:(?![0-9-]){LETTER}++|[{UNSPACED}]++)|\[[0-9A-Fa-f:.]+\])"
)
AT = re.compile(r"[(\[{][ \t]*at[ \t]*[)\]}]", re.IGNORECASE)
BRACKETED = re.compile(  # as people write them against robots: ann (at) example [dot] org
    r"(?<![\w.+-])[\w.+-]++[ \t]*[(\[{][ \t]*at[ \t]*[)\]}][ \t]*[\w-]++"
    r"(?:(?:[ \t]*[(\[{][ \t]*dot[ \t]*[)\]}][ \t]*|\.)[\w-]++)+",
    re.IGNORECASE,
)
IPV4 = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d]|\.\d)")
# Two colons at least; with an IPv4 address at the end, too. What is none, such as a time, `ipaddress` refuses.
IPV6 = re.compile(r"(?<![\w:.])(?=[0-9A-Fa-f]*+:)[0-9A-Fa-f:]{2,39}+(?:(?:\.\d{1,3}){3})?+(?![\w])")
GLOBAL_IPV6 = ipaddress.ip_network("2000::/3")  # the only addresses that are given out (IANA)
# In figures with what people put between them. A country's code: +49, 0049, 011 49. Without one only as the North
# American plan has it: never a bare run of digits, which may be anything.
GAP = r"[ \u00a0\u2007\u2009\u202f]?[-.\u2010-\u2013/·]?[ \u00a0\u2007\u2009\u202f]?"
ABROAD = re.compile(
    rf"(?<![\w+.,])(?:(?:\+|00|011){GAP}[1-9]\d{{0,3}}|\(\+[1-9]\d{{0,3}}\))"
    rf"(?:{GAP}(?:\(\d{{1,6}}\)|\d{{1,13}})){{1,7}}+(?!\d)"
)
AT_HOME = re.compile(
    r"(?<![\w+])(?:1[ .-])?(?:\(\d{3}\)[ .\u00a0-]{0,2}\d{3}[ .\u2010-\u2013-]\d{4}|"
    r"\d{3}[ .\u2010-\u2013-]\d{3}[.\u2010-\u2013-]\d{4}|[2-9]\d{2} [2-9]\d{2} \d{4})(?!\w)"
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
    count = 0

    def replaced(pattern: re.Pattern, nobody) -> None:
        nonlocal text

        def put(match: re.Match) -> str:
            nonlocal count
            new = nobody(match.group())
            count += new is not None
            return match.group() if new is None else new

        text = pattern.sub(put, text)

    if "@" in text:
        replaced(EMAIL, lambda found: EMAIL_OF_NOBODY)
    if AT.search(text):
        replaced(BRACKETED, lambda found: EMAIL_OF_NOBODY)
    if "::" in text or text.count(":") > 6:
        replaced(IPV6, ip_of_nobody)
    replaced(IPV4, ip_of_nobody)
    replaced(ABROAD, phone_of_nobody)
    replaced(AT_HOME, lambda found: PHONE_OF_NOBODY)
    return text, count


def ip_of_nobody(found: str) -> str | None:
    """None for what is no public address."""
    address = found.rstrip(":") if not found.endswith("::") else found  # the colon of a sentence
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return None
    if ip.version == 6 and "." in address:
        public = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF).is_global
    else:
        public = ip.is_global and (ip.version == 4 or ip in GLOBAL_IPV6)
    return IPS_OF_NOBODY[ip.version] + found[len(address) :] if public else None


def phone_of_nobody(found: str) -> str | None:
    """None for what is no telephone number: who writes a plus and groups the figures, but not by thousands, means one,
    mistaken or not."""
    new = possible_phone_of_nobody(found)
    first, *others = re.findall(r"\d+", found)
    thousands = all(len(group) == 3 for group in others)
    if new is None and "+" in found and len(others) > 1 and not thousands and 7 <= len("".join([first, *others])) <= 15:
        return PHONE_OF_NOBODY
    return new


@functools.lru_cache(10_000)
def possible_phone_of_nobody(found: str) -> str | None:
    """None for what can be no number of the country that it begins with. Other figures may follow one that is."""
    import phonenumbers

    kind, end = phonenumbers.ValidationResult.TOO_LONG, len(found)
    while kind == phonenumbers.ValidationResult.TOO_LONG:
        digits = re.sub(r"^(?:00|011)|\(0\)|\D", "", found[:end])
        try:
            kind = phonenumbers.is_possible_number_with_reason(phonenumbers.parse(f"+{digits}"))
        except phonenumbers.NumberParseException:
            return None
        if kind == phonenumbers.ValidationResult.IS_POSSIBLE:
            return PHONE_OF_NOBODY + found[end:]
        end = len(re.sub(r"\D*\d+\D*$", "", found[:end]))
    return None
