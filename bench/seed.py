"""The history of a lab, created in PostgreSQL: hosts, their samples, executions with steps.

As a command: `seed.py DSN [--hosts 200] [--days 30] [--raw-days 7] [--executions 0]`, on a migrated
database that has no hosts yet. What it makes is as a server would have left it: by age, one row
after another, with all indexes in place. `--executions` is a day's number.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
from typing import Any

import asyncpg

STEPS = 10


async def fill_hosts(connection: Any, hosts: int) -> None:
    """Store so many hosts with one device each, and the test cases that they run."""
    await connection.execute(_HOSTS, hosts)
    await connection.execute(_DEVICES)
    await connection.execute(_TEST_CASES, STEPS)


async def fill_samples(connection: Any, *, days: int = 30, raw_days: int = 7) -> None:
    """Store samples of all hosts for the last `raw_days`, with means, and before that hourly means.

    A host has a sample a minute: 295,000 rows a day of 200 hosts. One probe of 480 was missed.
    """
    await connection.execute("SELECT setseed(0.5)")
    await connection.execute(_HOURLY, days, raw_days)
    for day in range(raw_days, 0, -1):  # a statement each, so that none takes minutes
        await connection.execute(_RAW, day)
        for span in (10, 60):
            await connection.execute(_MEANS, day, span)
    await connection.execute("ANALYZE host_health, health_means")


async def fill_executions(
    connection: Any, *, a_day: int, days: int, until: float = 0, pruned: str = "nothing"
) -> None:
    """Store `a_day` executions of ten steps for each of `days`, the last one `until` days ago.

    A tenth fails at its last step, one of 50 meets infrastructure and has two attempts; two of
    the ten steps have a screenshot, whose file is not made. A third of all belongs to campaigns.
    `pruned` is what has gone of them by now.
    """
    await connection.execute("SELECT setseed(0.5)")
    await connection.execute(_CAMPAIGN)
    now = await connection.fetchval("SELECT now()")
    for day in range(days, 0, -1):
        since = now - dt.timedelta(days=until + day)
        await connection.execute(_CAMPAIGNS, since, a_day)
        await connection.execute(_EXECUTIONS, since, a_day, pruned)
        await connection.execute(_RESULTS, since, a_day)
        await connection.execute(_ATTEMPTS, since, a_day)
        if pruned != "steps":
            await connection.execute(_STEPS, since, a_day, pruned)
    await connection.execute("ANALYZE")


_HOSTS = """
INSERT INTO hosts (id, host_url, dialect, credential, capabilities, status, last_seen)
SELECT 'lab-' || to_char(n, 'FM000'), 'http://lab-' || n, 'document', 'join', '{android}',
    'available', now()
FROM generate_series(1, $1::int) AS n
"""
_DEVICES = """
INSERT INTO devices (id, host_id, local_id, name, model, declared, status, last_seen)
SELECT id || ':d1', id, 'd1', 'Device of ' || id, 'pixel', true, 'online', now()
FROM hosts
"""
_TEST_CASES = """
INSERT INTO test_cases (id, name, device_model, steps)
SELECT 'case-' || n, 'Zapping test ' || n, 'pixel', (
    SELECT json_agg(json_build_object(
        'command', 'press_key', 'action_type', 'remote',
        'params', json_build_object('key', 'KEY_' || step, 'wait_time', 0)))
    FROM generate_series(1, $1::int) AS step)
FROM generate_series(1, 50) AS n
"""

_HOURLY = """
INSERT INTO health_means (host_id, span, at, ok, probes, answered, response_ms, cpu_percent,
    memory_percent, disk_percent, temperature, load_1m)
SELECT id, 60, hour, missed = 0, 360, 360 - missed, 5 + 10 * random(), 100 * random(),
    40 + 20 * random(), 50 + random(), 50 + 10 * random(), 4 * random()
FROM generate_series(
        date_trunc('hour', now() - make_interval(days => $1::int), 'UTC'),
        date_trunc('hour', now() - make_interval(days => $2::int), 'UTC') - interval '1 hour',
        interval '1 hour') AS hour
CROSS JOIN hosts
CROSS JOIN LATERAL (SELECT abs(hashtext(id || hour)) % 3 AS missed) AS luck
"""
# Each minute has a sample of each host; one minute in 80 has a missed probe, too, and then the
# next one, ten seconds later.
_RAW = """
INSERT INTO host_health (host_id, recorded_at, ok, probes, response_ms, cpu_percent, memory_percent,
    disk_percent, temperature, load_1m)
SELECT id, at + number % 40 * interval '1 second' + nth * interval '10 seconds', nth <> 1,
    CASE nth WHEN 0 THEN 6 ELSE 1 END, CASE WHEN nth <> 1 THEN 5 + 10 * random() END,
    CASE nth WHEN 0 THEN 100 * random() END, CASE nth WHEN 0 THEN 40 + 20 * random() END,
    CASE nth WHEN 0 THEN 50 + random() END, CASE nth WHEN 0 THEN 50 + 10 * random() END,
    CASE nth WHEN 0 THEN 4 * random() END
FROM generate_series(
        date_trunc('hour', now() - make_interval(days => $1::int), 'UTC'),
        CASE WHEN $1 = 1 THEN now()
            ELSE date_trunc('hour', now() - make_interval(days => $1 - 1), 'UTC')
        END - interval '1 minute',
        interval '1 minute') AS at
CROSS JOIN (SELECT id, row_number() OVER (ORDER BY id) AS number FROM hosts) AS host
CROSS JOIN generate_series(0, 2) AS nth
WHERE nth = 0 OR abs(hashtext(id || at)) % 80 = 0
"""
_MEANS = """
INSERT INTO health_means (host_id, span, at, ok, probes, answered, response_ms, cpu_percent,
    memory_percent, disk_percent, temperature, load_1m)
SELECT host_id, span, at, ok, probes, answered, response_ms, cpu_percent, memory_percent,
    disk_percent, temperature, load_1m
FROM means_of_health(
    date_trunc('hour', now() - make_interval(days => $1::int), 'UTC'),
    date_trunc('hour', now() - make_interval(days => $1 - 1), 'UTC'), $2)
"""

_CAMPAIGN = "INSERT INTO campaigns (id, name) VALUES ('nightly', 'Nightly') ON CONFLICT DO NOTHING"
# Ids are as a server makes them: random, so that the indexes are as large as they would be.
_CAMPAIGNS = """
INSERT INTO campaign_executions (id, campaign_id, name, stop_on_failure, parallelism, priority,
    requested_by, status, total, seq, created_at, started_at, completed_at)
SELECT replace(gen_random_uuid()::text, '-', ''), 'nightly', 'Nightly', false, 10, 50, 'ann',
    'completed', 100, 101, at, at, at + interval '1 hour'
FROM generate_series(0, greatest($2::int / 300, 1) - 1) AS n
CROSS JOIN LATERAL (
    SELECT $1::timestamptz + n * interval '1 day' / greatest($2 / 300, 1) AS at) AS moment
"""
_EXECUTIONS = """
WITH device AS (
    SELECT id, host_id, row_number() OVER (ORDER BY id) - 1 AS number, count(*) OVER () AS of
    FROM devices
), campaign AS (
    SELECT id, row_number() OVER (ORDER BY created_at) - 1 AS number, count(*) OVER () AS of
    FROM campaign_executions
    WHERE created_at >= $1::timestamptz AND created_at < $1 + interval '1 day'
), run AS (
    SELECT n, random() AS luck, $1::timestamptz + n * interval '1 day' / $2::int AS at
    FROM generate_series(0, $2 - 1) AS n
)
INSERT INTO test_executions (id, test_case_id, test_case_name, test_case_version, device_model,
    steps, actions, queue_timeout_s, requested_by, campaign_execution_id, status, error_kind, error,
    attempt, infra_failures, test_failures, host_id, device_id, seq, created_at, queued_at,
    started_at, completed_at, end_step, results, pruned)
SELECT replace(gen_random_uuid()::text, '-', ''), c.id, c.name, 1, c.device_model, c.steps,
    array_fill('press_key'::text, ARRAY[json_array_length(c.steps)]), 3600, 'ann', campaign.id,
    CASE WHEN luck < 0.02 THEN 'error' WHEN luck < 0.12 THEN 'failed' ELSE 'completed' END,
    CASE WHEN luck < 0.02 THEN 'host_lost' END, CASE WHEN luck < 0.12 THEN 'no such picture' END,
    CASE WHEN luck < 0.02 THEN 2 ELSE 1 END, CASE WHEN luck < 0.02 THEN 2 ELSE 0 END,
    CASE WHEN luck BETWEEN 0.02 AND 0.12 THEN 1 ELSE 0 END, device.host_id, device.id,
    CASE WHEN luck < 0.02 THEN 23 ELSE 12 END, at, at, at + interval '2 seconds',
    at + interval '2 minutes', 10,
    '{"total_steps": 10, "passed": 9, "failed": 0, "attempts": 1}', $3
FROM run
JOIN device ON device.number = run.n % device.of
JOIN test_cases c ON c.id = 'case-' || run.n % 50 + 1
LEFT JOIN campaign ON run.n % 3 = 0 AND campaign.number = run.n / 3 % campaign.of
ORDER BY at
"""
_OF_THAT_DAY = "e.created_at >= $1 AND e.created_at < $1 + interval '1 day' AND $2::int > 0"
_RESULTS = f"""
INSERT INTO campaign_results (campaign_execution_id, position, test_case_id, request, execution_id)
SELECT e.campaign_execution_id,
    row_number() OVER (PARTITION BY e.campaign_execution_id ORDER BY e.created_at) - 1,
    e.test_case_id, jsonb_build_object('test_case_name', e.test_case_name, 'steps', e.steps), e.id
FROM test_executions e
WHERE e.campaign_execution_id IS NOT NULL AND {_OF_THAT_DAY}
"""
_ATTEMPTS = f"""
INSERT INTO execution_attempts (execution_id, attempt, host_id, device_id, status, error_kind, seq,
    started_at, completed_at, released_at)
SELECT e.id, n, e.host_id, e.device_id, e.status, e.error_kind, 1 + (n - 1) * 11, e.started_at,
    e.completed_at, e.completed_at
FROM test_executions e
CROSS JOIN generate_series(1, e.attempt) AS n
WHERE {_OF_THAT_DAY}
"""
_STEPS = f"""
INSERT INTO execution_steps (execution_id, attempt, step, action, status, started_at, finished_at,
    duration_ms, output, screenshot, seq)
SELECT e.id, a.attempt, n, 'press_key',
    CASE WHEN n < 10 OR a.status = 'completed' THEN 'passed' ELSE a.status END,
    a.started_at + n * interval '10 seconds', a.started_at + (n + 1) * interval '10 seconds',
    10000 * random(), 'pressed, and the picture was as expected after ' || random() || ' s',
    CASE WHEN n % 5 = 0 AND $3::text = 'nothing' THEN 'png' END, a.seq + n
FROM test_executions e
JOIN execution_attempts a ON a.execution_id = e.id
CROSS JOIN generate_series(1, 10) AS n
WHERE {_OF_THAT_DAY}
"""


async def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dsn")
    parser.add_argument("--hosts", type=int, default=200)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--raw-days", type=int, default=7)
    parser.add_argument("--executions", type=int, default=0)
    options = parser.parse_args()
    connection = await asyncpg.connect(options.dsn)
    try:
        await fill_hosts(connection, options.hosts)
        await fill_samples(connection, days=options.days, raw_days=options.raw_days)
        if options.executions:
            await fill_executions(connection, a_day=options.executions, days=options.days)
    finally:
        await connection.close()


if __name__ == "__main__":
    asyncio.run(_main())
