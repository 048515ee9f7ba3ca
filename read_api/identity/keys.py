"""A workspace's API keys."""

from datetime import datetime, timedelta

from litestar import Controller, Response, delete, get, post
from litestar.params import JSONBody

from commands.identity import KEY_LASTS, KEY_LASTS_MAX, CreateApiKey
from domain.errors import Invalid, NotAllowed, NotFound
from domain.identity import KeyId, Scope, of_scopes
from projections.identity import KeyRow, keys
from read_api.accepted import accepted
from read_api.asked import ApiRequest
from read_api.auth import Principal, may
from read_api.identity.bodies import ApiKeyBody, Done, IdText, MadeApiKey, NewApiKey, Overlap


class ApiKeyController(Controller):
    path = "/api/api-keys"
    tags = ("identity",)

    @get("/", summary="List the workspace's API keys", opt=may("keys:read"))
    async def list_keys(self, request: ApiRequest) -> Response[list[ApiKeyBody]]:
        view = request.view
        await view.fresh("identity")
        return view.response([_key(row) for row in await view.ask(keys)])

    @post("/", summary="Make an API key", opt=may("keys:manage"))
    async def create(self, data: JSONBody[NewApiKey], request: ApiRequest) -> Response[MadeApiKey]:
        issued = await request.issued()
        now = issued.metadata.occurred_at
        expires_at = data.expires_at or now + KEY_LASTS
        _check_grant(request.principal, data.scopes, expires_at, now)
        made = request.commands.make_key()
        command = CreateApiKey(
            key_id=made.key_id,
            name=data.name,
            holder=request.principal.email,
            secret_hash=made.secret_hash,
            last_four=made.last_four,
            scopes=data.scopes,
            expires_at=expires_at,
        )
        outcome = await request.commands.identity.create_key(command, issued)
        body = MadeApiKey(
            id=outcome.answer.key_id,
            name=data.name,
            key=None if outcome.replayed else made.text,
            scopes=data.scopes,
            expires_at=expires_at,
        )
        return accepted(outcome, body, 1, 201)

    @post(
        "/{key_id:str}/rotate",
        summary="Make a key instead of this one, which goes on for a while",
        opt=may("keys:manage"),
    )
    async def rotate(
        self, key_id: IdText, data: JSONBody[Overlap], request: ApiRequest
    ) -> Response[MadeApiKey]:
        view, issued = request.view, await request.issued()
        await view.fresh("identity")
        old = next((row for row in await view.ask(keys) if row.key_id == key_id), None)
        if old is None:
            raise NotFound("API key", key_id)
        made, expires_at = request.commands.make_key(), issued.metadata.occurred_at + KEY_LASTS
        command = CreateApiKey(
            key_id=made.key_id,
            name=old.name,
            holder=request.principal.email,
            secret_hash=made.secret_hash,
            last_four=made.last_four,
            scopes=old.scopes,
            expires_at=expires_at,
            replaces=old.key_id,
        )
        overlap = timedelta(hours=data.overlap_hours)
        outcome = await request.commands.identity.rotate_key(command, overlap, issued)
        body = MadeApiKey(
            id=outcome.answer.key_id,
            name=old.name,
            key=None if outcome.replayed else made.text,
            scopes=old.scopes,
            expires_at=expires_at,
        )
        return accepted(outcome, body, 1, 201)

    @delete(
        "/{key_id:str}",
        status_code=200,
        summary="Make a key open nothing any more",
        opt=may("keys:manage"),
    )
    async def revoke(self, key_id: IdText, request: ApiRequest) -> Response[Done]:
        outcome = await request.commands.identity.revoke_key(KeyId(key_id), await request.issued())
        return accepted(outcome, Done(message="The API key is revoked"), 1, 200)


def _key(row: KeyRow) -> ApiKeyBody:
    return ApiKeyBody(
        id=row.key_id,
        name=row.name,
        masked=f"atk_live_{row.key_id}_…{row.last_four}",
        scopes=row.scopes,
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
    )


def _check_grant(
    principal: Principal, scopes: tuple[Scope, ...], expires_at: datetime, now: datetime
) -> None:
    """Nobody makes a key that may do more than himself, or that lasts for ever.

    Raises:
        NotAllowed, Invalid: It would.
    """
    if not of_scopes(scopes) <= principal.permissions:
        raise NotAllowed("A key may do no more than who makes it.", pointer="/scopes")
    if expires_at.tzinfo is None:
        raise Invalid("A time has an offset, or Z.", pointer="/expires_at")
    if expires_at > now + KEY_LASTS_MAX:
        days = KEY_LASTS_MAX // timedelta(days=1)
        raise Invalid(f"A key lasts {days} days at most.", pointer="/expires_at")
