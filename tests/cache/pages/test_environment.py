"""Claims about the frame of every page: escaped, self-contained, with a navigation that leads somewhere."""

from __future__ import annotations

import re

import jinja2
import pytest

from usjepa.cache.pages.environment import Section, open_templates

NASTY = '"><script>alert(1)</script>&'
PAGE = """{% extends "base.html" %}{% from "pieces.html" import facts, fold, head, notes, scrolling, tiles %}
{% block title %}{{ name }}{% endblock %}{% block kind %}{{ name }}{% endblock %}
{% block heading %}<h1>{{ name }}</h1>{% endblock %}
{% block content %}<h2 id="part-1">{{ name }}</h2>
{% call fold(name) %}{{ name }}{% endcall %}{{ tiles([(name, name)]) }}{{ notes([name]) }}{{ facts([(name, name)]) }}
{% call scrolling("scores") %}{{ head([name]) }}{% endcall %}{% endblock %}"""


def made(name: str = NASTY) -> str:
    sections = [Section("part-1", name), Section("part-1", name, inner=True)]
    return open_templates("usjepa.cache.pages").from_string(PAGE).render(name=name, sections=sections)


def test_no_name_becomes_markup_wherever_it_stands() -> None:
    text = made()
    assert "<script" not in text
    assert text.count("&#34;&gt;&lt;script&gt;alert(1)&lt;/script&gt;&amp;") == 14


def test_a_page_asks_for_nothing_and_allows_nothing_to_run() -> None:
    text = made("name")
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:\"" in text


def test_each_line_of_the_navigation_leads_to_a_part() -> None:
    text = made("name")
    links = re.findall(r'href="#([^"]+)"', text)
    assert links == ["part-1", "part-1"]
    assert all(f'id="{link}"' in text for link in links)


def test_a_name_that_a_template_is_not_given_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError, match="sections"):
        open_templates("usjepa.cache.pages").from_string(PAGE).render(name="n")


def test_a_room_has_its_own_helpers_as_filter_and_function_and_no_other_room_sees_them() -> None:
    own = open_templates("usjepa.cache.pages", {"twice": lambda text: 2 * text})
    assert own.from_string("{{ 'a' | twice }}{{ twice('b') }}").render() == "aabb"
    with pytest.raises(jinja2.TemplateError, match="twice"):
        open_templates("usjepa.cache.pages").from_string("{{ 'a' | twice }}")
