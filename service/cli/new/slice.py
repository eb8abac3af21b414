"""The files of a new resource, from the templates beside this file.

A template is Python with `$name` where the resource's names go. A line that is only `$columns` or
the like becomes the lines of that block, one or more for each field.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Template

from service.cli.new import blocks
from service.cli.new.resource import NewResource

TEMPLATES = Path(__file__).parent / "templates"

Files = dict[str, str]
Blocks = Mapping[str, Sequence[str]]


def slice_of(resource: NewResource) -> Files:
    """Return the files of the resource in each layer, by path."""
    name = resource.name
    words = resource.words | blocks.inline(resource)
    return {
        f"service/models/{name}.py": fill("models", words, _models(resource, words)),
        f"service/domain/{name}.py": fill("domain", words, blocks.of_domain(resource)),
        f"service/schemas/{name}.py": fill("schemas", words, blocks.of_schemas(resource)),
        f"service/schemas/{name}_list.py": fill("schemas_list", words, blocks.of_lists(resource)),
        f"service/crud/{name}.py": fill("crud", words, _crud(resource, words)),
        f"service/routers/{name}.py": fill("routers", words, _routers(resource, words)),
        f"service/routers/{name}_bulk.py": fill("routers_bulk", words),
        f"service/routers/{name}_export.py": fill("routers_export", words),
    }


def tests_of(resource: NewResource) -> Files:
    """Return the files of its tests, by path."""
    words = resource.words | blocks.inline(resource)
    return {
        f"tests/{resource.plural}/__init__.py": "",
        f"tests/{resource.plural}/test_{resource.plural}.py": fill(
            "tests", words, blocks.of_tests(resource)
        ),
    }


def migration_of(resource: NewResource, **words: str) -> str:
    """Return the migration that creates the table; `words` are its revision and time."""
    words |= resource.words | blocks.inline(resource)
    parts = blocks.of_migration(resource)
    if resource.title:
        parts["trigrams"] = fill("migration_trigrams", words).splitlines()
    return fill("migration", words, parts)


def fill(name: str, words: Mapping[str, str], parts: Blocks | None = None) -> str:
    """Return a template with its words and blocks."""
    text = (TEMPLATES / f"{name}.txt").read_text()
    return "\n".join(_lines(text, words, parts or {})) + "\n"


def _lines(text: str, words: Mapping[str, str], parts: Blocks) -> Iterator[str]:
    for line in text.splitlines():
        block = parts.get(line.strip().removeprefix("$")) if line.strip()[:1] == "$" else None
        if block is None:
            yield Template(line).substitute(words)
        else:
            indent = line[: len(line) - len(line.lstrip())]
            yield from ((indent + part).rstrip() for part in block)


def _models(resource: NewResource, words: Mapping[str, str]) -> Blocks:
    trigrams = fill("models_trigrams", words).splitlines() if resource.title else []
    return blocks.of_model(resource) | {"trigrams": trigrams}


def _crud(resource: NewResource, words: Mapping[str, str]) -> Blocks:
    deactivate = fill("crud_deactivate", words).splitlines() if resource.deactivates else []
    return blocks.of_crud(resource) | {"deactivate": deactivate}


def _routers(resource: NewResource, words: Mapping[str, str]) -> Blocks:
    delete = "routers_deactivate" if resource.deactivates else "routers_delete"
    return {"delete": fill(delete, words).splitlines()}
