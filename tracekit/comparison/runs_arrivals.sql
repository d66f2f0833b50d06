-- Ops by window of their submit, over the view `ops`; windows without an op are left out.
--
-- Parameters: $first_ns  submit of the first op; $window_ns
-- Columns: arrived BIGINT ops of a window; n BIGINT windows of that many
SELECT arrived, count(*) AS n
FROM (
    SELECT count(*) AS arrived FROM ops WHERE op <> 'hint' GROUP BY (t_submit - $first_ns::BIGINT) // $window_ns::BIGINT
)
GROUP BY arrived
