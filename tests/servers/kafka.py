"""Apache Kafka, one node that is broker and controller."""

import hashlib
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from tests.servers.certificate import Certificate
from tests.servers.java import HERE, cached, download, java, locked
from tests.servers.server import LOCAL, Program, Server, free_port

CLUSTER = "YXV0b21hdG9zLXRlc3RzLTE"
FAST = ("-Xmx384m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto")
FORMAT_MAX_S = 60

SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": 1,
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "BROKER",
    "listener.security.protocol.map": "CLIENTS:PLAINTEXT,BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
    # A killed broker comes back only after its controller has missed it for so long.
    "broker.session.timeout.ms": 3000,
    "broker.heartbeat.interval.ms": 500,
    "offsets.topic.replication.factor": 1,
    "offsets.topic.num.partitions": 4,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "transaction.state.log.num.partitions": 4,
    "share.coordinator.state.topic.replication.factor": 1,
    "share.coordinator.state.topic.min.isr": 1,
    "group.initial.rebalance.delay.ms": 0,
}


def kafka(
    *,
    port: int | None = None,
    advertised_port: int | None = None,
    settings: Mapping[str, object] | None = None,
    owners: Sequence[int] = (),
) -> Server:
    """Make a broker; `advertised_port` is a proxy's, which clients are then sent to."""
    ports = (free_port() if port is None else port, advertised_port)
    return _broker([f"-XX:SharedArchiveFile={_archive()}"], *ports, settings or {}, owners)


def guarded(certificate: Certificate, user: str, password: str) -> dict[str, object]:
    """Give the settings of a broker that lets clients in by TLS and a password alone."""
    login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    ours = "listener.name.clients"
    return {
        "listener.security.protocol.map": "CLIENTS:SASL_SSL,BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
        f"{ours}.sasl.enabled.mechanisms": "PLAIN",
        f"{ours}.plain.sasl.jaas.config": f'{login} user_{user}="{password}";',
        f"{ours}.ssl.keystore.type": "PEM",
        f"{ours}.ssl.keystore.certificate.chain": certificate.chain.replace("\n", "\\n"),
        f"{ours}.ssl.keystore.key": certificate.key.replace("\n", "\\n"),
    }


def _broker(
    flags: list[str],
    port: int,
    advertised_port: int | None = None,
    settings: Mapping[str, object] | None = None,
    owners: Sequence[int] = (),
) -> Server:
    broker, controller = free_port(), free_port()
    addresses = {
        "controller.quorum.voters": f"1@{LOCAL}:{controller}",
        "listeners": f"CLIENTS://{LOCAL}:{port},BROKER://{LOCAL}:{broker}"
        f",CONTROLLER://{LOCAL}:{controller}",
        "advertised.listeners": f"CLIENTS://{LOCAL}:{advertised_port or port}"
        f",BROKER://{LOCAL}:{broker}",
    }
    program = Program(
        name="kafka",
        prepare=lambda folder: _prepare(folder, addresses | dict(settings or {})),
        command=lambda folder: [*_java(flags), "kafka.Kafka", str(folder / "server.properties")],
        ready="Kafka Server started",
        version=r"Kafka version: (\S+)",
        url=f"{LOCAL}:{port}",
    )
    return Server(program, port, owners=owners)


def _prepare(folder: Path, settings: Mapping[str, object]) -> None:
    shutil.copytree(_installed() / "formatted", folder / "data")
    _write(folder, settings)


def _write(folder: Path, settings: Mapping[str, object]) -> Path:
    file = folder / "server.properties"
    lines = SETTINGS | dict(settings) | {"log.dirs": folder / "data"}
    file.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
    return file


@cache
def _installed() -> Path:
    java()
    return cached(_install)


def _install(folder: Path) -> None:
    """Fetch Kafka, and format the storage that every broker of ours begins with."""
    download(folder / "lib")
    listener = {"listeners": "BROKER://:1,CONTROLLER://:2", "controller.quorum.voters": "1@:2"}
    file = _write(folder, listener)
    tool = ("kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", str(file))
    subprocess.run(
        [str(java()), "-cp", f"{folder}/lib/*", *tool],
        check=True,
        capture_output=True,
        timeout=FORMAT_MAX_S,
    )
    (folder / "data").rename(folder / "formatted")
    file.unlink()


@cache
def _archive() -> Path:
    """Keep the loaded classes of one orderly run: later brokers start twice as fast.

    Not every Java can write it. An empty file says so, and Java passes over it.
    """
    installed = _installed()
    made_by = hashlib.sha256(str(java()).encode()).hexdigest()[:12]
    archive = installed / f"classes-{made_by}.jsa"
    with locked(installed / "lock"):
        if not archive.exists():
            unfinished = archive.with_suffix(".unfinished")
            with _broker([f"-XX:ArchiveClassesAtExit={unfinished}"], free_port()) as broker:
                broker.stop()
            unfinished.touch()
            unfinished.rename(archive)
    return archive


def _java(flags: list[str]) -> list[str]:
    logging = f"-Dlog4j2.configurationFile={HERE / 'log4j2.properties'}"
    return [str(java()), *FAST, *flags, logging, "-cp", f"{_installed()}/lib/*"]
