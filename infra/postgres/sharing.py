"""Shares partitions among the instances of a process, by leases alone.

Every instance shows itself by a lease of its own, so all know how many there are and which of
them they are; each takes its share of what is free, and gives back what is more than that.
"""

from typing import NamedTuple

from infra.failpoints import failpoint
from infra.postgres.leases import Lease, Leases

LEASE_S = 5.0
SHARE_EVERY_S = 1.0


class Shared(NamedTuple):
    """What a look at the leases has changed."""

    gained: dict[int, Lease]
    lost: set[int]


class Shares:
    """Args:
    name: What is shared, such as `projectors/all`.
    """

    def __init__(self, leases: Leases, name: str, instance: str, partitions: int) -> None:
        self._leases = leases
        self._name = name
        self._instance = instance
        self._partitions = partitions
        self.held: dict[int, Lease] = {}

    async def look(self) -> Shared:
        """Renew what is held, give back what is too much, take what is free."""
        before = dict(self.held)
        await self._leases.take(self._member(self._instance), self._instance, LEASE_S)
        members = await self._leases.held(self._member(""))
        await self._renew()
        share = self._share([lease.owner for lease in members.values()])
        for partition in sorted(self.held)[share:]:
            await self._give_back(partition)
        await self._take_free(share)
        gained = {n: lease for n, lease in self.held.items() if before.get(n) != lease}
        lost = {n for n, lease in before.items() if self.held.get(n) != lease}
        return Shared(gained, lost)

    async def leave(self) -> None:
        """Give everything back at once."""
        for partition in list(self.held):
            await self._give_back(partition)
        await self._leases.release(self._member(self._instance), self._instance)

    def _share(self, owners: list[str]) -> int:
        """Tell how many are this instance's, so that all instances' add up to all."""
        members = sorted({*owners, self._instance})
        each, rest = divmod(self._partitions, len(members))
        return each + (members.index(self._instance) < rest)

    async def _renew(self) -> None:
        for partition, lease in list(self.held.items()):
            epoch = await self._leases.take(lease.name, self._instance, LEASE_S)
            if epoch is None:
                del self.held[partition]
            else:
                self.held[partition] = lease._replace(epoch=epoch)

    async def _take_free(self, share: int) -> None:
        taken = await self._leases.held(self._partition(""))
        for partition in range(self._partitions):
            name = self._partition(partition)
            if len(self.held) >= share:
                return
            if name in taken:
                continue
            epoch = await self._leases.take(name, self._instance, LEASE_S)
            failpoint("projector.after_lease")
            if epoch is not None:
                self.held[partition] = Lease(name, self._instance, epoch)

    async def _give_back(self, partition: int) -> None:
        await self._leases.release(self.held.pop(partition).name, self._instance)

    def _partition(self, partition: int | str) -> str:
        return f"{self._name}/{partition}"

    def _member(self, instance: str) -> str:
        return f"members/{self._name}/{instance}"
