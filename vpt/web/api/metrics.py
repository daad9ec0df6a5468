"""GET /metrics: counters since the start and the current state of the lab, for Prometheus.

Figures are computed at each request; only what cannot be computed later is counted as it happens,
in `vpt/measures.py`. No label has a value that comes from clients, hosts or executions, since that
would be labels without end.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from hmac import compare_digest

from aiohttp import hdrs, web
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from vpt import __version__
from vpt.connections import REFUSALS
from vpt.http_server import UnreadAnswers
from vpt.measures import ANSWERS, Histogram, LabelledHistograms
from vpt.model import (
    CampaignProgress,
    DeviceReason,
    DeviceStatus,
    Event,
    ExecutionStatus,
    HostStatus,
    Role,
    TestProgress,
    TroubleKind,
)
from vpt.upkeep import failures
from vpt.web.api.system import PULSE
from vpt.web.http.auth import bearer, own_credential, require
from vpt.web.http.keys import CONFIG, CONNECTIONS, DB, EVENTS, LAB, REQUESTS, UNREAD
from vpt.web.http.operations import METRICS_TOKEN, USER, ResponseSpec, operation
from vpt.web.live.sockets import SOCKETS

routes = web.RouteTableDef()

_Labels = Mapping[str, float]
_FINAL = tuple(status for status in ExecutionStatus if status.final)


class _Ends:
    """Counts ended executions and campaign executions, by final status."""

    def __init__(self) -> None:
        self.executions: Counter[str] = Counter()
        self.campaigns: Counter[str] = Counter()

    def hear(self, event: Event) -> None:
        """Count the final event of an execution or a campaign execution."""
        if isinstance(event, TestProgress) and event.status.final:
            self.executions[event.status] += 1
        elif isinstance(event, CampaignProgress) and event.status.final:
            self.campaigns[event.status] += 1


_REGISTRY = web.AppKey("metrics_registry", CollectorRegistry)


def setup(app: web.Application) -> None:
    """Start to count. EVENTS of `app` must be set; the other keys may follow until a request."""
    app[REQUESTS], app[UNREAD] = LabelledHistograms(ANSWERS), UnreadAnswers()
    ends = _Ends()
    app[EVENTS].subscribe(ends.hear)
    app[_REGISTRY] = CollectorRegistry()
    app[_REGISTRY].register(_Figures(app, ends))
    ProcessCollector(registry=app[_REGISTRY])


@routes.get("/metrics")
@own_credential
@operation(
    ResponseSpec({"text/plain": None, "application/openmetrics-text": None}),
    credentials=(USER, METRICS_TOKEN),
)
async def metrics(request: web.Request) -> web.Response:
    """Show all figures, in the format that `Accept` prefers."""
    await _admit(request)
    encode, content_type = choose_encoder(request.headers.get(hdrs.ACCEPT, ""))
    body = encode(request.app[_REGISTRY])
    return web.Response(body=body, headers={hdrs.CONTENT_TYPE: content_type})


async def _admit(request: web.Request) -> None:
    """Accept METRICS_TOKEN, and every user."""
    expected = request.app[CONFIG].metrics_token
    given = bearer(request.headers.get(hdrs.AUTHORIZATION))
    if not expected or not given or not compare_digest(_bytes(given), _bytes(expected)):
        await require(request, Role.VIEWER)


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")  # headers may hold any byte


class _Figures(Collector):
    """Collects the figures of one application at each request."""

    def __init__(self, app: web.Application, ends: _Ends) -> None:
        self._app = app
        self._ends = ends

    def collect(self) -> Iterator[Metric]:
        """Yield every metric, also those at zero."""
        yield _gauge("vpt_build_info", "1, with the version.", "version", {__version__: 1})
        yield from self._requests()
        yield from self._work()
        yield from self._hosts()
        yield from self._server()
        yield from self._connections()

    def _requests(self) -> Iterator[Metric]:
        requests, labels = self._app[REQUESTS], ("method", "route", "status")
        counted = CounterMetricFamily("vpt_http_requests", "Answered requests.", labels=labels)
        for key, spread in requests.by_labels.items():
            counted.add_metric(_texts(key), spread.total)
        yield counted
        yield _histogram(
            "vpt_http_request_duration_seconds",
            "From the arrival of a request to its response.",
            labels[:2],
            requests.joined(2),
        )

    def _work(self) -> Iterator[Metric]:
        lab = self._app[LAB]
        measures = lab.measures()
        yield _counter(
            "vpt_executions",
            "Executions that ended.",
            "status",
            _each(_FINAL, self._ends.executions),
        )
        yield _counter(
            "vpt_campaign_executions",
            "Campaign executions that ended.",
            "status",
            _each(_FINAL, self._ends.campaigns),
        )
        yield GaugeMetricFamily("vpt_queue_length", "Queued executions.", measures["queue_length"])
        yield GaugeMetricFamily(
            "vpt_queue_oldest_seconds",
            "How long the oldest queued execution has waited; 0 when none is queued.",
            measures["queue_oldest_s"] or 0,
        )
        yield _histogram(
            "vpt_dispatch_latency_seconds",
            "From when an execution is queued to the start of its attempt.",
            (),
            {(): lab.tally.dispatched},
        )
        yield _histogram(
            "vpt_step_duration_seconds",
            "From sending a step to its answer.",
            ("status",),
            lab.tally.steps.by_labels,
        )

    def _hosts(self) -> Iterator[Metric]:
        lab = self._app[LAB]
        views = lab.views()
        hosts: Counter[str] = Counter(view.status for view in views)
        items = [item for view in views for item in view.devices]
        devices: Counter[str] = Counter(item.status for item in items)
        reasons: Counter[str] = Counter(item.reason for item in items if item.reason)
        troubles: Counter[str] = Counter(view.trouble.kind for view in views if view.trouble)
        yield _gauge("vpt_hosts", "Registered hosts.", "status", _each(HostStatus, hosts))
        yield _gauge("vpt_devices", "Devices of hosts.", "status", _each(DeviceStatus, devices))
        yield _gauge(
            "vpt_devices_without_runs",
            "Devices that get no runs for a reason of their own.",
            "reason",
            _each(DeviceReason, reasons),
        )
        yield _gauge(
            "vpt_hosts_in_trouble",
            "Hosts that cannot be reached.",
            "kind",
            _each(TroubleKind, troubles),
        )
        yield _histogram(
            "vpt_probe_duration_seconds",
            "How long answered probes took.",
            (),
            {(): lab.tally.probes},
        )
        yield CounterMetricFamily(
            "vpt_probes_missed", "Probes that hosts did not answer.", lab.tally.probes_missed
        )

    def _server(self) -> Iterator[Metric]:
        lab, pulse = self._app[LAB], self._app[PULSE]
        yield GaugeMetricFamily(
            "vpt_actor_inbox_messages",
            "Messages waiting in all inboxes.",
            lab.measures()["inbox_depth"],
        )
        yield CounterMetricFamily(
            "vpt_actor_restarts", "Restarts of host actors after a crash.", lab.tally.restarts
        )
        yield _counter(
            "vpt_background_failures",
            "Calls of background tasks that failed.",
            "task",
            failures,
        )
        yield GaugeMetricFamily(
            "vpt_event_loop_lag_seconds", "How late the event loop woke last.", pulse.lags[-1]
        )
        yield GaugeMetricFamily(
            "vpt_event_loop_lag_worst_seconds",
            "How late the event loop woke at worst in the last minute.",
            max(pulse.lags),
        )
        used, idle, limit = self._app[DB].use
        yield _gauge(
            "vpt_database_connections",
            "Open connections to the database.",
            "state",
            {"used": used, "idle": idle},
        )
        yield GaugeMetricFamily(
            "vpt_database_connections_limit",
            "The largest number of connections that may be open.",
            limit,
        )
        load = self._app[DB].load
        yield GaugeMetricFamily(
            "vpt_database_waiting", "Statements that wait for a free connection.", load.waiting
        )
        yield CounterMetricFamily(
            "vpt_database_pool_full", "Statements that got no connection in time.", load.refused
        )
        yield GaugeMetricFamily(
            "vpt_socketio_clients", "Connected Socket.IO clients.", len(self._app[SOCKETS].clients)
        )
        yield CounterMetricFamily(
            "vpt_unread_answers",
            "Connections that were ended because their client did not read the answer.",
            self._app[UNREAD].ended,
        )
        yield GaugeMetricFamily(
            "vpt_disk_free_ratio",
            "How much of the data folder's disk is free, 0 to 1.",
            lab.disk.room.share if lab.disk.room else math.nan,
        )

    def _connections(self) -> Iterator[Metric]:
        connections = self._app[CONNECTIONS]
        yield GaugeMetricFamily("vpt_connections", "Open connections of clients.", len(connections))
        yield GaugeMetricFamily(
            "vpt_connections_limit",
            "The largest number of connections of clients.",
            connections.limits.total,
        )
        yield _counter(
            "vpt_connections_refused",
            "Connections of clients that were refused.",
            "reason",
            {reason: connections.refused[reason] for reason in REFUSALS},
        )
        yield CounterMetricFamily(
            "vpt_connections_closed",
            "Silent connections of clients that were closed to make room.",
            connections.closed,
        )


def _each(statuses: Iterable[StrEnum], counted: Mapping[str, int]) -> dict[str, float]:
    return {status.value: counted.get(status, 0) for status in statuses}


def _gauge(name: str, about: str, label: str, values: _Labels) -> Metric:
    family = GaugeMetricFamily(name, about, labels=(label,))
    for value, number in values.items():
        family.add_metric((value,), number)
    return family


def _counter(name: str, about: str, label: str, values: _Labels) -> Metric:
    family = CounterMetricFamily(name, about, labels=(label,))
    for value, number in values.items():
        family.add_metric((value,), number)
    return family


def _histogram(
    name: str,
    about: str,
    labels: Sequence[str],
    spreads: Mapping[tuple[str | int, ...], Histogram],
) -> Metric:
    family = HistogramMetricFamily(name, about, labels=labels)
    for key, spread in spreads.items():
        buckets = [(_bound(bound), float(many)) for bound, many in spread.up_to()]
        family.add_metric(_texts(key), buckets, spread.sum)
    return family


def _bound(bound: float) -> str:
    return "+Inf" if bound == math.inf else repr(bound)


def _texts(key: tuple[str | int, ...]) -> list[str]:
    return [str(part) for part in key]
