-- The longest stretches in which nothing was in flight, over the macro `idle_gaps`.
--
-- Parameter: $most  number of rows at most
-- Columns: at_ns BIGINT since the first submit; idle_ns BIGINT; run_share DOUBLE of the run; between VARCHAR what it lies
--          between; before_uri VARCHAR of the op that ended last; after_uri VARCHAR of the next
SELECT
    begin_ns AS at_ns,
    idle_ns,
    idle_ns / span_ns AS run_share,
    CASE
        WHEN after_op IS NULL THEN 'the last end and the end of the run'
        WHEN before_step = after_step THEN 'two ops of step ' || before_step
        WHEN before_step IS NOT NULL AND after_step IS NOT NULL THEN 'step ' || before_step || ' and step ' || after_step
        WHEN after_step IS NOT NULL THEN 'a ' || before_op || ' and step ' || after_step
        WHEN before_step IS NOT NULL THEN 'step ' || before_step || ' and a ' || after_op
        ELSE 'a ' || before_op || ' and a ' || after_op
    END AS "between",
    before_uri,
    after_uri
FROM idle_gaps(), run_extent()
ORDER BY idle_ns DESC, at_ns
LIMIT $most::BIGINT
