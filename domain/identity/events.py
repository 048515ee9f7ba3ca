"""Every event of identity."""

from typing import TypeAlias

from domain.identity.installation import InstallationOpened
from domain.identity.keys import KeyEvent
from domain.identity.users import UserEvent
from domain.identity.workspaces import WorkspaceEvent

IdentityEvent: TypeAlias = InstallationOpened | KeyEvent | UserEvent | WorkspaceEvent
