"""A new resource: its names, and whether they are free."""

import ast
import keyword
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sqlalchemy.dialects.postgresql.base import RESERVED_WORDS

from service.access.scopes import PUBLIC
from service.cli.new.fields import BOOL, TITLE, Field
from service.database.revision import ROOT
from service.models import Base
from service.schemas.base import Schema
from service.schemas.listing import PageQuery

LAYERS = ("models", "domain", "schemas", "crud", "routers")
PARTS = ("", "_list", "_bulk", "_export")  # the files of a resource in a layer
NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
MAX_NAME = 20  # characters, so that the lines of the new files fit
MAX_FIELD = 28
# Shared columns, and the parameters of every list or export.
TAKEN_FIELDS = {"id", "version", "created_at", "updated_at", "q", "format"} | {
    *PageQuery.model_fields
}
SHARED_FILTERS = ("created_after", "created_before", "updated_after")
# Attributes of the classes that get the fields.
ATTRIBUTES = {*dir(Base), *dir(Schema), "to_dict", "to_domain", "to_filter", "changes", "position"}


@dataclass(slots=True, frozen=True)
class NewResource:
    """A resource to write: `order`, with the plural `orders`."""

    name: str
    plural: str
    fields: list[Field]

    @property
    def title(self) -> Field | None:
        """Return the text that `q` searches."""
        return next((field for field in self.fields if field.kind is TITLE), None)

    @property
    def deactivates(self) -> bool:
        """Return whether DELETE deactivates: there is a field `is_active`."""
        return any(field.name == "is_active" for field in self.fields)

    @property
    def words(self) -> dict[str, str]:
        """Return the names in the forms that the templates use."""
        label, labels = self.name.replace("_", " "), self.plural.replace("_", " ")
        article = "an" if label[0] in "aeiou" else "a"
        return {
            "name": self.name,
            "names": self.plural,
            "Name": class_name(self.name),
            "Names": class_name(self.plural),
            "NAME": self.name.upper(),
            "NAMES": self.plural.upper(),
            "label": label,
            "labels": labels,
            "Labels": labels.capitalize(),
            "a_label": f"{article} {label}",
            "A_label": f"{article} {label}".capitalize(),
        }


def class_name(name: str) -> str:
    """Return `OrderLine` for `order_line`."""
    return "".join(part.capitalize() for part in name.split("_"))


def check_names(resource: NewResource, used: set[str], read: set[str]) -> None:
    """Check the names of a resource and of its fields.

    Args:
        used: names that the new files, and those that they are wired into, use themselves.
        read: names that the classes with the fields refer to.

    Raises:
        ValueError: one is malformed, or taken.
    """
    name, plural = resource.name, resource.plural
    for word in (name, plural):
        _check_word(word, MAX_NAME + 1 if word == plural else MAX_NAME)
    if name == plural:
        raise ValueError(f"{name!r} and its plural must differ; set --plural")
    files = [f"service/{layer}/{name}{part}.py" for layer in LAYERS for part in PARTS]
    for file in (*files, f"tests/{plural}"):
        if (ROOT / file).exists():
            raise ValueError(f"{name!r} is taken: {file} exists")
    _check_sql(plural)
    if plural in Base.metadata.tables:
        raise ValueError(f"{plural!r} is taken: there is a table of this name")
    if any(path.split("/")[1] == plural for path in PUBLIC):
        raise ValueError(f"{plural!r} is taken: the service has a path /{plural}")
    for word in (name, plural):
        if {word, class_name(word), word.upper()} & used:
            raise ValueError(f"{word!r} is a name that the code uses already")
    _check_fields(resource, read)


def _check_fields(resource: NewResource, read: set[str]) -> None:
    if not resource.fields:
        raise ValueError("a resource needs at least one --field")
    names = {field.name for field in resource.fields}
    seen: set[str] = set()
    filters = [*SHARED_FILTERS]
    for field in resource.fields:
        _check_word(field.name, MAX_FIELD)
        _check_sql(field.name)
        if field.name in seen:
            raise ValueError(f"the field {field.name!r} is repeated")
        if field.name in TAKEN_FIELDS:
            raise ValueError(f"{field.name!r} is a column or a parameter of every resource")
        if field.name in read:
            raise ValueError(f"{field.name!r} is a name that the code uses already")
        if field.name in ATTRIBUTES:
            raise ValueError(f"{field.name!r} is an attribute of the classes that have the fields")
        if field.name == "is_active" and (field.kind is not BOOL or field.nullable):
            raise ValueError("'is_active' should be a bool, never null: DELETE sets it to false")
        if field.nullable and f"{field.name}_key" in names:
            raise ValueError(f"{field.name!r} and '{field.name}_key' would have one index name")
        seen.add(field.name)
        filters += field.filters
    for filter_ in filters:
        if filters.count(filter_) > 1 or (filter_ != "q" and filter_ in TAKEN_FIELDS):
            raise ValueError(f"two parameters of the list would be called {filter_!r}")


def _check_word(word: str, longest: int) -> None:
    if not NAME.fullmatch(word):
        raise ValueError(f"{word!r} should be lower-case letters, digits and single underscores")
    if len(word) > longest:
        raise ValueError(f"{word!r} is longer than {longest} characters")
    if keyword.iskeyword(word):
        raise ValueError(f"{word!r} is a keyword of Python")


def _check_sql(word: str) -> None:
    if word in RESERVED_WORDS:
        raise ValueError(f"{word!r} is a reserved word of PostgreSQL")


def names_used(sources: Iterable[str]) -> set[str]:
    """Return the names that Python files import, define or refer to."""
    used = names_read(sources := list(sources))
    for node in _nodes(sources):
        match node:
            case ast.Name(id=name) | ast.arg(arg=name):
                used.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                used.add(name)
            case ast.ClassDef(name=name):
                used.add(name)
    return used


def names_read(sources: Iterable[str]) -> set[str]:
    """Return the names that Python files import or refer to."""
    read: set[str] = set()
    for node in _nodes(sources):
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                read.add(name)
            case ast.alias(name=name, asname=alias):
                read.add(alias or name.split(".")[0])
    return read


def _nodes(sources: Iterable[str]) -> Iterator[ast.AST]:
    for source in sources:
        yield from ast.walk(ast.parse(source))
