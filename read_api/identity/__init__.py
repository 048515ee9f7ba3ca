"""Who is asking, his workspaces, their members and invitations, and their API keys."""

from read_api.identity.keys import ApiKeyController
from read_api.identity.workspaces import InvitationController, UserController, WorkspaceController

__all__ = ["ApiKeyController", "InvitationController", "UserController", "WorkspaceController"]
