-- Where the time of a replay's ops went: one row over its view `ops`.
--
-- After its due time, an op may wait for a free worker (backlog), for the worker to wake up
-- (wake), for changes of its object (dependency) and for the in-flight cap (gate); then it is
-- submitted, and ends. Service time is what
-- the storage took (submit to end). Response time counts from the due time, so that a stall
-- shows in every op that it delayed (no coordinated omission: G. Tene, 2013).
-- Lateness (submit - due) is backlog + wake + dependency + gate; client delay is backlog + wake.
-- Needs the macro `percentile(values, share)`.
-- All in ns; null where the ops have no due time.
--
-- Columns: ops
--          service_p50_ns, service_p99_ns, service_max_ns, service_sum_ns
--          response_p50_ns, response_p99_ns, response_max_ns
--          lateness_p50_ns, lateness_p99_ns, lateness_max_ns
--          gate_p50_ns, gate_p99_ns, gate_max_ns, gate_sum_ns
--          dependency_p50_ns, dependency_p99_ns, dependency_max_ns, dependency_sum_ns
--          client_p50_ns, client_p99_ns, client_max_ns
--          backlog_sum_ns, wake_sum_ns
--          drift        DOUBLE  (submit span - due span) / due span: how much the replay as a whole ran slow
WITH parts AS (
    SELECT
        latency AS service,
        t_submit + latency - t_due AS response,
        t_submit - t_due AS lateness,
        gate_wait AS gate,
        backlog,
        dependency,
        t_submit - t_due - gate_wait - dependency AS client,
        t_submit,
        t_due
    FROM ops
    WHERE op <> 'hint'
)
SELECT
    count(*) AS ops,
    percentile(service, 0.5) AS service_p50_ns,
    percentile(service, 0.99) AS service_p99_ns,
    max(service) AS service_max_ns,
    sum(service)::BIGINT AS service_sum_ns,
    percentile(response, 0.5) AS response_p50_ns,
    percentile(response, 0.99) AS response_p99_ns,
    max(response) AS response_max_ns,
    percentile(lateness, 0.5) AS lateness_p50_ns,
    percentile(lateness, 0.99) AS lateness_p99_ns,
    max(lateness) AS lateness_max_ns,
    percentile(gate, 0.5) AS gate_p50_ns,
    percentile(gate, 0.99) AS gate_p99_ns,
    max(gate) AS gate_max_ns,
    sum(gate)::BIGINT AS gate_sum_ns,
    percentile(dependency, 0.5) AS dependency_p50_ns,
    percentile(dependency, 0.99) AS dependency_p99_ns,
    max(dependency) AS dependency_max_ns,
    sum(dependency)::BIGINT AS dependency_sum_ns,
    percentile(client, 0.5) AS client_p50_ns,
    percentile(client, 0.99) AS client_p99_ns,
    max(client) AS client_max_ns,
    sum(CASE WHEN t_due IS NOT NULL THEN backlog END)::BIGINT AS backlog_sum_ns,
    sum(client - backlog)::BIGINT AS wake_sum_ns,
    ((max(t_submit) - min(t_submit)) - (max(t_due) - min(t_due))) / nullif(max(t_due) - min(t_due), 0) AS drift
FROM parts
