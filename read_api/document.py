"""What the OpenAPI document says of bodies and of who may ask: what the decoder does, not more.

Litestar's own schemas of structs leave out what is said of the items of a list, and that an
unknown field is refused.
"""

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
from litestar.openapi.spec import OpenAPIType, Schema
from litestar.plugins import OpenAPISchemaPlugin
from litestar.typing import FieldDefinition
from msgspec.inspect import DateTimeType, ListType, StructType, Type, UnionType, type_info

if TYPE_CHECKING:
    from litestar._openapi.schema_generation import SchemaCreator

NULL: Final = Schema(type=OpenAPIType.NULL)
TEXT: Final = Schema(type=OpenAPIType.STRING)
COMPONENTS: Final = "#/components/schemas/{name}"
PORTABLE: Final = (
    (r"\Z", r"$(?!\n)"),
    (r"[^@\s]", r"[^@\s\x1c-\x1f\x85]"),
    (r"\S", r"[^\s\x1c-\x1f\x85]"),
)
"""Python's spellings, and what means the same there and in ECMA-262: the end of a text, and
space, to which Python counts five control characters more."""


@dataclass
class Exactly(Schema):
    """A schema that is spelled already, as JSON Schema."""

    spelled: dict[str, Any] = field(default_factory=dict[str, Any])

    def to_schema(self) -> dict[str, Any]:
        return self.spelled


class StructSchemas(OpenAPISchemaPlugin):
    """Describes structs by the schema that msgspec, which decodes them, gives of them."""

    def is_plugin_supported_field(self, field_definition: FieldDefinition) -> bool:
        return not field_definition.is_union and field_definition.is_subclass_of(msgspec.Struct)

    def to_openapi_schema(
        self, field_definition: FieldDefinition, schema_creator: "SchemaCreator"
    ) -> Schema:
        kind: type[msgspec.Struct] = field_definition.annotation
        hints = field_definition.get_type_hints(include_extras=True)
        names = msgspec.structs.fields(kind)
        # Litestar looks into these for further structs; what is sent is spelled below.
        within = {
            name.encode_name: FieldDefinition.from_annotation(hints[name.name]) for name in names
        }
        made = schema_creator.create_component_schema(
            field_definition, required=[], property_fields=within
        )
        registered = schema_creator.schema_registry.get_schema_for_field_definition(
            field_definition
        )
        spelled = _spelled(kind)
        registered.required = spelled.get("required", [])
        registered.additional_properties = spelled.get("additionalProperties")
        registered.properties = {
            name: Exactly(spelled=schema) for name, schema in spelled["properties"].items()
        }
        return made


struct_schemas = StructSchemas()


def _spelled(kind: type[msgspec.Struct]) -> dict[str, Any]:
    _, components = msgspec.json.schema_components(
        (kind,), schema_hook=_anything, ref_template=COMPONENTS
    )
    spelled = cast("dict[str, Any]", _portable(components[kind.__name__]))
    for described in cast("StructType", type_info(kind)).fields:
        _mark_times(described.type, spelled["properties"][described.encode_name])
    return spelled


def _mark_times(kind: Type, schema: dict[str, Any]) -> None:
    """Say of times that they are: msgspec says it only of those that must have an offset."""
    if isinstance(kind, DateTimeType):
        schema["format"] = "date-time"
    elif isinstance(kind, ListType):
        _mark_times(kind.item_type, schema["items"])
    elif isinstance(kind, UnionType) and any(isinstance(k, DateTimeType) for k in kind.types):
        for alternative in schema["anyOf"]:
            if alternative == {"type": "string"}:
                alternative["format"] = "date-time"


def without_null(schema: Schema) -> Schema:
    """Take null from what an optional text may be: as a parameter, `null` is four letters.

    A parameter of another kind can be spelled `null`, and is then as if it were left out. What
    Litestar says beside the choice holds for what is left of it.
    """
    left = [one for one in schema.one_of or [] if one != NULL]
    if left == [TEXT]:
        beside = {f.name: getattr(schema, f.name) for f in fields(schema) if f.name != "one_of"}
        return replace(TEXT, **{name: v for name, v in beside.items() if v is not None})
    return schema


def _anything(_: type) -> dict[str, Any]:
    """Describe `object`: any JSON."""
    return {"description": "Any JSON."}


def _portable(node: Any) -> Any:  # noqa: ANN401 JSON
    """Spell regular expressions as ECMA-262 does, which is what JSON Schema demands."""
    if isinstance(node, dict):
        children = cast("dict[str, Any]", node)
        return {name: _expression(name, child) for name, child in children.items()}
    if isinstance(node, list):
        return [_portable(child) for child in node]  # pyright: ignore[reportUnknownVariableType]
    return node


def _expression(name: str, child: Any) -> Any:  # noqa: ANN401 JSON
    if name == "pattern" and isinstance(child, str):
        for ours, theirs in PORTABLE:
            child = child.replace(ours, theirs)
        return child
    return _portable(child)
