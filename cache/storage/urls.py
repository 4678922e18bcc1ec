"""Tell URLs from paths; refuse those that could name another place than they say."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote_to_bytes

from usjepa.cache.errors import UsageError

_AZURE_ACCOUNT = ("abfs", "abfss")
"""Schemes in which CONTAINER@ACCOUNT is no login."""
_WEB = ("http", "https")
_SCHEMES = ("s3", "s3a", "gs", "az", "azure", "adl", *_AZURE_ACCOUNT, *_WEB, "memory")
_URL = re.compile(rf"\s*(?:(?:file|{'|'.join(_SCHEMES)}):|[a-z][a-z0-9+.-]+:/)|.*://", re.IGNORECASE | re.DOTALL)
_PARTS = re.compile(r"(?P<scheme>[a-z0-9]+)://(?P<host>[^/]*)(?P<key>/.*)?", re.IGNORECASE | re.DOTALL)
_FILE = re.compile(r"file:(?://(?P<host>[^/]*))?(?P<path>/(?!/).*|/)", re.IGNORECASE | re.DOTALL)
_HOST = re.compile(r"[A-Za-z0-9._-]+")
_ADDRESS = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?")
_LOGIN = re.compile(r"(\s*[^:/]*:/*)(?:[^/@]*:.*|[^/?#]*)@", re.DOTALL)
"""A login; its secret may hold any character, so that one with a colon ends at the last @."""
_UNCLEAR = {
    "#": "in a URL it ends the place; copy the store to a name without it",
    "?": "in a URL it ends the place; copy the store to a name without it, and give settings in the environment",
    "%": "some take %20 for a space and some for itself; write the character itself",
    "\\": "some take it for a slash; write /",
}


def is_url(text: str | Path) -> bool:
    """Return whether a text is meant as a URL, if a wrong one: `s3:/b/a` is no folder called `s3:`."""
    return _URL.match(str(text)) is not None


def is_file_url(text: str | Path) -> bool:
    """Return whether a URL names a path of this machine."""
    return str(text).lower().startswith("file:")


def shown(text: str) -> str:
    """Return a URL as messages may show it, without the login and the query that it may hold."""
    if not is_url(text):
        return text
    if not (text.lower().startswith(_AZURE_ACCOUNT) and re.match(r"\w+://[^/:@]*@[^/@]*(/|$)", text)):
        login = _LOGIN.match(text)
        text = f"{login[1]}***@{text[login.end() :]}" if login else text
    place, mark, _ = text.partition("?")
    return f"{place}?***" if mark else place


def path_of(url: str) -> Path:
    """Return the path that a file URL names: percent escapes decoded, `#` and `?` as they are, no host."""
    parts = _FILE.fullmatch(url)
    if parts is None or parts["host"]:
        raise UsageError(
            f"{shown(url)}: a file URL is file:///absolute/path, without a host. Give it so, or as a plain path."
        )
    path = os.fsdecode(unquote_to_bytes(parts["path"]))
    if "\0" in path or re.search("%(?![0-9a-f]{2})|%2f", parts["path"], re.IGNORECASE):
        raise UsageError(f"{shown(url)}: holds a % that stands for no character of a file name. Give a plain path.")
    return Path(path)


def bucket_url(url: str) -> str:
    """Return the one way to write a bucket's URL: scheme in lower case, no slash at the end.

    What obstore would drop, decode or resolve on the way to a key is refused, so that every text names one place.

    Raises:
        UsageError: it names a place in no way, or in several.
    """
    parts = _PARTS.fullmatch(url)
    if parts is None or parts["scheme"].lower() not in _SCHEMES:
        raise UsageError(
            f"{shown(url)}: not a URL that can be opened. Write s3://BUCKET/KEY (or gs, az, abfs, https), or a path "
            "with ./ before it."
        )
    scheme, key = parts["scheme"].lower(), (parts["key"] or "").removesuffix("/")
    _check_host(url, scheme, parts["host"])
    _check_key(url, key)
    return f"{scheme}://{parts['host']}{key}" if key or scheme != "memory" else "memory:///"


def _check_host(url: str, scheme: str, host: str) -> None:
    if scheme in _AZURE_ACCOUNT and re.fullmatch("[^@:]+@[^@:]+", host):
        host = host.replace("@", ".")
    if "@" in host:
        raise UsageError(
            f"{shown(url)}: holds a login (@), which would be shown and recorded. Give credentials in the environment."
        )
    if scheme == "memory" and not host:
        return
    if (_ADDRESS if scheme in _WEB else _HOST).fullmatch(host) is None or scheme == "memory":
        remedy = "give the endpoint in the environment (AWS_ENDPOINT_URL, ...)" if ":" in host else "check the URL"
        raise UsageError(f"{shown(url)}: {host.split(':')[0]!r} is no bucket's name, or holds a port; {remedy}.")


def _check_key(url: str, key: str) -> None:
    for char in key:
        if char in _UNCLEAR:
            raise UsageError(f"{shown(url)}: its key holds {char!r}: {_UNCLEAR[char]}.")
        if not char.isprintable():
            raise UsageError(f"{shown(url)}: its key holds {char!a}, which can't be seen; leave it out.")
    if key.endswith(" "):
        raise UsageError(f"{shown(url)}: ends with a space, which would be dropped; leave it out.")
    for part in key.split("/")[1:]:
        if part in ("", ".", ".."):
            raise UsageError(f"{shown(url)}: its key holds {f'/{part}/'!r}, and a bucket has no folders; leave it out.")
