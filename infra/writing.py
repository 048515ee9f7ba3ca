"""The write side of an installation, as every process of it opens it."""

from collections.abc import Callable
from datetime import timedelta

import msgspec

from commands.agents import AgentCommands
from commands.identity import CreateApiKey, IdentityCommands, Login, ProvisionedAnswer
from commands.settings import SettingCommands
from commands.transact import Issued, Transactions
from commands.workflows import WorkflowCommands
from domain.events import PLATFORM_WORKSPACE, CommandId, Metadata, WorkspaceId
from domain.identity import KeyId
from infra.api_keys import make_key
from infra.clock import utc_now
from infra.event_store.sqlite import SqliteLog
from infra.event_store.store import EventStore, Log
from infra.failpoints import failpoint
from infra.ids import IntegerIds, new_uuid
from infra.installed import installed
from infra.settings import Settings
from infra.vault import Vault

LOCAL_WORKSPACE_NAME = "Local workspace"
PLATFORM_WORKSPACE_NAME = "Platform"


class Writing(msgspec.Struct, frozen=True, kw_only=True):
    """The write side of an installation: what a command line needs, server or none."""

    settings: Settings
    vault: Vault
    store: EventStore
    agents: AgentCommands
    workflows: WorkflowCommands
    identity: IdentityCommands
    system_settings: SettingCommands
    transactions: Transactions
    next_id: Callable[[], int]

    def close(self) -> None:
        self.store.close()
        self.vault.close()

    async def aclose(self) -> None:
        """Close a log that takes its time; see `EventStore.aclose`."""
        await self.store.aclose()
        self.vault.close()

    def issued(self, workspace_id: WorkspaceId, actor: str) -> Issued:
        """Make the circumstances of a command that nobody asked for by HTTP."""
        metadata = Metadata(
            workspace_id=workspace_id,
            actor=actor,
            correlation_id=new_uuid(),
            command_id=CommandId(new_uuid()),
            occurred_at=utc_now(),
        )
        return Issued(metadata=metadata)

    async def local_workspace(self) -> WorkspaceId:
        """Find the installation's local workspace, or make it."""
        actor = "cli:setup"
        opened = await self.identity.open_installation(
            WorkspaceId(new_uuid()), self.issued(PLATFORM_WORKSPACE, actor)
        )
        workspace_id = opened.answer.workspace_id
        issued = self.issued(workspace_id, actor)
        await self.identity.create_workspace(LOCAL_WORKSPACE_NAME, issued)
        return workspace_id

    async def platform_workspace(self) -> WorkspaceId:
        """Give the workspace of those who operate an installation of many tenants."""
        issued = self.issued(PLATFORM_WORKSPACE, "cli:setup")
        await self.identity.create_workspace(PLATFORM_WORKSPACE_NAME, issued)
        return PLATFORM_WORKSPACE

    async def provision(self, login: Login) -> ProvisionedAnswer:
        """Register who logs in for the first time."""
        issued = self.issued(PLATFORM_WORKSPACE, f"login:{login.issuer}")
        return (await self.identity.provision(login, issued)).answer

    async def note_key_use(self, workspace_id: WorkspaceId, key_id: KeyId) -> None:
        issued = self.issued(workspace_id, f"key:{key_id}")
        await self.identity.note_key_use(key_id, issued)

    async def create_key(
        self,
        workspace_id: WorkspaceId,
        name: str,
        holder: str,
        *,
        lasts: timedelta | None = None,
    ) -> str:
        """Make an API key and tell it: it is not stored and cannot be told again.

        Args:
            lasts: How long; None for a key that does not end.
        """
        key = make_key(self.vault.pepper())
        command = CreateApiKey(
            key_id=key.key_id,
            name=name,
            holder=holder,
            secret_hash=key.secret_hash,
            last_four=key.last_four,
            expires_at=None if lasts is None else utc_now() + lasts,
        )
        await self.identity.create_key(command, self.issued(workspace_id, "cli:keys"))
        return key.text


def build_writing(
    settings: Settings, *, on_failure: Callable[[Exception], None] = lambda _: None
) -> Writing:
    """Open the log: PostgreSQL's, or that of a folder, made if need be. Several processes may."""
    vault, log = (_in_postgres if settings.database_url else _in_folder)(settings, on_failure)
    store = EventStore(log, vault)
    transactions, next_id = Transactions(store), IntegerIds()
    return Writing(
        settings=settings,
        vault=vault,
        store=store,
        agents=AgentCommands(transactions, next_id),
        workflows=WorkflowCommands(transactions, next_id),
        identity=IdentityCommands(transactions),
        system_settings=SettingCommands(transactions, installed(settings)),
        transactions=transactions,
        next_id=next_id,
    )


def _in_folder(settings: Settings, on_failure: Callable[[Exception], None]) -> tuple[Vault, Log]:
    # Prompts and templates are readable in the log: the folder is its owner's alone.
    failpoint("folder.before_make")
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    vault = Vault(settings.data_dir / "keys.db")
    return vault, SqliteLog(settings.data_dir / "events.db", on_failure=on_failure)


def _in_postgres(settings: Settings, on_failure: Callable[[Exception], None]) -> tuple[Vault, Log]:
    # Imported here: the embedded profile starts without the drivers.
    from infra.event_store.postgres import PostgresLog  # noqa: PLC0415
    from infra.postgres.keys import PostgresKeys  # noqa: PLC0415
    from infra.postgres.migrations import check_schema  # noqa: PLC0415

    url = settings.database_url
    check_schema(url)
    log = PostgresLog(url, on_failure=on_failure, readers_max=settings.postgres_pool_size)
    return Vault(PostgresKeys(url)), log
