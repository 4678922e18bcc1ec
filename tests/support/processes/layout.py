"""Scripts that measure a page from within a browser: what is too wide, cut off, overlapping, too small."""

from __future__ import annotations

OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
IMAGES = "[...document.images].map(image => [image.complete, image.naturalWidth])"
CUT_OFF = """[...document.querySelectorAll('svg')].flatMap(svg => {
  const box = svg.viewBox.baseVal;
  return [...svg.querySelectorAll('text')].filter(text => {
    const at = text.getBBox();
    return at.x < box.x - .5 || at.x + at.width > box.x + box.width + .5
      || at.y < box.y - .5 || at.y + at.height > box.y + box.height + .5;
  }).map(text => svg.getAttribute('aria-label') + ': ' + text.textContent);
})"""
OVERLAP = """[...document.querySelectorAll('svg')].flatMap(svg => {
  const texts = [...svg.querySelectorAll('text')].map(text => [text.textContent, text.getBBox()]);
  return texts.flatMap(([one, a], i) => texts.slice(i + 1).filter(([_, b]) =>
    Math.min(a.x + a.width, b.x + b.width) - Math.max(a.x, b.x) > 1
    && Math.min(a.y + a.height, b.y + b.height) - Math.max(a.y, b.y) > 4
  ).map(([other]) => svg.getAttribute('aria-label') + ': ' + one + ' | ' + other));
})"""
SMALLEST = """Math.min(...[...document.querySelectorAll('svg text')].map(text =>
  parseFloat(getComputedStyle(text).fontSize) * text.ownerSVGElement.getBoundingClientRect().width
  / text.ownerSVGElement.viewBox.baseVal.width))"""
SCRIPTS = [OVERFLOW, IMAGES, CUT_OFF, OVERLAP, SMALLEST]
DESKTOP, PHONE = 1280, 390
"""Widths in CSS pixels."""
