# SPDX-License-Identifier: BSD-3-Clause
"""What mkdocs does not do by itself: pages from outside docs/, API pages, and links that work on the site too.

Pages are written for a reader of the repository, so links are paths of the repository. On the site a link to a header
leads to its API page and one to an example to its listing. What has no page, such as a test, is named without a link.
"""

import os
import pathlib
import re
import sys

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs/site"))
import api  # noqa: E402

OUTSIDE = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md", "CHANGELOG.md": "CHANGELOG.md"}
page_of = {}  # file of the repository: page of the site
path_of = {}  # and back


def examples():
    """A page for each example: its first comment, then the program."""
    for file in sorted((ROOT / "examples").glob("*.cpp")):
        text = file.read_text().split("\n", 1)[1]  # without the licence
        comment = re.match(r"(?:\n*//.*)+", text)
        intro = api.prose([line.strip()[3:] for line in comment[0].strip().splitlines()]) if comment else ""
        program = text[comment.end() if comment else 0:].strip("\n")
        yield f"examples/{file.name}", f"examples/{file.stem}.md", \
            f"# {file.name}\n\n{intro}\n\n```cpp title=\"examples/{file.name}\"\n{program}\n```\n"


def on_config(config):
    """Makes the pages that are not in docs/, and completes the navigation."""
    api_pages, headers = api.pages(str(ROOT / "build/doxygen"))
    config["heed_pages"] = dict(api_pages)
    page_of.update(headers)
    for path, page in OUTSIDE.items():
        config["heed_pages"][page] = (ROOT / path).read_text()
        page_of[path] = page
    for path, page, text in examples():
        config["heed_pages"][page] = text
        page_of[path] = page
    path_of.update({page: path for path, page in page_of.items() if page.split("/")[0] != "api"})
    listed = [page for page in page_of.values() if page.startswith("examples/")]
    fill = {"API": ["api/index.md", *(f"api/{group[0]}.md" for group in api.GROUPS)], "Examples": listed}
    named = str(config["nav"])
    for name, folder in (("Kernels", "kernels/"), ("Guide", "")):  # pages that mkdocs.yml does not order
        more = sorted(f"{folder}{file.name}" for file in (ROOT / "docs" / folder).glob("*.md"))
        fill[name] = [page for page in more if f"'{page}'" not in named]
    config["nav"] = [{name: (pages if isinstance(pages, list) else []) + fill[name] if name in fill else pages}
                     for item in config["nav"] for name, pages in item.items()]
    return config


def on_files(files, config):
    for page, text in config["heed_pages"].items():
        files.append(File.generated(config, page, content=text))
    return files


def site_link(target, page, path):
    """Where `target`, a link on the page of the repository's file `path`, leads from `page` of the site; or None."""
    name, _, anchor = target.partition("#")
    if not name or re.match(r"\w+:", name):
        return target
    to = os.path.normpath(os.path.join(os.path.dirname(path), name))
    if not (ROOT / to).exists():
        return target  # mkdocs warns
    place = page_of.get(to) or (to.removeprefix("docs/") if to.startswith("docs/") and (ROOT / to).is_file() else None)
    if place is None or place.endswith((".cpp", ".py", ".json", ".jsonl")):
        return None
    return os.path.relpath(place, os.path.dirname(page) or ".") + ("#" + anchor if anchor else "")


def on_page_markdown(markdown, page, config, files):
    place = page.file.src_uri
    if place.startswith("api/"):
        return markdown
    path = path_of.get(place, f"docs/{place}")

    def link(match):
        to = site_link(match[3], place, path)
        return f"{match[1]}[{match[2]}]({to})" if to is not None else match[2]

    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.M | re.S)  # code stays
    parts[::2] = [re.sub(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*?)\]\(([^()\s]+)\)", link, part) for part in parts[::2]]
    # GitHub reads markdown inside of <details>; python-markdown is told to.
    return "".join(parts).replace("<details>", '<details markdown="1">')
