"""Korean particles, which depend on how the word before them ends when it is read aloud.

Hangul says it itself (Unicode: syllable = 0xAC00 + 588 initial + 28 vowel + final). Digits are read as Sino-Korean numbers, or as English
after Latin letters (`body2`: 바디투); Latin words as loanwords, acronyms letter by letter.
"""

from __future__ import annotations

import re

# With a final consonant, without.
PAIRS = {
    "은": ("은", "는"), "이": ("이", "가"), "을": ("을", "를"), "과": ("과", "와"), "으로": ("으로", "로"),
    "이며": ("이며", "며"), "이고": ("이고", "고"),
}  # fmt: skip
NONE, RIEUL, OTHER = 0, 8, 1  # the classes of finals that matter: none, ㄹ (as none before 으로), any other

_SINO = {
    "0": OTHER,
    "1": RIEUL,
    "2": NONE,
    "3": OTHER,
    "4": NONE,
    "5": NONE,
    "6": OTHER,
    "7": RIEUL,
    "8": RIEUL,
    "9": NONE,
}
_ENGLISH = {
    "0": NONE,
    "1": OTHER,
    "2": NONE,
    "3": NONE,
    "4": NONE,
    "5": NONE,
    "6": NONE,
    "7": OTHER,
    "8": NONE,
    "9": OTHER,
}
_LETTERS = {"l": RIEUL, "m": OTHER, "n": OTHER, "r": RIEUL}  # 엘 엠 엔 알; every other letter's name ends in a vowel
_UNITS = {"ms": NONE, "s": NONE, "%": NONE, "utc": NONE}  # 밀리초, 초, 퍼센트, 유티시
_ABBREVIATIONS = frozenset(
    ("api", "cpu", "dns", "http", "https", "pdb", "rss", "slo", "tcp", "tls", "udp", "url", "utc")
)
_CLOSING = " \t\"'`”’」』)]}>.,;:!?…"


def final(word: str) -> int:
    """Class of the final consonant with which a word ends when read."""
    word = word.rstrip(_CLOSING)
    if not word:
        return NONE
    last = word[-1]
    code = ord(last) - 0xAC00
    if 0 <= code <= 0xD7A3 - 0xAC00:
        consonant = code % 28
        return consonant if consonant in (NONE, RIEUL) else OTHER
    unit = re.search(r"[0-9]\s*(ms|s|%)$", word)
    if unit:
        return _UNITS[unit.group(1)]
    if last.isdigit() and last.isascii():
        return _digits(word)
    latin = re.search(r"[A-Za-z]+$", word)
    if latin:
        return _latin(
            latin.group().lower(), spelled=bool(re.search(r"[0-9][A-Za-z]*$", word)) or latin.group().isupper()
        )
    return NONE


def _digits(word: str) -> int:
    number = re.search(r"[0-9][0-9,.]*$", word)
    assert number is not None
    if re.search(r"[A-Za-z]$", word[: number.start()]) and "." not in number.group():
        return _ENGLISH[word[-1]]
    zeros = re.search(r"0+$", number.group().replace(",", ""))
    if zeros and "." not in number.group() and zeros.start() > 0 and len(zeros.group()) % 16 >= 12:
        return NONE  # 조
    return _SINO[word[-1]]


def _latin(word: str, *, spelled: bool) -> int:
    if (spelled and len(word) <= 3) or word in _ABBREVIATIONS or len(word) == 1 or not re.search(r"[aeiouy]", word):
        return _LETTERS.get(word[-1], NONE)
    if re.search(r"(ng|k[ei]t)$", word):  # shipping, pocket, bucket
        return OTHER
    if re.search(r"[aeiou]le$", word):  # rule, role: 룰, 롤
        return RIEUL
    if re.search(r"(?:[^aeiou]l|[bcdfgkptz])e?$", word) and word.endswith("le"):  # single, couple: 싱글, 커플
        return RIEUL
    if re.search(r"[aeiouy](me|ne)$", word):  # time, line, pipeline: 타임, 라인
        return OTHER
    if word.endswith("l"):
        return RIEUL
    if word[-1] in "mn":
        return OTHER
    # 받침 after one short vowel: app, map, pack, chat; a long word gets 으 or 이.
    if len(word) <= 4 and re.search(r"[^aeiou][aeiou](p|pp|ck|t)$|^[aeiou]pp$", word):
        return OTHER
    return NONE


def particle(word: str, pair: str) -> str:
    """The particle that follows `word`; `pair` names it by its form after a consonant."""
    after_consonant, after_vowel = PAIRS[pair]
    end = final(word)
    if pair == "으로" and end == RIEUL:
        return after_vowel
    return after_vowel if end == NONE else after_consonant
