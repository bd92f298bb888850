"""The application: builds the service from its settings and gives it an HTTP face.

Start it with `python app_refactored.py`, or `uvicorn app_refactored:app --timeout-graceful-shutdown 1`.
Importing it starts nothing.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from api import docs, errors, openapi
from api.connections import MOST_CONNECTIONS, bounded_protocol, raise_file_limit
from api.console import log_config
from api.observing import Observing, RequestCounts
from api.prepared_status import PreparedStatus
from api.read_replica import ReplicaGuard
from api.routers import (
    alerts,
    dashboard,
    events,
    history,
    monitoring,
    parsing,
    provenance,
    resources,
    results,
    session,
    system,
    training,
)
from api.security import RequestGuard
from api.session import Tokens
from api.startup import PlainStart
from services.alerts import AlertService
from services.devices import list_gpus
from services.executors.base import Executor
from services.executors.choice import Executors
from services.history import MetricHistory
from services.history.downsample import warm_up
from services.known_gpus import KnownGpus
from services.memory import collect_seldom, limit_arenas
from services.monitoring import build_registry
from services.paths import PathPolicy
from services.resource_samples import Sampler
from services.retention import Retention, Rules
from services.scheduler import Scheduler
from services.storage.database import Database
from services.storage.ownership import Terms
from services.training_service import TrainingService
from settings import Settings

VERSION = "0.1.0"
STALLED_MS = 45_000
"""A connection whose other end takes nothing for so long is dropped by the system, with all that waits in it:
a stream cannot do that to itself, since an ASGI application has no way to abort a connection."""

GIL_SWITCH_S = 0.0005
"""How long a thread that reads or writes lines may keep one waiting that answers a request. Measured on 2 busy cores
with 100,000 lines a second coming in (`benchmarks/flood.py`, alternated): p99 of the health check 64 and 77 ms, against
105 and 206 ms with Python's 5 ms; the lines were stored as fast."""

logger = logging.getLogger(__name__)


def create_app(settings: Settings | None = None, executor: Executor | None = None) -> FastAPI:
    """The application; its service exists from lifespan start to lifespan end.

    Args:
        settings: read from the environment, if not given.
        executor: where every task runs; by EXECUTOR and its request, if not given.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        sys.setswitchinterval(GIL_SWITCH_S)
        limit_arenas()
        for doubt in configured.doubts:
            logger.warning(doubt)
        app.state.service = service = await run_in_threadpool(build_service, configured, executor)
        service.when_lost = app.state.end
        if service.is_closing:  # the store was lost before somebody could be told
            app.state.end()
        app.state.save_roots = PathPolicy(save_roots=configured.save_roots).roots.save
        app.state.history = MetricHistory(service.series, service.ask_for_buckets)
        threading.Thread(target=warm_up, name="warm-up", daemon=True).start()
        app.state.alerts = watching = AlertService(
            service, service.database, allow_private=configured.alert_private_targets
        )
        rules = Rules(configured.keep_lines_days, configured.keep_checkpoints)
        retention = Retention(service, rules, app.state.save_roots)
        counted = (counts.requests, counts.seconds, counts.dropped, watching.delivery_attempts, retention.removed)
        app.state.registry = build_registry(service, VERSION, counted)
        await run_in_threadpool(watching.start)
        retention.start()
        sampler = Sampler(service.running_trainings, lambda: list_gpus() or (), configured.resource_samples_s)
        sampler.start()
        with collect_seldom():
            yield
        await run_in_threadpool(sampler.close)
        await run_in_threadpool(retention.close)
        await run_in_threadpool(watching.close)
        if not await run_in_threadpool(app.state.service.close):
            logger.error("The store still refused writes: the last log lines of this run are not in it")

    configured = settings or Settings()
    app = FastAPI(
        title="图像分类训练服务 Image Training Service",
        version=VERSION,
        description="Start a training, poll it, watch it live. The trainer's own log lines are the interface.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own pages run whatever a server elsewhere hands out
        redoc_url=None,
    )
    app.state.end = partial(os.kill, os.getpid(), signal.SIGTERM)
    errors.install(app)
    app.state.tokens = tokens = Tokens([token.get_secret_value() for token in configured.api_tokens])
    openapi.name_scheme(app, tokens)
    counts = RequestCounts()
    app.add_middleware(Observing, counts=counts)
    app.add_middleware(ReplicaGuard, state=app.state, on_refusal=counts.refused)
    app.add_middleware(PreparedStatus, state=app.state, counts=counts)
    app.add_middleware(
        RequestGuard,
        hosts=(configured.host, *configured.allowed_hosts),
        origins=configured.allowed_origins,
        tokens=tokens,
        max_body_bytes=configured.max_body_bytes,
        on_refusal=counts.refused,
    )
    if configured.allowed_origins:  # around the guard, so that an allowed page can read why it was refused
        app.add_middleware(
            CORSMiddleware,
            allow_origins=configured.allowed_origins,
            allow_credentials=True,
            allow_methods=["*"],
            allow_headers=["*"],
        )
    app.add_middleware(PlainStart)
    app.include_router(alerts.router, max_body_size=configured.max_body_bytes)
    app.include_router(events.router)  # these come first: their fixed words are no tasks
    app.include_router(history.router)
    app.include_router(results.router)
    app.include_router(provenance.router)
    app.include_router(training.router, max_body_size=configured.max_body_bytes)
    app.include_router(parsing.router, max_body_size=configured.max_body_bytes)
    app.include_router(resources.router, max_body_size=configured.max_body_bytes)
    app.include_router(session.router)
    app.include_router(system.router)
    app.include_router(monitoring.router)
    app.include_router(docs.router)
    app.router.routes.extend(dashboard.routes())

    @app.get("/", summary="接口列表", tags=["系统接口"], responses=errors.documented(401, 403))
    async def get_routes() -> dict[str, Any]:
        """All routes, by group."""
        return {"message": app.title, "version": VERSION, "docs": "/docs", "endpoints": route_table(app)}

    return app


def build_service(settings: Settings, executor: Executor | None = None) -> TrainingService:
    """Open the store and the service on it, and take up the queue that an earlier process left.

    Where another service owns a PostgreSQL store, this one is a read replica of it.

    Raises:
        StoreInUse: another service process owns the SQLite store.
        StoreUnusable: it cannot be opened.
    """
    database = Database(
        settings.store_url,
        synchronous=settings.sqlite_synchronous,
        terms=Terms(settings.lease_seconds, settings.address),
        may_follow=True,
    )
    keep_private(settings.state_dir)
    paths = PathPolicy(settings.data_roots, settings.save_roots)
    gpus = KnownGpus(list_gpus)
    service = TrainingService(
        database,
        executors=Executors(
            settings.executor,
            stop_grace_s=settings.stop_grace_s,
            only=executor,
            paths=paths,
            ray_address=settings.ray_address,
            ray_token=settings.ray_auth_token.get_secret_value() if settings.ray_auth_token else None,
        ),
        scheduler=Scheduler(
            cpu_limit=settings.max_training_concurrent_cpu,
            gpu_limit=settings.max_training_concurrent_gpu,
            gpus=gpus.recent,
            max_queued=settings.max_queued,
        ),
        gpus=gpus,
        paths=paths,
        runs_dir=settings.state_dir / "runs",
        allow_commands=settings.allow_commands,
    )
    gpus.when_answered = service.dispatch_again
    service.resume_queue()
    return service


def keep_private(state_dir: Path) -> None:
    """Let nobody else on this machine read what the service keeps: every log, and requests, which may hold secrets.

    A folder that was there before may be anybody's (STATE_DIR=/tmp), so only what is the service's own is closed.
    """
    runs = state_dir / "runs"
    runs.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(PermissionError):  # whoever they belong to has decided
        runs.chmod(0o700)
        for file in state_dir.glob("training.db*"):  # SQLite gives what it adds the mode of the first
            file.chmod(0o600)


def route_table(app: FastAPI) -> dict[str, dict[str, str]]:
    """`{group: {summary: "METHOD path"}}` of every documented route."""
    table: dict[str, dict[str, str]] = {}
    for path, operations in app.openapi()["paths"].items():
        for method, operation in operations.items():
            table.setdefault(operation["tags"][0], {})[operation["summary"]] = f"{method.upper()} {path}"
    return table


class Server(uvicorn.Server):
    """Lets the system drop connections that are stalled, and trainings stop while connections are closed.

    Attributes:
        is_replaced: another service has taken the store over, so this one ends.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app
        self.is_replaced = False
        app.state.end = self._end

    def _end(self) -> None:
        self.is_replaced = self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if sys.platform == "linux":
            for listener in [each for server in self.servers for each in server.sockets]:
                with socket.socket(fileno=os.dup(listener.fileno())) as same:  # uvloop's own cannot be set
                    same.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STALLED_MS)  # connections inherit it

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await run_in_threadpool(self._app.state.service.interrupt)
        await super().shutdown(sockets)


def server_config(settings: Settings, app: FastAPI) -> uvicorn.Config:
    """Half of the files that may be open are for connections; the store and the trainers need some too."""
    connections = min(raise_file_limit() // 2, MOST_CONNECTIONS)
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=bounded_protocol(request_timeout_s=settings.request_timeout_s, max_connections=connections),
        ws="none",
        backlog=min(connections // 2, 2048),  # so many are accepted at once, before any is closed for them
        timeout_graceful_shutdown=1,
        access_log=False,
        log_config=log_config(settings.log_format),
    )


def main(executor: Executor | None = None) -> int:
    """Run the service until SIGTERM or Ctrl-C; 0 if it ended as it should.

    One whose store another service has taken over begins anew in the same process, and follows that one: nothing of
    what it was doing, or knew, is left.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        for problem in error.errors():
            name = ".".join(str(part) for part in problem["loc"]).upper()
            message = problem["msg"].removeprefix("Value error, ")
            print(f"{name}: {message}" if name else message, file=sys.stderr)
        return 2
    # uvicorn re-raises the signal that ended it, once it has shut down; an orderly end is no failure.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    app = create_app(settings, executor)
    server = Server(server_config(settings, app), app)
    server.run()
    if server.is_replaced:
        logger.warning("Starting again, as a read replica")
        os.execv(sys.executable, sys.orig_argv)  # noqa: S606 - this program, as it was called
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())

app = create_app()
