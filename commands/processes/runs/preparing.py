"""What a step's call will say, and to whom: its agent, model and prompt."""

from collections.abc import Mapping

import msgspec

from commands.processes.model_calls import (
    ModelCallError,
    ModelProvider,
    ModelRequest,
    ModelTarget,
)
from commands.processes.runs.calls import Prepared
from commands.settings import settings_stream
from commands.transact import EventStore, Loaded
from domain import agents, templates
from domain.agents import AGENT, AgentId, AgentProfile, ModelConfig, Registered
from domain.effective import Installed, default_model
from domain.errors import TooLong
from domain.events import Blob, JsonObject, WorkspaceId
from domain.runs import Running, TakeStep
from domain.settings import SETTINGS
from domain.usage import CallSubject
from domain.workflows import Step

PROMPT_BYTES_MAX = 1024 * 1024
"""A rendered prompt: templates have 256 KiB, what fills them may be longer."""


class CannotPrepare(Exception):
    """A step that will never get as far as a call; the message says why."""


class Preparation:
    """Args:
    installed: What the installation says of the settings of agents that name no model.
    stream: Ask models for streamed answers, whose timeouts fit long ones.
    """

    def __init__(
        self, store: EventStore, models: ModelProvider, installed: Installed, *, stream: bool
    ) -> None:
        self._store = store
        self._models = models
        self._installed = installed
        self._stream = stream

    async def prepare(self, workspace_id: WorkspaceId, run: Running, due: TakeStep) -> Prepared:
        """Resolve agent, model and prompt.

        Raises:
            CannotPrepare: The step cannot be taken, now or later.
        """
        step = run.steps[due.step]
        agent = await self._agent(workspace_id, step)
        asked = await self._asked(workspace_id, agent.state.profile)
        target = self._target(asked)
        prompt = await self._prompt(workspace_id, run, step)
        return Prepared(
            step=due.step,
            attempt=due.attempt,
            subject=_subject(run, step, agent.version),
            target=target,
            asked=asked,
            request=_request(agent.state.profile, asked, target, prompt, stream=self._stream),
        )

    async def _asked(self, workspace_id: WorkspaceId, profile: AgentProfile) -> ModelConfig:
        """Take the agent's own model, else what holds in its workspace at this moment."""
        if profile.model is not None:
            return profile.model
        loaded = await self._store.load(SETTINGS, settings_stream(workspace_id), fresh=True)
        return default_model(loaded.state, self._installed)

    async def _agent(self, workspace_id: WorkspaceId, step: Step) -> Loaded[Registered]:
        agent_id = AgentId(step.agent_id)
        stream_id = AGENT.stream_id(workspace_id, agent_id)
        loaded = await self._store.load(AGENT, stream_id, fresh=True)
        state = agents.registered(loaded.state, agent_id)
        return Loaded(state, loaded.version, loaded.first, loaded.last)

    def _target(self, asked: ModelConfig) -> ModelTarget:
        try:
            return self._models.target(asked.provider or None, asked.model_id or None)
        except ModelCallError as error:
            raise CannotPrepare(str(error)) from error

    async def _prompt(self, workspace_id: WorkspaceId, run: Running, step: Step) -> str:
        values = await self._values(workspace_id, run, step)
        sizes = {reference: len(value.encode()) for reference, value in values.items()}
        references = list(templates.references(step.prompt_template))
        for reference in references:
            if reference not in values:
                lacking = f"{reference.source}.{reference.key}"
                raise CannotPrepare(f"The prompt needs {{{lacking}}}, which the run lacks.")
        # Before it is rendered: a short template can ask for a long value many thousand times.
        _check_size(sum(sizes[reference] for reference in references))
        prompt = templates.render(step.prompt_template, values)
        _check_size(len(prompt.encode()))
        return prompt

    async def _values(
        self, workspace_id: WorkspaceId, run: Running, step: Step
    ) -> Mapping[templates.Reference, str]:
        """Read what the step's template asks for; what is not there is left out."""
        given: JsonObject = msgspec.json.decode(
            await self._store.text(workspace_id, run.input), type=JsonObject
        )
        values = {templates.Reference("input", name): _text(v) for name, v in given.items()}
        outputs = {s.step_id: output for s, output in zip(run.steps, run.outputs, strict=False)}
        for reference in set(templates.references(step.prompt_template)):
            if reference == templates.PREVIOUS:
                values[reference] = await self._output(workspace_id, run.outputs[-1])
            elif reference.source == "steps":
                values[reference] = await self._output(workspace_id, outputs[reference.key])
        return values

    async def _output(self, workspace_id: WorkspaceId, output: Blob | None) -> str:
        """Read a step's output; a skipped step has an empty one."""
        return "" if output is None else await self._store.text(workspace_id, output)


def _subject(run: Running, step: Step, agent_version: int) -> CallSubject:
    return CallSubject(
        agent_id=step.agent_id,
        agent_version=agent_version,
        workflow_id=run.workflow_id,
        run_id=run.run_id,
        step=run.step,
        step_id=step.step_id,
    )


def _request(
    profile: AgentProfile, model: ModelConfig, target: ModelTarget, prompt: str, *, stream: bool
) -> ModelRequest:
    return ModelRequest(
        provider=target.provider,
        model=target.model,
        system=agents.system_prompt(profile),
        prompt=prompt,
        temperature=model.temperature,
        max_tokens=model.max_tokens,
        top_p=model.top_p,
        frequency_penalty=model.frequency_penalty,
        presence_penalty=model.presence_penalty,
        stream=stream,
    )


def _check_size(size: int) -> None:
    if size > PROMPT_BYTES_MAX:
        raise TooLong("The prompt", size=size, size_max=PROMPT_BYTES_MAX, pointer="")


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
