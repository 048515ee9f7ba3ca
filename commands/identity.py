"""Commands on the local workspace and its API keys."""

from typing import Annotated

import msgspec

from commands.transact import Issued, Outcome, Transaction, Transactions
from domain import identity
from domain.events import PLATFORM_WORKSPACE, WorkspaceId
from domain.identity import (
    API_KEY,
    INSTALLATION,
    WORKSPACE,
    ApiKeyCreated,
    KeyId,
    Opened,
)

KEY_NAME_MAX = 100

KeyName = Annotated[str, msgspec.Meta(min_length=1, max_length=KEY_NAME_MAX)]


class CreateApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    secret_hash: HMAC-SHA-256 of the whole key, hex. The key itself never comes here.
    """

    key_id: KeyId
    name: KeyName
    holder: str
    secret_hash: str
    last_four: str


class OpenedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    workspace_id: WorkspaceId


class KeyAnswer(msgspec.Struct, frozen=True, kw_only=True):
    key_id: KeyId


class IdentityCommands:
    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def open_installation(
        self, workspace_id: WorkspaceId, issued: Issued
    ) -> Outcome[OpenedAnswer]:
        """Settle which workspace is the local one: this, or the one settled before."""

        async def decide(transaction: Transaction) -> OpenedAnswer:
            stream_id = INSTALLATION.stream_id(PLATFORM_WORKSPACE, "local")
            loaded = await transaction.load(INSTALLATION, stream_id)
            if isinstance(loaded.state, Opened):
                found = loaded.state.local_workspace_id
                return OpenedAnswer(workspace_id=found)
            opened = identity.open_installation(loaded.state, local_workspace_id=workspace_id)
            transaction.record(stream_id, opened)
            return OpenedAnswer(workspace_id=workspace_id)

        return await self._transactions.run(decide, issued, OpenedAnswer)

    async def create_workspace(self, name: str, issued: Issued) -> Outcome[OpenedAnswer]:
        """Create the workspace the command is issued in, unless it is there."""

        async def decide(transaction: Transaction) -> OpenedAnswer:
            workspace_id = issued.workspace_id
            stream_id = WORKSPACE.stream_id(workspace_id, workspace_id)
            loaded = await transaction.load(WORKSPACE, stream_id)
            created = identity.create_workspace(loaded.state, workspace_id=workspace_id, name=name)
            transaction.record(stream_id, created)
            return OpenedAnswer(workspace_id=workspace_id)

        return await self._transactions.run(decide, issued, OpenedAnswer)

    async def create_key(self, command: CreateApiKey, issued: Issued) -> Outcome[KeyAnswer]:
        async def decide(transaction: Transaction) -> KeyAnswer:
            stream_id = API_KEY.stream_id(issued.workspace_id, command.key_id)
            loaded = await transaction.load(API_KEY, stream_id)
            created = ApiKeyCreated(
                key_id=command.key_id,
                name=command.name,
                holder=command.holder,
                secret_hash=command.secret_hash,
                last_four=command.last_four,
            )
            transaction.record(stream_id, identity.create_key(loaded.state, created=created))
            return KeyAnswer(key_id=command.key_id)

        return await self._transactions.run(decide, issued, KeyAnswer)

    async def revoke_key(self, key_id: KeyId, issued: Issued) -> Outcome[KeyAnswer]:
        async def decide(transaction: Transaction) -> KeyAnswer:
            stream_id = API_KEY.stream_id(issued.workspace_id, key_id)
            loaded = await transaction.load(API_KEY, stream_id)
            transaction.record(stream_id, identity.revoke_key(loaded.state, key_id=key_id))
            return KeyAnswer(key_id=key_id)

        return await self._transactions.run(decide, issued, KeyAnswer)
