"""What the templates have for each field of a resource, layer by layer."""

from service.cli.new.fields import BOOL, TITLE, Field
from service.cli.new.resource import SHARED_FILTERS, NewResource

Lines = dict[str, list[str]]

# For nullable columns: the upper bound of a filter, and the arguments of coalesce() in an index.
MAX_OF = {"at_least": {"int": "MAX_INT", "price": "MAX_PRICE"}, "after": {"time": "MAX_TIME"}}
KEYS = {
    "int": "{}::numeric, 'Infinity'::numeric",
    "price": "{}, 'Infinity'::numeric",
    "time": "{}, 'infinity'::timestamptz",
}


def inline(resource: NewResource) -> dict[str, str]:
    """Return the lists that stand within a line."""
    fields = resource.fields
    title = resource.title.name if resource.title else ""
    sorts = ["id", *(f.name for f in sorted_by(resource)), "created_at", "updated_at"]
    change = next((f for f in fields if f.kind.name in ("int", "price")), fields[0])
    return {
        "content": ", ".join(f'"{f.name}"' for f in fields) + ("," if len(fields) == 1 else ""),
        "defaults": ", ".join(f'"{f.name}": {f.default}' for f in fields if f.is_optional),
        "title": title,
        "values": ", ".join(f"self.{f.name}" for f in fields),
        "deactivates": str(resource.deactivates),
        "change": f'"{change.name}": {literal(change.example)}',
        "filter_values": ", ".join(f"self.{name}" for name in filters_of(resource)),
        "sorts": ", ".join(f'"{name}", "-{name}"' for name in sorts),
        "test_sorts": ", ".join(f'"{name}"' for name in sorts),
    }


def of_model(resource: NewResource) -> Lines:
    """Return the blocks of the table."""
    return {
        "columns": [_column(field) for field in resource.fields],
        "checks": _checks(resource, 'CheckConstraint("{sql}", name="{name}"),'),
        "indexes": [
            *(f'Index(None, "{f.name}", "id"),' for f in resource.fields if f.kind is BOOL),
            *(_index(resource, field) for field in sorted_by(resource)),
            'Index(None, "created_at", "id"),',
            'Index(None, "updated_at", "id"),',
        ],
    }


def of_domain(resource: NewResource) -> Lines:
    """Return the blocks of the dataclasses."""
    values = {name: f.kind.value for f in filtered(resource) for name in f.filters}
    return {
        "fields": [f"{f.name}: {f.or_none(f.kind.value)}" for f in resource.fields],
        "dict": [f'"{f.name}": self.{f.name},' for f in resource.fields],
        "filters": [
            f"{name}: {value} | None = None{_comment(name, value)}"
            for name, value in values.items()
        ],
    }


def of_schemas(resource: NewResource) -> Lines:
    """Return the blocks of requests and responses."""
    label = resource.words["label"]
    create, update = [], []
    for f in resource.fields:
        description = f"description={literal(f.describe(label))}"
        start = f"{f.name}: {f.or_none(f.kind.body)} = Field("
        default = f"{f.default}, " if f.is_optional else ""
        create.append(f"{start}{default}{description})")
        default = "None" if f.nullable else "default_factory=unset"
        update.append(f"{start}{default}, {description})")
    return {
        "example": [f'"{f.name}": {literal(f.example)},' for f in resource.fields],
        "create": create,
        "update": update,
        "read": [f"{f.name}: {f.or_none(f.kind.read or f.kind.body)}" for f in resource.fields],
    }


def of_lists(resource: NewResource) -> Lines:
    """Return the blocks of filters and sorts."""
    lines = []
    for f in filtered(resource):
        if f.kind is TITLE:
            part = f.example.split()[-1]
            lines += [
                "q: SafeText | None = Field(",
                "    None,",
                "    max_length=255,",
                f'    description="A literal part of the {f.label}, in either case",',
                f"    examples=[{literal(part)}],",
                ")",
            ]
        for suffix, _, text in f.kind.filters:
            text = text.format(f.name)
            lines.append(
                f'{f.name}{suffix}: {f.kind.bound} | None = Field(None, description="{text}")'
            )
    return {
        "filters": lines,
        "positions": [f'"{f.name}": {_position(f)},' for f in sorted_by(resource)],
    }


def of_crud(resource: NewResource) -> Lines:
    """Return the blocks of the description of the resource."""
    table = resource.plural
    filters = []
    for f in filtered(resource):
        if f.kind is TITLE:
            filters.append(f'contains("q", {table}.c.{f.name}),')
        for suffix, condition, _ in f.kind.filters:
            arguments = [f'"{f.name}{suffix}"', f"{table}.c.{f.name}"]
            if f.nullable and f.kind.sort:
                arguments[1] = f"{f.kind.sort}_key({arguments[1]})"
                arguments += filter(None, [MAX_OF.get(condition, {}).get(f.kind.sort)])
            filters.append(f"{condition}({', '.join(arguments)}),")
    return {
        "sorts": [
            f'"{f.name}": {f"{f.kind.sort}_key" if f.nullable else "itself"},'
            for f in sorted_by(resource)
        ],
        "filters": filters,
    }


def of_migration(resource: NewResource) -> Lines:
    """Return the blocks of the migration."""
    columns = []
    for f in resource.fields:
        rest = "" if f.nullable else ", nullable=False"
        if f.kind is BOOL and not f.nullable:
            rest = f", server_default=sa.{str(f.default).lower()}(), nullable=False"
        columns.append(f'sa.Column("{f.name}", {f.kind.migrated}{rest}),')
    indexed = {f.name: f'"{f.name}"' for f in resource.fields if f.kind is BOOL}
    for f in sorted_by(resource):
        if f.nullable and f.kind.sort:
            indexed[f"{f.name}_key"] = f'sa.text("coalesce({KEYS[f.kind.sort].format(f.name)})")'
        else:
            indexed[f.name] = f'"{f.name}"'
    indexed |= {name: f'"{name}"' for name in ("created_at", "updated_at")}
    table = resource.plural
    return {
        "columns": columns,
        "checks": _checks(
            resource, f'sa.CheckConstraint("{{sql}}", name=op.f("ck_{table}_{{name}}")),'
        ),
        "indexes": [
            f'op.create_index("ix_{table}_{name}_id", "{table}", [{key}, "id"])'
            for name, key in indexed.items()
        ],
        "trigrams": [],
    }


def of_tests(resource: NewResource) -> Lines:
    """Return the blocks of the tests: the description of the resource."""
    columns = {name: f.name for f in filtered(resource) for name in f.filters}
    columns |= {name: f"{name.partition('_')[0]}_at" for name in SHARED_FILTERS}
    kinds = {f.name: f"{f.kind.name}{'?' if f.nullable else ''}" for f in resource.fields}
    if resource.title:
        kinds[resource.title.name] = "title"
    return {
        "kinds": [f'"{name}": "{kind}",' for name, kind in kinds.items()],
        "filters": [f'"{name}": "{column}",' for name, column in columns.items()],
    }


def sorted_by(resource: NewResource) -> list[Field]:
    """Return the fields that sort lists."""
    return [field for field in resource.fields if field.kind.sort]


def filtered(resource: NewResource) -> list[Field]:
    """Return the fields in the order of their filters: booleans first."""
    return sorted(resource.fields, key=lambda field: field.kind is not BOOL)


def filters_of(resource: NewResource) -> list[str]:
    """Return the names of the filters, in their order in every layer."""
    return [*(name for field in filtered(resource) for name in field.filters), *SHARED_FILTERS]


def literal(value: object) -> str:
    """Return a Python literal, with double quotes."""
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _column(field: Field) -> str:
    line = f"{field.name}: Mapped[{field.or_none(field.kind.column)}]"
    if field.kind is BOOL and not field.nullable:
        return f"{line} = mapped_column(server_default={str(field.default).lower()}())"
    # A column that an index names by its variable.
    return f"{line} = mapped_column()" if field.nullable and field.kind.sort else line


def _checks(resource: NewResource, form: str) -> list[str]:
    lines: list[str] = []
    for f in resource.fields:
        if f.kind.note and f"# {f.kind.note}" not in lines:
            lines.append(f"# {f.kind.note}")
        if f.kind.check:
            name, sql = f.kind.check
            # Two adjacent literals, which ruff joins if they fit.
            sql = sql.format(f.name).replace(" AND ", '" " AND ')
            lines.append(form.format(sql=sql, name=f"{f.name}_{name}"))
    return lines


def _index(resource: NewResource, field: Field) -> str:
    if not field.nullable:
        return f'Index(None, "{field.name}", "id"),'
    key = f"{field.kind.sort}_key({field.name})"
    return f'Index("ix_{resource.plural}_{field.name}_key_id", {key}, "id"),'


def _position(field: Field) -> str:
    name = str(field.kind.sort).upper()
    return f"{name}_OR_NULL_POSITION" if field.nullable else f"{name}_POSITION"


def _comment(name: str, value: str) -> str:
    return "  # included" if name.endswith(("_min", "_max")) and value != "bool" else ""
