"""What is cited is there: sections of the documents that sources name, what links of Markdown go to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import bptt

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {".py", ".pyx", ".pxd", ".pxi", ".h"}
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(path for name in ("docs", "bench", "examples") for path in (ROOT / name).glob("*.md")),
    ]
)
#: docs/name.md, "One", "Two" and "Three"; the words between may stand in comments of several lines.
CITATION = re.compile(r'docs/(\w+)\.md((?:(?:,|and|sections?|from|[\s#])*"[^"]+")+)')


def sections(page: Path) -> set[str]:
    """Return the headings of a page, without what Markdown writes around them."""
    return set(re.findall(r"^#+ +(.*?) *$", page.read_text(encoding="utf-8"), re.MULTILINE))


def cited(text: str) -> set[tuple[str, str]]:
    """Return the pages and sections that a source cites."""
    return {
        (page, re.sub(r"[\s#]+", " ", section))
        for page, names in CITATION.findall(text)
        for section in re.findall(r'"([^"]+)"', names)
    }


def test_cited_sections_are_there() -> None:
    folders = (Path(bptt.__file__).parent, ROOT / "tests", ROOT / "bench", ROOT / "examples")
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in SOURCES]
    found = {path: cited(path.read_text(encoding="utf-8")) for path in files if path != Path(__file__)}
    there = {(page.stem, section) for page in (ROOT / "docs").glob("*.md") for section in sections(page)}
    assert not {str(path): wrong for path, names in found.items() if (wrong := names - there)}
    assert len({name for names in found.values() for name in names}) > 15


def test_the_check_sees_citations() -> None:
    text = (
        '# docs/a.md, sections "One", "Two\n# and a half"\n# and "Three". docs/b.md, from "Four" on; "Five"'
    )
    assert cited(text) == {("a", "One"), ("a", "Two and a half"), ("a", "Three"), ("b", "Four")}


def anchors(page: Path) -> set[str]:
    """Return what links to the headings of a page end in."""
    return {re.sub(r"[^\w -]", "", section).replace(" ", "-").lower() for section in sections(page)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_go_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https://)([^)#\s]*)#?([^)\s]*)\)", page.read_text(encoding="utf-8"))
    for name, anchor in links:
        target = page.parent / name if name else page
        # the sources are absent where the tests of an sdist run on an installed wheel
        assert target.exists() or not (ROOT / "src").exists(), name
        assert not anchor or anchor in anchors(target), anchor
