"""Bodies that break one rule each, and where they are refused."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

HUGE_ID = 2**63


class Bad(NamedTuple):
    """A request and how it is refused.

    Attributes:
        content: The body, or its pieces: then it is sent without a Content-Length.
    """

    name: str
    method: str
    path: str
    content: bytes | tuple[bytes, ...]
    status: int
    code: str
    pointer: str | None
    headers: Mapping[str, str] = MappingProxyType({})


def encoded(body: object) -> bytes:
    return json.dumps(body).encode()


def agent_fault(name: str, pointer: str, body: dict[str, Any], method: str = "") -> Bad:
    method = method or "POST"
    path = "/api/agents" if method == "POST" else "/api/agents/{agent}"
    return Bad(name, method, path, encoded(body), 400, "bad_body", pointer)


def model_fault(name: str, field: str, value: object) -> Bad:
    body = {"provider": "p", "model_id": "m", field: value}
    path = "/api/agents/{agent}/model-config"
    return Bad(name, "PUT", path, encoded(body), 400, "bad_body", f"/{field}")


def workflow_fault(
    name: str, pointer: str, body: dict[str, Any], status: int = 400, code: str = "bad_body"
) -> Bad:
    whole = {"name": "Faulty", **body}
    return Bad(name, "POST", "/api/workflows", encoded(whole), status, code, pointer)


def step_fault(
    name: str, pointer: str, *steps: dict[str, Any], status: int = 400, code: str = "bad_body"
) -> Bad:
    good = {"agent_id": "{agent}", "prompt_template": "Say it."}
    whole = [{**good, **step} for step in steps]
    return workflow_fault(name, f"/steps/{pointer}", {"steps": whole}, status, code)


AGENT_FAULTS = [
    Bad("no name", "POST", "/api/agents", b"{}", 400, "bad_body", "/name"),
    Bad("no body", "POST", "/api/agents", b"", 400, "bad_body", ""),
    Bad("null", "POST", "/api/agents", b"null", 400, "bad_body", ""),
    agent_fault("an empty name", "/name", {"name": ""}),
    agent_fault("a blank name", "/name", {"name": " \t\n"}),
    agent_fault("a name that is null", "/name", {"name": None}),
    agent_fault("a name over 255", "/name", {"name": "x" * 256}),
    agent_fault("an unknown status", "/status", {"name": "G", "status": "asleep"}),
    agent_fault("a type over 255", "/agent_type", {"name": "G", "agent_type": "x" * 256}),
    agent_fault(
        "a configuration that is a list", "/configuration", {"name": "G", "configuration": []}
    ),
    agent_fault("tags that are numbers", "/tags/1", {"name": "G", "tags": ["a", 1]}),
    agent_fault("too many skills", "/skill_ids", {"name": "G", "skill_ids": [1] * 101}),
    agent_fault("a long plugin", "/plugin_ids/0", {"name": "G", "plugin_ids": ["x" * 256]}),
    agent_fault("too many tags", "/tags", {"name": "G", "tags": ["a"] * 101}),
    agent_fault(
        "a description over 16 384", "/description", {"name": "G", "description": "x" * 16_385}
    ),
    agent_fault(
        "a model without an id",
        "/model_config/model_id",
        {"name": "G", "model_config": {"provider": "p"}},
    ),
    agent_fault("a changed name that is blank", "/name", {"name": "  "}, "PUT"),
    agent_fault("a changed name over 255", "/name", {"name": "x" * 256}, "PUT"),
    agent_fault("a changed status that is unknown", "/status", {"status": "asleep"}, "PUT"),
    model_fault("a temperature over 2", "temperature", 2.01),
    model_fault("a temperature of text", "temperature", "hot"),
    model_fault("no tokens", "max_tokens", 0),
    model_fault("more tokens than any model gives", "max_tokens", 2**70),
    model_fault("an empty model id", "model_id", ""),
    model_fault("an empty provider", "provider", ""),
    Bad(
        "switching to no model",
        "POST",
        "/api/agents/{agent}/switch-model",
        b"{}",
        400,
        "bad_body",
        "/model_id",
    ),
    Bad(
        "a prompt over 256 KiB",
        "POST",
        "/api/agents",
        encoded({"name": "G", "system_prompt": "x" * (256 * 1024 + 1)}),
        413,
        "too_long",
        "/system_prompt",
    ),
    Bad(
        "a changed prompt over 256 KiB, of few letters",
        "PUT",
        "/api/agents/{agent}",
        encoded({"system_prompt": "\N{GRINNING FACE}" * (64 * 1024 + 1)}),
        413,
        "too_long",
        "/system_prompt",
    ),
    Bad("a taken name", "POST", "/api/agents", b'{"name": "ada"}', 409, "name_is_taken", "/name"),
    Bad(
        "a skill",
        "POST",
        "/api/agents",
        b'{"name": "G", "skill_ids": [1]}',
        422,
        "invalid",
        "/skill_ids",
    ),
    Bad("a tool", "PUT", "/api/agents/{agent}", b'{"tool_ids": [1]}', 422, "invalid", "/tool_ids"),
    Bad(
        "an archived agent", "PUT", "/api/agents/{archived}", b"{}", 409, "agent_is_archived", None
    ),
]

WORKFLOW_FAULTS = [
    Bad("no name", "POST", "/api/workflows", b"{}", 400, "bad_body", "/name"),
    workflow_fault("too many agents", "/agents", {"agents": ["a"] * 101}),
    workflow_fault("a blank name", "/name", {"name": " "}),
    workflow_fault("a name over 255", "/name", {"name": "x" * 256}),
    workflow_fault(
        "more than 100 steps", "/steps", {"steps": [{"agent_id": 1, "prompt_template": "x"}] * 101}
    ),
    workflow_fault("an input with a blank", "/inputs/0", {"inputs": ["a b"]}),
    workflow_fault("published without a step", "/steps", {"is_active": True}, 422, "invalid"),
    step_fault("no template", "0/prompt_template", {"prompt_template": ""}),
    step_fault("no agent", "0/agent_id", {"agent_id": None}),
    step_fault("an agent's name for its id", "1/agent_id", {}, {"agent_id": "Ada"}),
    step_fault("a step id with a blank", "0/step_id", {"step_id": "a b"}),
    step_fault("a line break after a step id", "0/step_id", {"step_id": "a\n"}),
    step_fault("an unknown error handling", "0/error_handling", {"error_handling": "pray"}),
    step_fault("too many retries", "0/max_retries", {"max_retries": 11}),
    step_fault("fewer than no retries", "0/max_retries", {"max_retries": -1}),
    step_fault("an unknown field", "0/prompt", {"prompt": "x"}),
    step_fault(
        "two steps of one id",
        "1/step_id",
        {"step_id": "a"},
        {"step_id": "a"},
        status=422,
        code="invalid",
    ),
    step_fault(
        "a given id that is another's default",
        "1/step_id",
        {"step_id": "step-2"},
        {},
        status=422,
        code="invalid",
    ),
    step_fault("an unknown agent", "0/agent_id", {"agent_id": 17}, status=422, code="invalid"),
    step_fault(
        "an agent id over 2^63", "0/agent_id", {"agent_id": 2**64}, status=422, code="invalid"
    ),
    step_fault(
        "an archived agent",
        "0/agent_id",
        {"agent_id": "{archived}"},
        status=409,
        code="agent_is_archived",
    ),
    step_fault(
        "a template of an unknown step",
        "0/prompt_template",
        {"prompt_template": "{steps.nope.output}"},
        status=422,
        code="invalid",
    ),
    step_fault(
        "a template of a later step",
        "0/prompt_template",
        {"prompt_template": "{steps.b.output}"},
        {"step_id": "b"},
        status=422,
        code="invalid",
    ),
    step_fault(
        "a first step with a previous one",
        "0/prompt_template",
        {"prompt_template": "{previous.output}"},
        status=422,
        code="invalid",
    ),
    step_fault(
        "a template over 256 KiB",
        "0/prompt_template",
        {"prompt_template": "x" * (256 * 1024 + 1)},
        status=413,
        code="too_long",
    ),
    workflow_fault(
        "a template of an undeclared input",
        "/steps/0/prompt_template",
        {
            "inputs": ["topic"],
            "steps": [{"agent_id": "{agent}", "prompt_template": "{input.other}"}],
        },
        422,
        "invalid",
    ),
    Bad(
        "a taken name",
        "POST",
        "/api/workflows",
        b'{"name": "RESEARCH"}',
        409,
        "name_is_taken",
        "/name",
    ),
    Bad(
        "a published one without steps",
        "PUT",
        "/api/workflows/{workflow}",
        b'{"steps": []}',
        422,
        "invalid",
        "/steps",
    ),
    Bad(
        "an unknown status",
        "PUT",
        "/api/workflows/{workflow}",
        b'{"status": "on"}',
        400,
        "bad_body",
        "/status",
    ),
    Bad(
        "an input that is a list",
        "POST",
        "/api/workflows/{workflow}/execute",
        b'{"input_data": []}',
        400,
        "bad_body",
        "/input_data",
    ),
    Bad(
        "an input over 256 KiB",
        "POST",
        "/api/workflows/{workflow}/execute",
        encoded({"input_data": {"x": "x" * 256 * 1024}}),
        413,
        "too_long",
        "/input_data",
    ),
    Bad(
        "a run that has ended",
        "POST",
        "/api/workflows/executions/{run}/cancel",
        b"",
        409,
        "run_is_finished",
        None,
    ),
    Bad(
        "a run that is none",
        "POST",
        "/api/workflows/executions/nope/cancel",
        b"",
        404,
        "not_found",
        None,
    ),
    Bad(
        "a run's id over 2^63",
        "POST",
        f"/api/workflows/executions/{HUGE_ID}/cancel",
        b"",
        404,
        "not_found",
        None,
    ),
]
