"""The lines that a new resource adds to files that name every resource."""

from service.cli.new.resource import NewResource
from service.cli.new.slice import Files
from service.database.revision import ROOT

MAIN = "service/main.py"
STATE = "service/state.py"
MODELS = "service/models/__init__.py"
SCOPES = "service/domain/api_key.py"


def wiring_of(resource: NewResource) -> Files:
    """Return the new text of each file, by path.

    Raises:
        ValueError: a file no longer has the text before which the new lines go.
    """
    name, names, class_ = resource.name, resource.plural, resource.words["Name"]
    routers = "".join(
        f"    app.include_router({part}.router)\n"
        for part in (name, f"{name}_bulk", f"{name}_export")
    )
    scopes = [f'    "{names}:{action}",\n' for action in ("read", "write", "delete")]
    return {
        MAIN: _add(
            MAIN,
            (f"from service.routers import {name}, {name}_bulk, {name}_export\n", "from service.s"),
            (routers, "    app.include_router(system.router)"),
            (f"        {names}={name}.create_calls(engine, settings),\n", "    )\n    sampler = "),
        ),
        STATE: _add(
            STATE,
            (f"    from service.domain.{name} import {class_}\n", "    from service.http.body"),
            (f"    {names}: Calls[{class_}]\n", "\n\ndef state_of("),
        ),
        MODELS: _add(
            MODELS,
            (f"from service.models.{name} import {class_}\n", "\n__all__ = ["),
            (f'"{class_}", ', '"Base"'),
        ),
        SCOPES: _add(SCOPES, ("".join(scopes), ")\nPREFIX = ")),
    }


def _add(file: str, *additions: tuple[str, str]) -> str:
    """Return the file with additions, each before the first place that has the second text."""
    text = (ROOT / file).read_text()
    for new, place in additions:
        before, found, after = text.partition(place)
        if not found:
            raise ValueError(f"{file} no longer has {place.strip()!r}, where a line goes")
        text = before + new + found + after
    return text
