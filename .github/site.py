"""Hooks of mkdocs: README.md and CHANGELOG.md become pages, links that leave docs/ lead to the
repository, and the pictures that pages show come along.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {"index.md": ROOT / "README.md", "changelog.md": ROOT / "CHANGELOG.md"}
"""Page -> file outside docs/ that is its text."""
PICTURES = (".png", ".svg", ".jpg")
LINK = re.compile(r"(!?)\[((?:[^\]\[]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"^(?:```.*?^```|~~~.*?^~~~)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of :data:`PAGES`, and every picture that a page shows from outside docs/."""
    for page, path in PAGES.items():
        files.append(File.generated(config, page, content=path.read_text(encoding="utf-8")))
    for file in list(files.documentation_pages()):
        home = _home(file.src_uri)
        for _, _, link in LINK.findall(FENCE.sub("", file.content_string)):
            target = _target(home, link)
            outside = not target.startswith("docs/") and (ROOT / target).is_file()
            new = files.get_file_from_path(target) is None
            if target.endswith(PICTURES) and outside and new:
                files.append(File.generated(config, target, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Rewrite the links of a page that leave docs/."""
    home = _home(page.file.src_uri)

    def rewrite(match: re.Match[str]) -> str:
        mark, text, link = match.groups()
        if re.match(r"[a-z]+:|#", link):
            return match[0]
        target, _, anchor = _target(home, link).partition("#")
        ending = f"#{anchor}" if anchor else ""
        depth = "../" * page.file.src_uri.count("/")
        if target.startswith("docs/"):
            return f"{mark}[{text}]({depth}{target.removeprefix('docs/')}{ending})"
        page_of = {str(path.relative_to(ROOT)): name for name, path in PAGES.items()}
        if target in page_of:
            return f"{mark}[{text}]({depth}{page_of[target]}{ending})"
        if files.get_file_from_path(target) is not None:
            return f"{mark}[{text}]({depth}{target})"
        if not (ROOT / target).exists():
            return match[0]  # mkdocs names it
        if config.repo_url:
            return f"{mark}[{text}]({config.repo_url.rstrip('/')}/blob/main/{target}{ending})"
        return f"`{target}`" if text.strip("`") == target else f"{text} (`{target}`)"

    parts, end = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [LINK.sub(rewrite, markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, LINK.sub(rewrite, markdown[end:])])


def _home(page: str) -> PurePosixPath:
    """Folder in the repository that a page's links start from."""
    if page in PAGES:
        return PurePosixPath(PAGES[page].relative_to(ROOT).as_posix()).parent
    return (PurePosixPath("docs") / page).parent


def _target(home: PurePosixPath, link: str) -> str:
    """Path of a link's target from the root of the repository, with its anchor."""
    parts: list[str] = []
    for part in (home / link).parts:
        if part == "..":
            parts = parts[:-1]
        elif part != ".":
            parts.append(part)
    return "/".join(parts)
